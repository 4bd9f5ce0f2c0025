"""Transplant of a tower from one checkpoint into another, everything else of which stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from visprobe.encoders.checkpoint.opened import Checkpoint
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.load import described, load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.encoders.settings import first_difference, tower_settings
from visprobe.encoders.structure.layout import Layout, keys_of
from visprobe.errors import CheckpointError, UsageError
from visprobe.io import atomic
from visprobe.io.containers.tensors import DTYPES, TensorEntry
from visprobe.io.redact import redacted

_PLANS = "For a tower of another architecture train a new projector: visprobe train pivot."


@dataclass(frozen=True)
class Transplanted:
    """Result of a transplant.

    Attributes:
        encoder: Encoder read back from the new folder.
        tensors: Number of the tower's tensors that were replaced.
        rounded: Number of those that had to be rounded to the dtype that the receiving checkpoint stores.
    """

    encoder: VisionEncoder
    tensors: int
    rounded: int


def transplant(tower: str | Path, into: str | Path, folder: Path) -> Transplanted:
    """Write a copy of the checkpoint `into` whose vision tower is that of `tower`.

    Args:
        tower: Checkpoint that gives its tower.
        into: Checkpoint folder in safetensors that gives everything else: projector, language model, configuration.
        folder: New folder; it does not exist or is empty.

    Returns:
        The encoder read back, and counts of the tensors replaced and rounded.

    Raises:
        UsageError: If the towers differ in architecture.
        CheckpointError: If a checkpoint cannot be read or written, or `folder` holds something.
    """
    if atomic.is_filled(folder):
        raise CheckpointError(f"{folder} is not empty", hint="Name a new folder.")
    (giver, other), (receiver, own) = described(tower, Resolution()), described(into, Resolution())
    _refuse_unwritable(receiver)
    pairs = _pairs(giver, other, receiver, own)
    with atomic.filling(folder) as partial:
        # Subfolders belong to other checkpoints or to the training run. `copyfile` leaves permissions behind, so a
        # copy of a read-only file can be written to.
        for path in filter(Path.is_file, receiver.folder.iterdir()):
            shutil.copyfile(path, partial / path.name)
        rounded = _overwrite(partial, giver, {receiver.tensors[key]: source for key, source in pairs.items()})
        origin = {"tower": giver.spec, "into": receiver.spec, "tensors": len(pairs), "rounded": rounded}
        atomic.write_json(partial / "transplant.json", redacted(origin))
    return Transplanted(_checked(giver, receiver, folder), len(pairs), rounded)


def _pairs(giver: Checkpoint, other: Layout, receiver: Checkpoint, own: Layout) -> dict[str, str]:
    """Map each of the receiver's tower tensors to the giver's that replaces it."""
    # The projection to a text tower's space is no part of the tower: a multimodal model has no place for it.
    own_names, names = ({n for n in layout.tower if not layout.family.is_projection(n)} for layout in (own, other))
    if own_names != names:
        differing = sorted(own_names ^ names)
        raise UsageError(
            f"the towers of {giver.spec} and {receiver.spec} differ: only one of them has {differing[0]}", hint=_PLANS
        )
    pairs: dict[str, str] = {}
    for name in sorted(own_names):
        source = own.tower[name]
        mine, theirs = keys_of([source]), keys_of([other.tower[name]])
        if len(mine) != len(theirs) or isinstance(source, str) != isinstance(other.tower[name], str):
            raise UsageError(
                f"{giver.spec} and {receiver.spec} store {name} in different ways",
                hint="Save both in one layout first, for instance with save_pretrained of transformers.",
            )
        pairs |= dict(zip(mine, theirs, strict=True))
    for key, source in pairs.items():
        shapes = receiver.tensors[key].shape, giver.tensors[source].shape
        if shapes[0] != shapes[1]:
            raise UsageError(f"{key} is {list(shapes[0])}, {source} is {list(shapes[1])}", hint=_PLANS)
    if difference := first_difference(tower_settings(own.config), tower_settings(other.config)):
        raise UsageError(f"the towers of {giver.spec} and {receiver.spec} run differently: {difference}", hint=_PLANS)
    return pairs


def _refuse_unwritable(receiver: Checkpoint) -> None:
    if not Path(receiver.spec).expanduser().is_dir():
        raise CheckpointError(
            f"{receiver.spec} is not a folder on this machine", hint="Download the receiving model first: hf download."
        )
    if receiver.tensors.container != "safetensors":
        raise CheckpointError(
            f"{receiver.spec} is not a folder of safetensors ({receiver.tensors.container})",
            hint="Load the receiving model in transformers and save it with save_pretrained first.",
        )


def _overwrite(copy: Path, giver: Checkpoint, sources: Mapping[TensorEntry, str]) -> int:
    """Write the giver's bytes over the receiver's in the copied files, and return how many tensors were rounded."""
    rounded = 0
    for entry, source in sources.items():
        tensor = giver.tensors.read(source)
        cast = tensor.to(DTYPES[entry.dtype])
        rounded += not torch.equal(cast.to(tensor.dtype), tensor)
        # shape and dtype stay, so the new bytes fill exactly the range of the old ones and the header remains valid
        with (copy / Path(entry.file).name).open("r+b") as stream:
            stream.seek(entry.offset)
            stream.write(cast.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return rounded


def _checked(giver: Checkpoint, receiver: Checkpoint, folder: Path) -> VisionEncoder:
    encoder, tower, rest = load_encoder(folder), load_encoder(giver.spec), load_encoder(receiver.spec)
    given = tower.weights()
    mine = {name: weight for name, weight in encoder.weights().items() if not name.startswith("projector.")}
    same = all(torch.equal(weight, given[name].to(weight.dtype)) for name, weight in mine.items())
    if not same or encoder.projector_hash != rest.projector_hash:
        raise CheckpointError(
            f"{folder} reads back with other weights than {giver.spec} and {receiver.spec}",
            hint="This is a fault of visprobe: please report it with both config.json files.",
        )
    return encoder
