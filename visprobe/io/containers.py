"""Which container a checkpoint's folder holds."""

from __future__ import annotations

from visprobe.errors import CheckpointError
from visprobe.io.folder import Folder
from visprobe.io.safetensors_files import INDEX_FILE, SINGLE_FILE, SafetensorsFiles
from visprobe.io.tensors import Tensors


def open_tensors(folder: Folder) -> Tensors:
    """The tensors of the checkpoint in `folder` itself; nested checkpoints (`checkpoint-500/`) are never looked at.

    safetensors come first, then `.bin`, as in transformers.

    Raises:
        CheckpointError: If there is no container, or it is damaged or incomplete.
    """
    names = folder.names()
    for file in (SINGLE_FILE, INDEX_FILE):
        if file in names:
            return SafetensorsFiles(folder, file)
    raise _nothing_to_read(folder, names)


def _nothing_to_read(folder: Folder, names: list[str]) -> CheckpointError:
    if not folder.path.is_dir():
        return CheckpointError(
            f"{folder} is not a folder", hint="Give the folder that holds config.json and the weights."
        )
    return CheckpointError(
        f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}",
        hint="Give the folder of one checkpoint; nested folders such as checkpoint-500 are not searched.",
    )
