"""Where the value of each option of a command came from."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import typer

_NAMES = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def origins(context: typer.Context) -> dict[str, dict[str, Any]]:
    """Every option of the command that is called: "value" as plain JSON, and "origin".

    Args:
        context: The command.

    Returns:
        By the name of the option in Python; an origin is "command line", "environment", "file NAME" or "default".
    """
    file = context.params.get("config")
    found = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        origin = _NAMES.get(source.name if source else "DEFAULT", "default")
        found[name] = {"value": _plain(value), "origin": f"file {file}" if origin == "file" else origin}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
