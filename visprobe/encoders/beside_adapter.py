"""Weights that were trained whole and saved beside an adapter, under whatever name a trainer gave the file."""

from __future__ import annotations

import re

from visprobe.encoders.module_names import ModuleNames
from visprobe.encoders.wrappers import of_language_model, plain_name
from visprobe.errors import CheckpointError
from visprobe.io import safetensors_files, torch_files
from visprobe.io.containers import open_file
from visprobe.io.folder import Folder
from visprobe.io.formats import is_trainer_state
from visprobe.io.tensors import Tensors

_WEIGHTS = re.compile(r".+\.(safetensors|bin|pt|pth)(\.index\.json)?")
_HEADS = ("v_head.", "value_head.", "score.", "summary.", "classifier.", "reward_head.")
_SHARD = re.compile(r"-\d+-of-\d+\.\w+$")
_NESTED = ("checkpoint", "global_step", "step", "epoch", "runs", "logs", "wandb")  # folders of other things
_WHOLE_MODEL = {
    safetensors_files.SINGLE_FILE,
    safetensors_files.INDEX_FILE,
    torch_files.SINGLE_FILE,
    torch_files.INDEX_FILE,
}
_SEEN = (
    "vis",
    "mm_projector",
    "multi_modal_projector",
    "mlp1",
    "projector",
    "connector",
    "aligner",
    "merger",
    "embed_vis",
)


def beside(folder: Folder, own: str, base: Tensors, names: ModuleNames) -> list[tuple[str, Tensors]]:
    """The files of weights beside the adapter in `folder`, each with its tensors by the base model's names.

    What a file is called decides nothing, but for the state of trainers; what its tensors are called does.

    Args:
        folder: The adapter's folder.
        own: The adapter's own file.
        base: Tensors of the base model.
        names: Names of the base model.

    Raises:
        CheckpointError: If a file of weights is damaged, holds weights that the base model does not have, or is a whole
            model.
    """
    files = [name for name in folder.names() if _is_candidate(name) and name != own]
    described = {name.rpartition("/")[0] for name in folder.names() if name.endswith(("config.json",)) and "/" in name}
    opened = []
    for file in files:
        if file.rpartition("/")[0] in described or (file in _WHOLE_MODEL and base.where == str(folder)):
            continue  # a model or an adapter of its own; the base model itself
        tensors = open_file(folder, file)
        if tensors and not all(plain_name(name).startswith(_HEADS) for name in tensors):
            _check(folder, file, tensors, base, names)
            opened.append((file, tensors))
    return opened


def _is_candidate(name: str) -> bool:
    inside, _, file = name.rpartition("/")
    nested = inside.count("/") > 0 or inside.startswith(_NESTED)
    weights = _WEIGHTS.fullmatch(file) and not file.startswith("adapter_model.")
    return bool(weights) and not nested and not is_trainer_state(file) and not _SHARD.search(file)


def _check(folder: Folder, file: str, tensors: Tensors, base: Tensors, names: ModuleNames) -> None:
    plain = [plain_name(name) for name in tensors]
    if file in _WHOLE_MODEL and any(map(of_language_model, plain)):
        raise CheckpointError(
            f"{folder} holds an adapter and a whole model, {file}: nothing says whether the adapter is merged in it",
            hint="Move one of the two to a folder of its own.",
        )
    strange = [name for name in plain if names.find(name) is None and not of_language_model(name) and not _is_new(name)]
    if strange:
        raise CheckpointError(
            f"{folder}/{file}, beside an adapter, holds {len(strange)} tensors that {base.where} does not have, "
            f"{strange[0]!r} among them",
            hint="If they are weights of this model, save it whole after PEFT's merge_and_unload() and give that; if "
            "not, move the file away.",
        )


def _is_new(name: str) -> bool:
    """Whether `name` may be a weight that the base model's files leave out, as a frozen tower."""
    return any(part.startswith(_SEEN) for part in name.split("."))
