"""What mkdocs calls: pages made from the code, pages brought in, their links."""

from __future__ import annotations

from typing import Any

import api_pages
import command_pages
import data_pages
import habits  # noqa: F401 - griffe loads docstrings.py later, which looks for it
import links
import notebook
import offline
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from paths import CARDS, ROOT, brought_in, bundles, title_of

_ORIGINS = {there: here for here, there in brought_in().items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation: model cards, and the reference from the code."""
    nav: Any = config.nav
    for section in nav:
        for title, entries in section.items():
            if title == "Model cards":
                entries += [{_card_title(name): f"{CARDS}/{name}.md"} for name in bundles()]
            if title == "Reference":
                entries.append({"Python": [api_pages.nav(module) for module in api_pages.tree()]})
    return config


def _card_title(bundle: str) -> str:
    text = (ROOT / "bundles" / bundle / "docs" / "README.md").read_text(encoding="utf-8")
    return title_of(text, bundle)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    made = {
        "reference/cli.md": command_pages.markdown(),
        "reference/schemas.md": data_pages.schemas_markdown(),
        "reference/presets.md": data_pages.presets_markdown(),
    }
    made |= {one.page: api_pages.markdown(one) for one in api_pages.flat(api_pages.tree())}
    for here, there in brought_in().items():
        text = (ROOT / here).read_bytes()
        made[there] = notebook.to_markdown(text.decode()) if here.endswith(".ipynb") else text
    for there, content in made.items():
        files.append(File.generated(config, there, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Point links at pages of the site."""
    uri = page.file.src_uri
    table = {f"docs/{file.src_uri}": file.src_uri for file in files if file.src_uri not in _ORIGINS}
    table |= brought_in() | api_pages.sources() | data_pages.sources()
    table["common/cli.py"] = "reference/cli.md"
    origin = _ORIGINS.get(uri, f"docs/{uri}")
    return links.rewrite(markdown, origin, uri, table, lambda path: (ROOT / path).exists())


def on_post_page(output: str, *, page: Page, **_: Any) -> str:
    """Refuse what a page would load from a network."""
    return offline.without_network(output, page.url)


def on_post_template(output: str, *, template_name: str, **_: Any) -> str:
    """Refuse it in pages without a source too, such as 404.html."""
    is_page = template_name.endswith(".html")
    return offline.without_network(output, template_name) if is_page else output
