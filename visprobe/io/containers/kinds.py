"""Selection of the container that a checkpoint's folder holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from visprobe.errors import CheckpointError
from visprobe.io.containers import safetensors_files, torch_files
from visprobe.io.containers.deepspeed import DeepSpeed, step_folder
from visprobe.io.containers.distcp import FSDP_FOLDER, METADATA, Distcp
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.formats import MEGATRON, Format, conversion, known_formats
from visprobe.io.containers.safetensors_files import SafetensorsFiles
from visprobe.io.containers.tensors import SHARD_OF, Tensors
from visprobe.io.containers.torch_files import TorchFiles

MODEL_FILES = (
    safetensors_files.SINGLE_FILE,
    safetensors_files.INDEX_FILE,
    torch_files.SINGLE_FILE,
    torch_files.INDEX_FILE,
)
_ALONE = ("consolidated.safetensors", "consolidated.00.pth", "pytorch_model_fsdp.bin")
_PROJECTOR = "mm_projector.bin"


def open_tensors(folder: Folder) -> Tensors:
    """Open the tensors of the checkpoint in `folder` itself; nested checkpoints (`checkpoint-500/`) are ignored.

    Tried in this order: safetensors, `.bin`, FSDP's sharded folder, DeepSpeed's own files, another single file of
    weights, a projector alone.

    Raises:
        CheckpointError: If there is no container, or it is damaged or incomplete.
    """
    names = folder.names()
    there = [file for file in MODEL_FILES if file in names]
    if there:
        tensors = open_file(folder, there[0])
        if there[:2] == [safetensors_files.SINGLE_FILE, safetensors_files.INDEX_FILE]:
            tensors.notes.append(f"{there[0]} is read, as transformers does, and not the shards that {there[1]} names")
        return tensors
    for inside in (FSDP_FOLDER, ""):
        if inside + METADATA in names and inside + MEGATRON not in names:
            return Distcp(folder, inside)
    step = step_folder(folder, names)
    if step is not None:
        return DeepSpeed(folder, step)
    if single := _single_file(names):
        return open_file(folder, single)
    raise _nothing_to_read(folder, names)


def open_file(folder: Folder, name: str) -> Tensors:
    """Open the tensors of file `name`, or of the shards that it names if it is an index (`*.index.json`).

    Args:
        folder: Folder of the file.
        name: File or index of safetensors; any other name is taken for a file or index of `torch.save`.

    Raises:
        CheckpointError: If it is damaged or incomplete.
    """
    if name.removesuffix(".index.json").endswith(".safetensors"):
        return SafetensorsFiles(folder, name)
    return TorchFiles(folder, name)


def _single_file(names: Sequence[str]) -> str | None:
    """Return the only file of weights; adapters and single shards do not count."""
    own = [name for name in names if "/" not in name and not name.startswith("adapter_model.") and not _foreign(name)]
    parts = [name for name in own if name.startswith("consolidated.") and name.endswith(".pth")]
    candidates = [name for name in _ALONE if name in own and (name not in parts or len(parts) == 1)]
    others = [name for name in own if name.endswith(".safetensors") and "-of-" not in name]
    candidates += others if len(others) == 1 else []
    candidates += [_PROJECTOR] if _PROJECTOR in own else []
    return candidates[0] if candidates else None


def _foreign(name: str) -> bool:
    return any(known.alone for known, _ in known_formats([name]))


def _nothing_to_read(folder: Folder, names: Sequence[str]) -> CheckpointError:
    if folder.path.is_dir() and not os.access(folder.path, os.R_OK | os.X_OK):
        return CheckpointError(f"{folder} may not be read", hint="Check the permissions of the folder.")
    if not folder.path.is_dir():
        return CheckpointError(
            f"{folder} is not a folder", hint="Give the folder that holds config.json and the weights."
        )
    if broken := sorted(one for one in folder.path.iterdir() if one.is_symlink() and not one.exists()):
        return CheckpointError(
            f"{broken[0]} is a link to {os.readlink(broken[0])}, which is not there",
            hint="A snapshot of the hub's cache consists of links: copy it with what they point to (cp -rL), or its "
            "whole folder models--…",
        )
    nested = sorted({str(PurePosixPath(name).parent) for name in names if "/" in name and _holds_checkpoint(name)})
    for some in ([name for name in names if "/" not in name], [] if nested else names):
        if known := next(known_formats(some), None):
            return _foreign_format(folder, names, *known)
    shown = f"{', '.join(names[:5])} and {len(names) - 5} more" if len(names) > 6 else ", ".join(names) or "no files"
    inside = f": {', '.join(str(folder.path / place) for place in nested[:5])}" if nested else ""
    return CheckpointError(
        f"{folder} has neither {MODEL_FILES[0]} nor another container of weights; it holds {shown}",
        hint=f"Give the folder of one checkpoint{inside}; nested folders are not searched.",
    )


def _holds_checkpoint(name: str) -> bool:
    file = name.rpartition("/")[2]
    return file in MODEL_FILES or file == "adapter_config.json"


def _foreign_format(folder: Folder, names: Sequence[str], known: Format, files: Sequence[str]) -> CheckpointError:
    place = PurePosixPath(files[0]).parent
    own = [name for name in files if PurePosixPath(name).parent == place]
    rest = [f"{len(own) - 1} more"] if len(own) > 1 else []
    rest += [f"{len(files) - len(own)} in other folders"] if len(own) < len(files) else []
    whole = [name for name in names if PurePosixPath(name).parent.parent == place and _holds_checkpoint(name)]
    what, hint = known.what, conversion(known, str(folder.path / place), PurePosixPath(own[0]).name)
    if known.parts and (fault := _unlike_parts(folder, own)):
        what, hint = f"{what}, {fault[0]}", fault[1]
    if whole:
        hint = f"Give {(folder.path / whole[0]).parent}: a checkpoint that is read lies there."
    return CheckpointError(f"{folder} holds {what}: {' and '.join([own[0], *rest])}", hint=hint)


def _unlike_parts(folder: Folder, files: Sequence[str]) -> tuple[str, str] | None:
    """Return why `files` are no shards of one model, and a hint; None if each has tensors of its own."""
    numbers = [(int(match[1]), int(match[2])) for match in map(SHARD_OF.search, files) if match]
    total = max((of for _, of in numbers), default=0)
    if absent := sorted(set(range(1, total + 1)) - {number for number, _ in numbers}):
        return f"of which number {absent[0]} of {total} is not there", "Copy the checkpoint again, as a whole."
    owner: dict[str, str] = {}
    for file in files:
        for name in open_file(folder, file):
            if owner.setdefault(name, file) != file:
                return (
                    f"of which {owner[name]} and {file} both have {name}",
                    "They are no shards: each has a part of every tensor, or they are several models. Save the whole "
                    "model with save_pretrained(), or put one of several into a folder of its own.",
                )
    return None
