"""An opened checkpoint: its small files, its tensors by name, and nothing read of them yet."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from visprobe.encoders.quiet import quiet
from visprobe.errors import CheckpointError
from visprobe.io.containers import open_tensors
from visprobe.io.folder import LocalFolder
from visprobe.io.tensors import Tensors


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is open.

    Attributes:
        spec: What the user named.
        folder: Where its small files (`*.json`) lie.
        tensors: Its tensors.
        notes: What a reader should know about how it was opened.
    """

    spec: str
    folder: Path
    tensors: Tensors
    notes: list[str] = field(default_factory=list)

    @cached_property
    def raw(self) -> dict[str, Any]:
        """config.json as it stands.

        Raises:
            CheckpointError: If it is missing or damaged.
        """
        return read_config(self.folder)

    @cached_property
    def config(self) -> Any:
        """The configuration as transformers understands it.

        Raises:
            CheckpointError: If transformers does not.
        """
        return library_config(self.folder)


def open_checkpoint(spec: str | Path) -> Checkpoint:
    """Open the checkpoint `spec`: a folder on this machine.

    Raises:
        CheckpointError: If there is none, or it is damaged.
    """
    folder = LocalFolder(Path(spec))
    return Checkpoint(str(spec), folder.path, open_tensors(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        CheckpointError: If it is missing or damaged.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no config.json", hint=_missing_config(folder)) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}", hint="Copy it again from the checkpoint.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a configuration", hint="Copy it again from the checkpoint.")
    return config


def library_config(folder: Path) -> Any:
    """The configuration in `folder` as transformers understands it.

    Raises:
        CheckpointError: If transformers does not.
    """
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many types on a configuration it cannot build
        raise CheckpointError(
            f"transformers cannot read {folder / 'config.json'}: {error}".splitlines()[0],
            hint="Check the configuration, or use the version of transformers that wrote it.",
        ) from error


def _missing_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "This is a LoRA adapter: merge it into its base model and save that."
    return "Give the folder that holds config.json and the weights."
