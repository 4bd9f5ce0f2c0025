"""Tensors of files of `torch.save`: `pytorch_model.bin`, its shards, `mm_projector.bin`, any `.pt` or `.pth`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from visprobe.errors import CheckpointError
from visprobe.io.folder import Folder
from visprobe.io.shard_index import check_promise, read_index
from visprobe.io.tensors import DAMAGED, NAME_OF_DTYPE, TensorEntry, Tensors
from visprobe.io.torch_archive import ZIP_MAGIC, TorchArchive, View

SINGLE_FILE = "pytorch_model.bin"
INDEX_FILE = "pytorch_model.bin.index.json"
_WRAPPERS = ("state_dict", "model", "module")
_UNSAFE = re.compile(r"GLOBAL ([\w.]+)")
_CONVERT = "If you trust its origin, load it once with weights_only=False and save its tensors as safetensors."


class TorchTensors(Tensors):
    """Tensors in files of `torch.save`, of whichever layout.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Folder) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._views: dict[str, tuple[TorchArchive, View]] = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def _load(self, entries: Sequence[TensorEntry]) -> dict[str, torch.Tensor]:
        tensors = {e.name: self._loaded[e.name].clone() for e in entries if e.name in self._loaded}
        wanted: dict[TorchArchive, dict[str, View]] = {}
        for name in (entry.name for entry in entries if entry.name in self._views):
            archive, view = self._views[name]
            wanted.setdefault(archive, {})[name] = view
        for archive, views in wanted.items():
            before = archive.bytes_read
            tensors |= archive.read(views)
            self.bytes_read += archive.bytes_read - before
        return tensors

    def _open(self, file: str) -> tuple[TorchArchive | None, Any]:
        """The archive of `file` if it is one, and what was saved in it."""
        source = self._folder.open(file)
        if bytes(source.read([(0, min(4, source.size))])[0]) != ZIP_MAGIC:
            self.bytes_read += source.size
            self.notes.append(f"{file} is in torch's format before 1.6: it was read whole, and it has no checksums.")
            return None, _load_legacy(self._folder, file)
        archive = TorchArchive(source)
        self.bytes_read += archive.bytes_read
        if not archive.has_checksums:
            self.notes.append(f"{file} was saved without checksums.")
        return archive, archive.root

    def _add(self, file: str, archive: TorchArchive | None, tensors: Mapping[str, View | torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            dtype = NAME_OF_DTYPE.get(tensor.dtype, str(tensor.dtype))
            shape = tuple(tensor.shape)
            self._entries[name] = TensorEntry(name, dtype, shape, tensor.nbytes, f"{self._folder}/{file}")
            if archive is not None and isinstance(tensor, View):
                self._views[name] = archive, tensor
            elif isinstance(tensor, torch.Tensor):
                self._loaded[name] = tensor.detach().contiguous()


class TorchFiles(TorchTensors):
    """The tensors of one file of `torch.save`, or of the shards that an index names.

    The state dict is the saved object itself, or lies in it under "state_dict", "model" or "module"; anything but
    tensors is ignored.

    Args:
        folder: Where the files lie.
        file: A single file or an index (`*.index.json`).

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
        archive, root = self._open(file)
        tensors = state_dict(root, f"{self._folder}/{file}")
        if listed is not None:
            check_promise(index, file, listed, tensors)
            tensors = {name: tensors[name] for name in listed}
        self._add(file, archive, tensors)


def state_dict(root: Any, where: str) -> dict[str, View | torch.Tensor]:
    """The tensors of a saved object by name.

    Args:
        root: The object.
        where: Its file, for messages.

    Returns:
        The tensors under "state_dict", "model" or "module" if there are any, else those of the object itself.

    Raises:
        CheckpointError: If there are none.
    """
    if isinstance(root, Mapping):
        for state in (*(root.get(key) for key in _WRAPPERS), root):
            if tensors := tensors_of(state):
                return tensors
    raise CheckpointError(
        f"{where} holds no tensors by name",
        hint="Save the model's state_dict() with torch.save or as safetensors.",
    )


def tensors_of(value: Any) -> dict[str, View | torch.Tensor]:
    """The tensors in a dictionary; none if `value` is something else."""
    if not isinstance(value, Mapping):
        return {}
    return {name: tensor for name, tensor in value.items() if isinstance(name, str) and _is_tensor(tensor)}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, View) or (isinstance(value, torch.Tensor) and value.layout is torch.strided)


def _load_legacy(folder: Folder, file: str) -> Any:
    path = folder.fetch(file)
    try:
        with path.open("rb") as stream:
            if stream.read(1) != b"\x80":
                raise ValueError("it does not begin like a pickle")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on a damaged file
        if found := _UNSAFE.search(str(error)):
            raise CheckpointError(f"{path} needs {found[1]}, which is not safe to load", hint=_CONVERT) from error
        raise CheckpointError(
            f"{path} is not a file of torch.save, or is damaged: {_line(error)}", hint=DAMAGED
        ) from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
