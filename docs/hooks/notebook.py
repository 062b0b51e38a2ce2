"""The notebook as a page: its text and its code, not run (the tests run it)."""

from __future__ import annotations

import json


def to_markdown(content: str) -> str:
    """Turn a notebook without outputs into Markdown.

    Args:
        content: the .ipynb file.
    """
    parts = []
    for cell in json.loads(content)["cells"]:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"
