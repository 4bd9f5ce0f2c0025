"""Common options from the environment: VISPROBE_DEVICE=cuda for --device cuda, in every command that measures."""

from __future__ import annotations

import os

from typer.core import TyperGroup

# Only what belongs to a machine or a habit: what is asked stands in the command line.
COMMON = ("device", "dtype", "batch_size", "limit", "max_bad", "verbose")
_OWN_MEANING = ("train",)  # whose batches and precision belong to a recipe


def read_environment(group: TyperGroup) -> None:
    """Let the common options of all commands below `group` be given as environment variables.

    Args:
        group: The commands, as Typer built them; changed in place.
    """
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup) and name not in _OWN_MEANING:
            read_environment(command)
        for parameter in command.params:
            if parameter.name in COMMON and name not in _OWN_MEANING:
                parameter.envvar = variable(parameter.name)


def variable(name: str) -> str:
    """The environment variable of the option called `name` in Python."""
    return f"VISPROBE_{name.upper()}"


def assignments() -> list[str]:
    """The variables that are set, as a shell takes them before a command: "VISPROBE_DEVICE=cpu"."""
    return [f"{name}={os.environ[name]}" for name in map(variable, COMMON) if os.environ.get(name)]


def mention_env_var(message: str) -> str:
    """`message`, with the variable that is to blame where it refuses a value that a variable gives to an option."""
    for name in COMMON:
        value = os.environ.get(variable(name))
        if value and f"--{name.replace('_', '-')} " in message and value in message:
            return f"{message} ({variable(name)})"
    return message
