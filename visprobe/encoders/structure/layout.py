"""Layout of a checkpoint: its tensors of tower and connector, and the site that the MLLM reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from visprobe.encoders.checkpoint.tensor_names import of_language_model
from visprobe.encoders.structure.connector import Connector
from visprobe.encoders.structure.family import Family
from visprobe.encoders.structure.geometry import Geometry
from visprobe.errors import CheckpointError


@dataclass(frozen=True)
class DerivedTensor:
    """Weight that is no tensor of the file but made from tensors of it (one third of a fused qkv).

    Attributes:
        keys: Names in the file.
        make: Maps those tensors to the weight.
    """

    keys: tuple[str, ...]
    make: Callable[[Sequence[torch.Tensor]], torch.Tensor]


Source = str | DerivedTensor
NAMED = "the tower is named"  # prefix of a note on an unusual place


@dataclass(frozen=True)
class Layout:
    """Tower and connector of a checkpoint, not read yet.

    Attributes:
        name: "A", "B", "C", "D", "L", "bare", …
        family: Family of the tower.
        config: transformers configuration of the tower.
        tower_name: Name of the tower, for people.
        tower: Name relative to the tower to name in the file.
        projector: Name relative to the connector to name in the file; empty without a connector.
        connector: Connector between tower and language model, if any.
        consumed: Site that the MLLM reads; the deepest if it reads several.
        why: Reason for that site.
        processor: Image processor.
        geometry: Turns images into inputs and states into tokens; that of the family unless tiles are asked for.
        warnings: Warnings for the reader.
        twins: Prefix of each other tower in the same files to a map from names of the tower that is read to its own.
    """

    name: str
    family: Family
    config: Any
    tower_name: str
    tower: Mapping[str, Source]
    projector: Mapping[str, Source]
    connector: Connector | None
    consumed: str
    why: str
    processor: Any
    geometry: Geometry
    warnings: tuple[str, ...] = ()
    twins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def off_path(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return weight groups, among those of the tower's tensor `names`, that the MLLM's loss never reaches."""
        return self.family.off_path((self.family.weight_group(name, self.config) for name in names), self.consumed)


def unfused(attention: str, kind: str, key: str) -> dict[str, Source]:
    """Return the weights of queries, keys and values by name, which are stacked in the rows of the tensor `key`.

    Args:
        attention: Prefix of their names.
        kind: "weight" or "bias".
        key: Name in the file.
    """
    return {f"{attention}{part}_proj.{kind}": DerivedTensor((key,), partial(_third, n)) for n, part in enumerate("qkv")}


def _third(number: int, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].chunk(3)[number].contiguous()


def keys_of(sources: Iterable[Source]) -> list[str]:
    """Return the names in the file that `sources` need, each once."""
    return list(dict.fromkeys(key for s in sources for key in (s.keys if isinstance(s, DerivedTensor) else (s,))))


def materialise(sources: Mapping[str, Source], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Make the weights that `sources` describe, given the file's `tensors`."""
    return {
        name: source.make([tensors[key] for key in source.keys])
        if isinstance(source, DerivedTensor)
        else tensors[source]
        for name, source in sources.items()
    }


def under(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Return names that begin with `prefix`, by what follows it, without the buffer `position_ids` of old versions."""
    return {
        name.removeprefix(prefix): name
        for name in names
        if name.startswith(prefix) and not name.endswith(".position_ids")
    }


def hidden_state(layer: int, blocks: int) -> str:
    """Return the site of `hidden_states[layer]` in a tower of `blocks` blocks; a negative layer counts from the end.

    Raises:
        CheckpointError: If there is no such layer.
    """
    if not -blocks - 1 <= layer <= blocks:
        raise CheckpointError(
            f"the configuration selects vision layer {layer}, the tower has {blocks} blocks",
            hint="Check that config.json belongs to these weights.",
        )
    return f"block_{layer % (blocks + 1):02d}"


def places(stem: str, names: Iterable[str]) -> list[str]:
    """Return prefixes of `names` up to and including `stem`: "model.language_model.visual." for "visual.".

    Args:
        stem: Whole parts of a name, with the dot after the last.
        names: Names of tensors.

    Returns:
        Those prefixes below which blocks are numbered, the shortest first.
    """
    pattern = re.compile(rf"((?:[^.]+\.)*?{re.escape(stem)})(?:.*\.)?\d+\.")
    found = {match[1] for match in map(pattern.match, names) if match}
    return sorted(found, key=lambda place: (place.count("."), place))


def block_places(path: str, usual: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return prefixes before the numbered blocks of vision towers: "model.vision_model." for "encoder.layers".

    Args:
        path: Path of the blocks in the tower.
        usual: Expected prefixes; they come first, in their order.
        names: Names of tensors.
    """
    seen = [name for name in names if not of_language_model(name) and "text_model" not in name.split(".")]
    for blocks in (re.escape(path), r"(?:encoder\.)?layers?"):  # the second as early versions of transformers had it
        pattern = re.compile(rf"((?:[^.]+\.)*?){blocks}\.\d+\.")
        if found := {match[1] for match in map(pattern.match, seen) if match}:
            others = sorted(found - set(usual), key=lambda place: (place.count("."), place))
            return [*(place for place in usual if place in found), *others]
    return []


def beside(outer: str, stem: str, names: Iterable[str]) -> str:
    """Return the prefix of a model's part `stem`: beside a tower below `outer`, or else anywhere."""
    found = {name[: at.end()] for name in names if (at := re.search(rf"(?:^|\.){re.escape(stem)}", name))}
    return min(found, key=lambda place: (place != outer + stem, place.count("."), place), default=outer + stem)


def apart(places: Iterable[str]) -> list[str]:
    """Return `places` without those inside or around an earlier one."""
    found: list[str] = []
    for place in places:
        if not any(place.startswith(one) or one.startswith(place) for one in found):
            found.append(place)
    return found


def notes_on_places(found: Sequence[str], usual: Iterable[str]) -> list[str]:
    """Return warnings about where towers were `found`, the first of which is read."""
    notes = [] if found[0] in usual else [f"{NAMED} {found[0]}* here"]
    if len(found) > 1:
        listed = ", ".join(f"{place}*" for place in found)
        notes.append(f"these files hold {len(found)} vision towers, {listed}; the first of them is read")
    return notes


def twins(found: Sequence[str], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Map names of the first of the towers `found` to those of each other one."""
    names = list(names)
    first = under(found[0], names)
    others = {place: under(place, names) for place in found[1:]}
    return {place: {first[n]: key for n, key in inside.items() if n in first} for place, inside in others.items()}


def no_tower(folder: object, keys: Iterable[str]) -> CheckpointError:
    """Make the error for a checkpoint that holds no vision tensors."""
    return CheckpointError(
        f"there is no vision tower in the files of {folder}: their tensors begin with {', '.join(prefixes(keys))}",
        hint="Saving, merging or exporting left it out: do it again from the trained model, with its vision part. Only "
        "the language model was written here.",
    )


def frozen_tower(folder: object, named: str, keys: Iterable[str]) -> CheckpointError:
    """Make the error for a checkpoint without the tower `named`, which its configuration says was not trained."""
    return CheckpointError(
        f"{folder} holds no vision tower: its tensors begin with {', '.join(prefixes(keys))}. Its configuration names "
        f"the tower {named}, which was frozen and not saved",
        hint="The tower is that of the base model: give the checkpoint of that tower itself.",
    )


def no_projector(folder: object, keys: Iterable[str]) -> CheckpointError:
    """Make the error for a multimodal checkpoint that holds a tower and no projector."""
    return CheckpointError(
        f"there is no projector in the files of {folder}: their tensors begin with {', '.join(prefixes(keys))}",
        hint="Saving, merging or exporting left it out: give the full checkpoint, with tower and projector.",
    )


def prefixes(keys: Iterable[str], limit: int = 5) -> list[str]:
    """Return the first few distinct prefixes (two parts) of tensor names."""
    return list(dict.fromkeys(".".join(key.split(".")[:2]) for key in sorted(keys)))[:limit]
