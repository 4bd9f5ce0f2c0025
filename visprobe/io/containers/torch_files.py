"""Tensors in files of `torch.save`: `pytorch_model.bin`, its shards, `mm_projector.bin`, any `.pt` or `.pth`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.tensors import NAME_OF_DTYPE, TensorEntry, Tensors, check_promise, read_index
from visprobe.io.containers.torch_archive import ZIP_MAGIC, TorchArchive, View
from visprobe.io.regular import DAMAGED

SINGLE_FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"
_WRAPPERS = ("state_dict", "model", "module")
_BEFORE_ZIP = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files of torch.save before 1.6


class NoTensors(CheckpointError):
    """Error for a file of torch.save that holds no weights."""


class TorchTensors(Tensors):
    """Tensors in files of `torch.save`.

    Args:
        folder: Folder of the files.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__(str(folder))
        self.notes = folder.notes
        self._folder = folder
        self._views: dict[str, tuple[TorchArchive, View]] = {}

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        wanted: dict[TorchArchive, dict[str, View]] = {}
        for entry in entries:
            archive, view = self._views[entry.name]
            wanted.setdefault(archive, {})[entry.name] = view
        tensors: dict[str, torch.Tensor] = {}
        for archive, views in wanted.items():
            before = archive.bytes_read
            tensors |= archive.read(views)
            self.bytes_read += archive.bytes_read - before
        return tensors

    def _open(self, name: str) -> TorchArchive:
        file = self._folder.open(name)
        magic = bytes(file.read([(0, min(len(_BEFORE_ZIP), file.size))])[0])
        if magic == _BEFORE_ZIP:
            raise CheckpointError(
                f"{file} is in the format that torch.save wrote before torch 1.6",
                hint="Convert it once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE).",
            )
        if not magic.startswith(ZIP_MAGIC):
            raise CheckpointError(f"{file} is not a file of torch.save", hint=DAMAGED)
        archive = TorchArchive(file)
        self.bytes_read += archive.bytes_read
        if not archive.has_checksums:
            self.notes.append(f"{name} has no checksums: damage of its weights would not be seen.")
        return archive

    def _add(self, name: str, archive: TorchArchive, views: Mapping[str, View]) -> None:
        for tensor, view in views.items():
            dtype = NAME_OF_DTYPE.get(view.dtype, str(view.dtype))
            self._entries[tensor] = TensorEntry(tensor, dtype, view.shape, view.nbytes, f"{self._folder}/{name}")
            self._views[tensor] = archive, view


class TorchFiles(TorchTensors):
    """Tensors of one file of `torch.save`, or of the shards that an index names.

    The state dict is the saved object itself, or lies in it under "state_dict", "model" or "module"; anything but
    tensors is ignored.

    Args:
        folder: Folder of the files.
        file: Single file or index (`*.index.json`).

    Raises:
        CheckpointError: If a file is damaged or incomplete, has no tensors, or needs a class that is not safe to load.
    """

    container = "bin"

    def __init__(self, folder: Folder, file: str = SINGLE_FILE) -> None:
        super().__init__(folder)
        if file.endswith(".index.json"):
            shards, self.bytes_read = read_index(folder, file)
            for shard, listed in shards.items():
                self._add_file(shard, file, listed)
        else:
            self._add_file(file)

    def _add_file(self, file: str, index: str = "", listed: Collection[str] | None = None) -> None:
        archive = self._open(file)
        tensors = state_dict(archive.root, f"{self._folder}/{file}")
        if listed is not None:
            check_promise(index, file, listed, tensors)
            tensors = {name: tensors[name] for name in listed}
        self._add(file, archive, tensors)


def state_dict(root: Any, where: str) -> dict[str, View]:
    """Return the tensors of a saved object by name.

    Args:
        root: Object that was saved.
        where: File name for messages.

    Returns:
        The tensors under "state_dict", "model" or "module" if there are any, else those of the object itself.

    Raises:
        NoTensors: If there are none.
        CheckpointError: If there are several dictionaries of weights.
    """
    if isinstance(root, Mapping):
        for state in (*(root.get(key) for key in _WRAPPERS), root):
            if tensors := tensors_of(state):
                return tensors
        if parts := [key for key, value in root.items() if any(name.endswith(".weight") for name in tensors_of(value))]:
            raise CheckpointError(
                f"{where} holds its weights in parts: {', '.join(map(str, parts))}",
                hint="Save them as one dictionary, by their names in the model, with torch.save or as safetensors.",
            )
    raise NoTensors(
        f"{where} holds no tensors by name",
        hint="Save the model's state_dict() with torch.save or as safetensors.",
    )


def tensors_of(value: Any) -> dict[str, View]:
    """Return the tensors in a dictionary; none if `value` is something else."""
    if not isinstance(value, Mapping):
        return {}
    return {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, View)}
