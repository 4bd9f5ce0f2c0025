"""Option `--config FILE`: options of a command from a YAML file, with all faults named at once."""

from __future__ import annotations

import difflib
import os
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from visprobe.errors import UsageError, VisprobeError

_NOT_HERE = ("config", "help", "json")  # --json must be known before the file is read, for its errors
_SCALARS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp")}


def read_config(context: typer.Context, value: Path | None) -> Path | None:
    """Take from the file `value` the options that command line and environment do not set.

    Values are taken as they are written, as on a command line: a class may be called no, a folder 007.

    Args:
        context: Context of the command; its default map is changed.
        value: Path of the file, or None.

    Raises:
        UsageError: If the file is missing or is no mapping, or has unknown options, duplicates or invalid values; all
            of these in one message.
    """
    if value is None:
        return None
    entries, known = _entries(value), _options(context)
    faults, found, named = [], dict[str, Any](), dict[str, str]()
    for key, node in entries:
        parameter, inverse = known.get(key.replace("-", "_"), (None, False))
        if parameter is None:
            faults.append(_unknown(key, known))
        elif parameter.name in named:
            earlier = named[parameter.name]
            faults.append(f"{key} is given twice" if earlier == key else f"{earlier} and {key} are one option")
        else:
            named[parameter.name] = key
            given, fault = _setting(context, parameter, node, inverse)
            faults += [f"{key}{fault}"] if fault else []
            found |= {} if given is None else {parameter.name: given}
    if faults:
        raise UsageError(
            f"--config {value} has {len(faults)} fault{'s' if len(faults) > 1 else ''}: {'; '.join(faults)}",
            hint=f"Options are named as in {context.command_path} --help.",
        )
    context.default_map = {**(context.default_map or {}), **found}
    return value


def _entries(file: Path) -> list[tuple[str, Any]]:
    """Return the keys as they are written, with their YAML nodes."""
    import yaml

    from visprobe.io.regular import WRITTEN, read_regular
    from visprobe.io.yaml_text import composed

    try:
        root = composed(read_regular(file, WRITTEN))
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise UsageError(f"--config {file} cannot be read: {problem}", hint="Name a YAML file.") from None
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UsageError(f"--config {file} holds no options", hint="Write one per line, as in 'limit: 500'.")
    return [(key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping", node) for key, node in root.value]


def _options(context: typer.Context) -> dict[str, tuple[Any, bool]]:
    """Return by long name with underscores the option or argument, and True if the name switches it off."""
    return {
        name.lstrip("-").replace("-", "_").lower(): (parameter, name in parameter.secondary_opts)
        for parameter in context.command.params
        for name in ([*parameter.opts, *parameter.secondary_opts] or [parameter.name])
        if len(name.lstrip("-")) > 1 and parameter.name not in _NOT_HERE
    }


def _unknown(key: str, known: dict[str, tuple[Any, bool]]) -> str:
    if key in _NOT_HERE:
        return f"{key} is for the command line alone"
    near = difflib.get_close_matches(key.replace("-", "_").lower(), known, 1)
    return f"{key} is unknown" + (f" (did you mean {near[0]}?)" if near else "")


def _setting(context: typer.Context, parameter: Any, node: Any, inverse: bool) -> tuple[Any, str]:
    """Return a value as the command line would give it (or None), and its fault (or "")."""
    texts = [_text(one) for one in (node.value if node.id == "sequence" else [node])]
    if None in texts:
        return None, " is neither a value nor a list of values"
    if not all(texts) or not texts:
        return None, " has no value"
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    given = texts if several else ",".join(map(str, texts))
    try:
        meant = parameter.process_value(context, given)
    except VisprobeError as error:
        return None, f": {error.message}"
    except (TyperException, TypeError, ValueError, OSError) as error:
        return None, f": {getattr(error, 'message', error)}"
    if meant is False and parameter.default is None:  # "quiet: false" is not "verbose"
        return None, ""
    return (not meant if inverse else given), ""


def _text(node: Any) -> str | None:
    """Return a scalar as it is written, with ~/ expanded; "" for null, None for anything but a scalar."""
    if node.tag == "tag:yaml.org,2002:null":
        return ""
    if node.id != "scalar" or node.tag not in _SCALARS:
        return None
    text = str(node.value)
    return os.path.expanduser(text) if text.startswith("~/") else text


_NAMES = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file", "DEFAULT": "default"}


def origins(context: typer.Context) -> dict[str, dict[str, Any]]:
    """Return every option of the command: its "value" as plain JSON, and its "origin".

    Args:
        context: Context of the command.

    Returns:
        Options by their names in Python; an origin is "command line", "environment", "file NAME" or "default".
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


# Options that depend on machine or habit; those that change the question must be on the command line.
COMMON = ("device", "dtype", "batch_size", "limit", "max_bad", "verbose")
_OWN_MEANING = ("train",)  # its batch size and precision belong to a recipe


def read_environment(group: TyperGroup) -> None:
    """Let the common options of all commands below `group` be given as environment variables.

    Args:
        group: Commands as Typer built them; changed in place.
    """
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup) and name not in _OWN_MEANING:
            read_environment(command)
        for parameter in command.params:
            if parameter.name in COMMON and name not in _OWN_MEANING:
                parameter.envvar = variable(parameter.name)


def variable(name: str) -> str:
    """Return the environment variable of the option called `name` in Python."""
    return f"VISPROBE_{name.upper()}"


def assignments() -> list[str]:
    """Return the variables that are set, as a shell takes them before a command: "VISPROBE_DEVICE=cpu"."""
    return [f"{name}={os.environ[name]}" for name in map(variable, COMMON) if os.environ.get(name)]


def mention_env_var(message: str) -> str:
    """Add to `message` the environment variable that set the refused value, if one did."""
    for name in COMMON:
        value = os.environ.get(variable(name))
        if value and f"--{name.replace('_', '-')} " in message and value in message:
            return f"{message} ({variable(name)})"
    return message
