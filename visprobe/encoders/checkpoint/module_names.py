"""Search for a model's tensor by the name that another version of transformers, or another class, gives it.

An adapter names modules as they were called in memory where it was trained; a file names tensors as they were called
where it was saved. Both go through the names of today's classes, which transformers itself knows how to reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming
from transformers.models.auto.modeling_auto import MODEL_MAPPING

Rename = Callable[[str], str]
_OPTIONAL_PARTS = {"model", "vision_model", "language_model"}  # versions of transformers add or drop these


@dataclass(frozen=True)
class Place:
    """Location of a module's weight in a file.

    Attributes:
        tensor: Name of the tensor.
        part: Number of the part, and count of equal parts of its rows, where one tensor of the file holds several
            weights.
    """

    tensor: str
    part: tuple[int, int] = (0, 1)

    @property
    def is_whole(self) -> bool:
        """True if the tensor holds this weight alone."""
        return self.part == (0, 1)

    def rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the weight's rows of the file's `tensor`."""
        number, count = self.part
        return tensor.chunk(count)[number]

    def with_rows(self, tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the file's `tensor` with `weight` in its rows."""
        number, count = self.part
        parts = list(tensor.chunk(count))
        parts[number] = weight
        return torch.cat(parts) if count > 1 else weight


class ModuleNames:
    """Index of a model's weights by any of their names.

    Args:
        names: Names of its tensors in the file.
        configs: transformers configurations of the model and its tower; none for models that transformers lacks.
        rename: Maps an early name to today's, where transformers does not.
    """

    def __init__(self, names: Iterable[str], configs: Iterable[Any] = (), rename: Rename = str) -> None:
        self._names = set(names)
        classes = [MODEL_MAPPING[type(config)] for config in configs if type(config) in MODEL_MAPPING]
        self._conversions = [step for cls in classes for step in _conversions(cls)]
        self._optional = _OPTIONAL_PARTS | {cls.base_model_prefix for cls in classes}
        self._rename = rename
        self._found: dict[tuple[str, ...], Place | None] = {}
        for name in self._names:
            for spelled, place in self._spellings(name):
                key = self._key(spelled)
                # a name that leads to two places is ambiguous, and leads nowhere
                self._found[key] = None if self._found.get(key, place) != place else place

    def find(self, name: str) -> Place | None:
        """Return the place of the weight `name`, or None if there is none or several could be meant."""
        if name in self._names:
            return Place(name)
        spellings = (self._key(spelled) for spelled, place in self._spellings(name) if place.is_whole)
        return next((place for key in spellings if (place := self._found.get(key))), None)

    def _spellings(self, name: str) -> Iterator[tuple[str, Place]]:
        """Yield `name` and its spellings in today's classes, each with its place."""
        yield name, Place(name)
        today = self._rename(name)
        for step in self._conversions:
            if isinstance(step, WeightRenaming):
                today = step.rename_source_key(today)[0]
        for step in self._conversions:
            source = step.source_patterns[0]
            if _cuts(step) and (match := re.search(source, today)):
                for number, target in enumerate(step.target_patterns):
                    whole = today[: match.start()] + target + today[match.end() :]
                    yield whole, Place(name, (number, len(step.target_patterns)))
        yield today, Place(name)

    def _key(self, name: str) -> tuple[str, ...]:
        return tuple(part for part in name.split(".") if part not in self._optional)


def _conversions(cls: Any) -> list[Any]:
    return get_checkpoint_conversion_mapping(cls.__name__) or []


def _cuts(step: Any) -> bool:
    """Return whether `step` cuts the rows of one tensor of the file into several weights."""
    return (
        isinstance(step, WeightConverter)
        and len(step.source_patterns) == 1
        and [type(one) for one in step.operations] == [Chunk]
        and step.operations[0].dim == 0
    )
