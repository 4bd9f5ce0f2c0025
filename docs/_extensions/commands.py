"""Every command of `visprobe` with its options, as Markdown, from the program itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

from visprobe.cli.app import EXIT_CODES, app
from visprobe.cli.config_file import read_environment

_PLACEHOLDERS = {int: "N", float: "X", Path: "PATH"}


def markdown() -> str:
    """The page: one section a command, in the groups of `visprobe --help`."""
    root = get_command(app)
    read_environment(root)
    groups: dict[str, list[str]] = {}
    for name, panel, command in _commands(root, "visprobe", ""):
        groups.setdefault(panel, []).extend(_section(name, command))
    lines = [line for panel, sections in groups.items() for line in (f"## {panel}", "", *sections)]
    return "\n".join([*lines, "## Exit codes", "", *(f"- `{code}`: {why}" for code, why in EXIT_CODES.items()), ""])


def names() -> list[str]:
    """The full name of every command that does something, "visprobe train sft" among them."""
    return [name for name, _, _ in _commands(get_command(app), "visprobe", "")]


def _commands(group: Any, before: str, panel: str) -> Iterator[tuple[str, str, Any]]:
    for name, command in group.commands.items():
        where = panel or command.rich_help_panel
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before} {name}", where)
        elif not command.hidden:
            yield f"{before} {name}", where, command


def _section(name: str, command: Any) -> list[str]:
    lines = [f"### {name}", ""]
    examples = []
    for paragraph in _plain(command.help).split("\n\n"):
        if paragraph.startswith("Example: "):
            examples.append(paragraph.removeprefix("Example: "))
        else:
            lines += [" ".join(paragraph.split()), ""]
    if examples:
        lines += ["```", *examples, "```", ""]
    panels: dict[str, list[str]] = {"": []}  # arguments and the command's own options first
    for parameter in sorted(command.params, key=lambda parameter: parameter.param_type_name):
        if not parameter.hidden:
            panel = panels.setdefault(parameter.rich_help_panel or "", [])
            panel += [_spelling(parameter), f": {_meaning(parameter)}", ""]
    for panel, entries in panels.items():
        lines += [f"**{panel}**", "", *entries] if panel else entries
    return lines


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}{'…' if parameter.nargs != 1 else ''}`"
    spelled = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    return spelled if parameter.is_flag else f"{spelled} {_placeholder(parameter)}"


def _placeholder(parameter: Any) -> str:
    annotation = parameter.type_descriptor.annotation
    kinds = [annotation, *get_args(annotation)]
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    return "|".join(choices) or next((word for kind, word in _PLACEHOLDERS.items() if kind in kinds), "TEXT")


def _meaning(parameter: Any) -> str:
    said = [_escaped(_plain(parameter.help or ""))]
    if parameter.required:
        said.append("Required.")
    if parameter.multiple and "repeat" not in said[0]:
        said.append("Repeatable.")
    if default := _default(parameter):
        said.append(f"Default: `{default}`.")
    if parameter.envvar:
        said.append(f"Environment: `{parameter.envvar}`.")
    return " ".join(said)


def _default(parameter: Any) -> str:
    default = parameter.default
    if default is None or callable(default) or default == []:
        return ""
    if parameter.param_type_name == "option" and parameter.is_flag:
        return (parameter.opts if default else parameter.secondary_opts)[0] if parameter.secondary_opts else ""
    return str(default)


def _plain(text: str) -> str:
    """Help without the escapes that the terminal needs."""
    return text.replace("\\[", "[").strip()


def _escaped(text: str) -> str:
    return re.sub(r"([<>*_\[\]])", r"\\\1", text)
