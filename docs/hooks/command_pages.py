"""The commands with their options, as the command itself knows them."""

from __future__ import annotations

from typing import Any

import typer

from common.cli import COMMANDS, INCOMPLETE, INTERRUPTED, USER_ERROR, app

_INTRO = f"""# The command medpair

`medpair --help` shows this in a terminal, `medpair COMMAND --help` one command.

| exit code | |
|---|---|
| 0 | done |
| {INCOMPLETE} | done but for some items, which standard error names; or a fault of medpair |
| {USER_ERROR} | wrong input: one line with the value seen, what is wanted, the repair |
| {INTERRUPTED} | interrupted |

The same command again goes on with a generation or a training that was interrupted.

"""


def group() -> Any:
    """Return the command with its commands."""
    return typer.main.get_command(app)


def markdown() -> str:
    """Return the page."""
    command = group()
    parts = [_INTRO, "## Options of all commands\n\n", _table(command)]
    for panel, entries in COMMANDS.items():
        parts.append(f"## {panel}\n\n")
        for function, example in entries:
            name = function.__name__.replace("_", "-")
            parts.append(_section(command.commands[name], name, example))
    return "".join(parts)


def _section(command: Any, name: str, example: str) -> str:
    words = " ".join(["medpair", name, *_usage(command)])
    about = (command.help or "").strip()
    shell = f"```\n{words}\n```\n\n    medpair {example}\n\n"
    return f"### {name}\n\n{about}\n\n{shell}{_table(command)}"


def _usage(command: Any) -> list[str]:
    words = ["[OPTIONS]"]
    for parameter in _shown(command):
        if parameter.param_type_name == "argument":
            word = (parameter.name or "").upper()
            words.append(word if parameter.required else f"[{word}]")
    return words


def _shown(command: Any) -> list[Any]:
    return [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]


def _table(command: Any) -> str:
    rows = [_row(parameter) for parameter in _shown(command)]
    if not rows:
        return ""
    return "| option | value | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    shown = ", ".join(f"`{name}`" for name in names)
    flag = getattr(parameter, "is_flag", False)
    value = "" if flag else _kind(parameter)
    return f"| {shown} | {value} | {_default(parameter, flag)} | {_cell(parameter.help or '')} |"


def _kind(parameter: Any) -> str:
    described = getattr(parameter, "type_descriptor", None)  # typer that brings its own click
    kind = described.annotation.__name__ if described else parameter.type.name
    names = {"str": "text", "int": "whole number", "float": "number", "Path": "path"}
    return names.get(kind, kind)


def _default(parameter: Any, flag: bool) -> str:
    if parameter.required:
        return "required"
    if flag:
        return f"`{parameter.opts[0]}`" if parameter.default else ""
    value = parameter.default
    return "" if value is None or callable(value) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
