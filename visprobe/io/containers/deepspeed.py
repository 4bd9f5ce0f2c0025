"""DeepSpeed checkpoints: the whole model of ZeRO 0 to 2, and universal checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import Folder
from visprobe.io.containers.torch_archive import TorchArchive, View
from visprobe.io.containers.torch_files import TorchTensors, tensors_of
from visprobe.io.regular import DAMAGED

_MODEL = re.compile(r"(?:zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt")
_MASTER = re.compile(r"zero/([^/]+)/fp32\.pt")
_STEP_FILE = re.compile(rf"(?<![^/])(?:{_MASTER.pattern}|{_MODEL.pattern})$")
_NESTED = re.compile(r"checkpoint-\d+/")  # a separate checkpoint, as transformers names it
_GATHER = "Run python zero_to_fp32.py . out in the checkpoint's folder, or ds_to_universal.py, and give what it writes."

_UNSAFE = (
    "Run python zero_to_fp32.py . out in the checkpoint's folder and give what it writes; or, if you trust its origin, "
    "load it once with torch.load(..., weights_only=False) and save its 'module' as safetensors."
)


class DeepSpeed(TorchTensors):
    """Tensors of one DeepSpeed checkpoint.

    ZeRO 0 to 2 store the model in the dtype of training (`mp_rank_00_model_states.pt`). A universal checkpoint adds the
    float32 master of every trained parameter (`zero/<name>/fp32.pt`), which replaces the less precise copy.

    Args:
        folder: Folder of the files.
        inside: Folder in it of one step (`step_folder`), with "/" at its end; "" if it is `folder` itself.

    Raises:
        CheckpointError: If the model lies in shards of ZeRO-3 or of model parallelism, or a file cannot be read.
    """

    container = "deepspeed"

    def __init__(self, folder: Folder, inside: str) -> None:
        super().__init__(folder)
        self._inside = inside
        names = [name for name in folder.names() if name.startswith(inside)]
        masters = {m[1]: name for name in names if (m := _MASTER.fullmatch(name.removeprefix(inside)))}
        models = [name for name in names if _MODEL.fullmatch(name.removeprefix(inside))]
        sharded = [name for name in models if "zero_pp_rank_" in name]
        if not masters:
            self._refuse_shards(models, sharded)
        shapes: dict[str, tuple[int, ...]] = {}
        if models:
            archive = self._open_states(models[0])
            shapes = _shapes(archive.root)
            if len(models) == 1 and not sharded:
                self._add(models[0], archive, _module(archive.root, f"{folder}/{models[0]}"))
        for parameter, name in masters.items():
            self._add_master(parameter, name, shapes)

    def _refuse_shards(self, models: Sequence[str], sharded: Sequence[str]) -> None:
        where = f"{self._folder}/{self._inside}"
        if sharded:
            raise CheckpointError(f"{where} holds shards of ZeRO-3, none of which has a whole tensor", hint=_GATHER)
        if len(models) != 1:
            raise CheckpointError(f"{where} holds a model split over {len(models)} ranks", hint=_GATHER)

    def _open_states(self, name: str) -> TorchArchive:
        try:
            return self._open(name)
        except CheckpointError as error:
            if "not safe to load" in error.message:
                raise CheckpointError(error.message, hint=_UNSAFE) from error
            raise

    def _add_master(self, parameter: str, file: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        archive = self._open(file)
        root = archive.root
        tensor = root.get("param") if isinstance(root, Mapping) else root
        where = f"{self._folder}/{file}"
        if not isinstance(tensor, View):
            raise CheckpointError(f"{where} holds no parameter of a universal checkpoint", hint=DAMAGED)
        if not isinstance(root, Mapping):
            tensor = _shaped(tensor, shapes.get(parameter), where)
        self._add(file, archive, {parameter: tensor})


def is_model_states(file: str) -> bool:
    """Return whether `file` is named as DeepSpeed names the model's part of a checkpoint."""
    return _MODEL.fullmatch(file) is not None


def step_folder(folder: Folder, names: Sequence[str]) -> str | None:
    """Find the folder of one step in a DeepSpeed checkpoint.

    Args:
        folder: Folder of the checkpoint.
        names: Names of its files.

    Returns:
        "" if it is `folder` itself, a path with "/" at its end, or None if this is no DeepSpeed checkpoint.

    Raises:
        CheckpointError: If there are several steps and `latest` names none of them.
    """
    found = {name[: m.start()] for name in names if (m := _STEP_FILE.search(name))}
    steps = sorted(step for step in found if step.count("/") <= 1 and not _NESTED.match(step))
    if "" in steps or not steps:
        return "" if steps else None
    latest, universal = (_text(folder, file) if file in names else "" for file in ("latest", "latest_universal"))
    tag = universal if universal.startswith(latest) else latest
    if tag and f"{tag}/" in steps:
        return f"{tag}/"
    if len(steps) > 1 or tag:
        raise CheckpointError(
            f"{folder} holds the steps {', '.join(step.rstrip('/') for step in steps)} and latest names "
            f"{repr(tag) if tag else 'none'}",
            hint="Give the folder of the step you mean.",
        )
    return steps[0]


def _text(folder: Folder, file: str) -> str:
    return folder.fetch(file).read_text(errors="replace").strip()[:200]


def _module(root: Any, where: str) -> dict[str, View]:
    tensors = tensors_of(root.get("module")) if isinstance(root, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{where} holds no tensors under 'module'", hint=_GATHER)
    return tensors


def _shapes(root: Any) -> dict[str, tuple[int, ...]]:
    groups = root.get("param_shapes") if isinstance(root, Mapping) else None
    groups = [groups] if isinstance(groups, Mapping) else groups or []
    return {name: tuple(shape) for group in groups for name, shape in group.items()}


def _shaped(flat: View, shape: tuple[int, ...] | None, where: str) -> View:
    """Give a flat parameter its shape; universal checkpoints of ZeRO-3 keep shapes in another file."""
    if shape is None or math.prod(shape) * flat.dtype.itemsize != flat.nbytes:
        raise CheckpointError(
            f"{where} is flat, and no file beside zero/ gives the shape of its {math.prod(flat.shape)} elements",
            hint=_GATHER,
        )
    strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    return replace(flat, shape=shape, stride=tuple(strides))
