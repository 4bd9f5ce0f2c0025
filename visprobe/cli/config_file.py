"""`--config FILE`: options of a command from a YAML file, all of its faults named at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from visprobe.errors import UsageError, VisprobeError

_NOT_HERE = ("config", "help", "json")  # errors in --config itself have to know about --json


def read_config(context: typer.Context, value: Path | None) -> Path | None:
    """Let the options in the file `value` stand for those that the command line and the environment leave open.

    Args:
        context: The command that is called; its defaults are changed.
        value: The file, or None.

    Raises:
        UsageError: If the file is not there, is no mapping, names unknown options, or gives values that they cannot
            take; all of that in one message.
    """
    if value is None:
        return None
    given, known = _mapping(value), _options(context)
    faults, found = [], dict[str, Any]()
    for key, setting in given.items():
        parameter, inverse = known.get(str(key).replace("-", "_"), (None, False))
        if parameter is None:
            near = difflib.get_close_matches(str(key).replace("-", "_"), known, 1)
            faults.append(f"{key} is unknown" + (f" (did you mean {near[0]}?)" if near else ""))
        elif parameter.name in found:
            faults.append(f"{key} is given twice")
        else:
            setting = not setting if inverse and isinstance(setting, bool) else setting
            found[parameter.name] = _shaped(setting, parameter)
            faults += _fault(context, parameter, str(key), found[parameter.name])
    if faults:
        raise UsageError(
            f"--config {value} has {len(faults)} fault{'s' if len(faults) > 1 else ''}: {'; '.join(faults)}",
            hint=f"Options are named as in {context.command_path} --help.",
        )
    context.default_map = {**(context.default_map or {}), **found}
    return value


def _mapping(file: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        value = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UsageError(f"--config {file} cannot be read: {problem}", hint="Name a YAML file.") from None
    if not isinstance(value, Mapping):
        raise UsageError(f"--config {file} holds no options", hint="Write one per line, as in 'limit: 500'.")
    return value


def _options(context: typer.Context) -> dict[str, tuple[Any, bool]]:
    """From long names with underscores to options or arguments, and whether the name switches one off."""
    return {
        name.lstrip("-").replace("-", "_").lower(): (parameter, name in parameter.secondary_opts)
        for parameter in context.command.params
        for name in ([*parameter.opts, *parameter.secondary_opts] or [parameter.name])
        if len(name.lstrip("-")) > 1 and parameter.name not in _NOT_HERE
    }


def _shaped(setting: Any, parameter: Any) -> Any:
    """A value as the command line would give it: text, several texts, or a switch."""
    if setting is None or isinstance(setting, bool):
        return setting
    texts = [str(one) for one in (setting if isinstance(setting, list) else [setting])]
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    return texts if several else ",".join(texts)


def _fault(context: typer.Context, parameter: Any, key: str, setting: Any) -> list[str]:
    if setting in (None, "", []):
        return [f"{key} has no value"]
    try:
        parameter.process_value(context, setting)
    except VisprobeError as error:
        return [f"{key}: {error.message}"]
    except (TyperException, TypeError, ValueError) as error:
        return [f"{key}: {getattr(error, 'message', error)}"]
    return []
