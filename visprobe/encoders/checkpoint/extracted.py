"""Folders that `visprobe extract-encoder` wrote, read as the checkpoints they came from."""

from __future__ import annotations

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.safetensors_files import SafetensorsFiles
from visprobe.io.containers.tensors import Joined, Tensors
from visprobe.io.regular import DAMAGED, INDEX, read_object

MLLM_CONFIG = "mllm_config.json"
PROJECTOR = "projector.safetensors"
NAMES = "tower_names.json"


def is_extracted(names: list[str]) -> bool:
    """Return whether a folder with files `names` holds a tower and the projector it was extracted with."""
    return {MLLM_CONFIG, PROJECTOR, NAMES} <= set(names)


def restored(folder: Folder, tower: Tensors) -> Tensors:
    """Return the tensors of the projector and of `tower` by their names in the multimodal checkpoint.

    Raises:
        CheckpointError: If the list of names is damaged, or names a tensor that is not there.
    """
    path = folder.fetch(NAMES)
    names = {key: str(name) for key, name in read_object(path, INDEX).items()}
    if absent := sorted(set(names.values()) - set(tower)):
        raise CheckpointError(f"{path} names {absent[0]!r}, which the tower does not hold", hint=DAMAGED)
    return Joined(SafetensorsFiles(folder, PROJECTOR), tower, names)
