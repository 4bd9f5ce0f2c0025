"""Layer swap: exchange parts of two encoders one at a time and measure every hybrid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from visprobe.analyses.swap.sentences import swap_verdict
from visprobe.analyses.swap.swap import DIRECTIONS, Direction, Hybrid, Pair, layer_swap
from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import no_classes
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.exchange.swap import Swap, refuse_other_weights, swapped
from visprobe.errors import UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import read_sites
from visprobe.io.disk import plain_errors
from visprobe.pipelines.compare import refuse_other_shapes
from visprobe.pipelines.measurement import Measurement, Options
from visprobe.pipelines.session import Session, format_baselines, open_encoders

By = Literal["blocks", "groups"]
_ENDS = ("embeddings", "final_norm", "projector")

# Bytes of hybrids' weights in memory at a time. The images are decoded once for each such batch of hybrids.
MEMORY = 16 * 2**30


class Part(NamedTuple):
    """A part of an encoder: its name in a result, and its `spec` in the grammar of `Swap`."""

    name: str
    spec: str


class Exchange(NamedTuple):
    """A hybrid to make: the part, and the direction of the exchange."""

    direction: Direction
    part: str
    spec: str


@plain_errors
def swap(
    base: str | Path,
    other: str | Path,
    data: str | Path,
    options: Options | None = None,
    by: By = "blocks",
    steps: int = 4,
) -> Measurement:
    """Measure which part of the encoder carries the difference between two checkpoints.

    Args:
        base: Checkpoint that training started from, or the first of two.
        other: Other checkpoint, with an encoder of the same shape.
        data: Folder or name of an image set, for `open_images`.
        options: Options of the measurement.
        by: "blocks": every block is a part; "groups": every run of neighbouring blocks is.
        steps: Number of runs of blocks, for "groups".

    Returns:
        One "swap" result: of every hybrid the CKA to the other checkpoint and top-1 accuracy (fractions of 1), with
        95 % intervals; and its verdict. Parts whose weights are equal in both are left out.

    Raises:
        UsageError: If the encoders differ in shape, or are equal.
        CheckpointError, DataError: If a checkpoint or the images cannot be used.

    Example:
        `visprobe.swap("base", "dpo", "digits", by="groups", steps=3)`
    """
    options = options or Options()
    encoders = open_encoders([base, other], options)
    refuse_other_shapes(encoders[0], encoders[1:])
    refuse_other_weights(*encoders)
    parts = parts_of(encoders[0], by, steps)
    changed = [part for part in parts if _differs(part, *encoders)]
    if not changed:
        raise UsageError(
            f"{encoders[0].name} and {encoders[1].name} have equal weights wherever the language model's loss reaches",
            hint="Name two checkpoints that differ; visprobe compare says in which weights.",
        )
    session = Session(encoders, format_baselines(base, encoders[0], options), data, options)
    run = _Run(session)
    query, support = run.features([*session.encoders, *session.baselines], first=True)
    hybrids = [hybrid for some in _at_a_time(plan(changed), encoders[0]) for hybrid in run.hybrids(some)]
    pair = Pair(query[0], query[1], query[2:], (support[0], support[1]) if support else None)
    notes = [f"weights are equal in {part.name}: it is left out" for part in parts if part not in changed]
    result = layer_swap(pair, hybrids, _unlabelled(session.images.query) + notes)
    return session.measurement([result], swap_verdict(result))


def parts_of(encoder: VisionEncoder, by: By, steps: int) -> list[Part]:
    """Return the parts of an encoder that the language model's loss reaches, from the input on.

    Args:
        encoder: The encoder.
        by: "blocks" or "groups".
        steps: Number of runs of blocks, for "groups".

    Raises:
        UsageError: If there are fewer blocks than steps.
    """
    groups = {encoder.weight_group(name) for name in encoder.weights()} - set(encoder.provenance.off_path)
    blocks = sorted(int(group.removeprefix("block_")) for group in groups if group.startswith("block_"))
    if by == "groups" and not 1 <= steps <= len(blocks):
        raise UsageError(f"{len(blocks)} blocks cannot be cut into {steps} groups", hint="Choose other --steps.")
    if by == "groups":
        cuts = [len(blocks) * step // steps for step in range(steps + 1)]
        runs = [blocks[first:last] for first, last in pairwise(cuts)]
        inner = [_run_of_blocks(run) for run in runs]
    else:
        inner = [_run_of_blocks([block]) for block in blocks]
    ends = [Part(name, name) for name in _ENDS if name in groups]
    return [*ends[:1], *inner, *ends[1:]] if "embeddings" in groups else [*inner, *ends]


def plan(parts: Sequence[Part], directions: Sequence[Direction] = DIRECTIONS) -> list[Exchange]:
    """List every hybrid: each part put in alone, each taken out alone, and all parts up to each."""
    specs = [part.spec for part in parts]
    return [
        Exchange(way, part.name, ", ".join(specs[: n + 1]) if way == "cumulative" else part.spec)
        for way in directions
        for n, part in enumerate(parts)
    ]


def _run_of_blocks(run: Sequence[int]) -> Part:
    if len(run) == 1:
        return Part(f"block_{run[0]:02d}", f"block {run[0]}")
    return Part(f"blocks {run[0]}-{run[-1]}", f"blocks {run[0]}-{run[-1]}")


def _differs(part: Part, base: VisionEncoder, other: VisionEncoder) -> bool:
    groups, theirs = Swap(base.name, part.spec, other.name).groups(), other.weights()
    return any(
        base.weight_group(name) in groups and not torch.equal(weight, theirs[name].to(weight.dtype))
        for name, weight in base.weights().items()
    )


def _at_a_time(plan: Sequence[Exchange], encoder: VisionEncoder) -> Iterator[Sequence[Exchange]]:
    size = sum(weight.numel() for weight in encoder.weights().values()) * encoder.dtype.itemsize
    count = max(1, MEMORY // size)
    for first in range(0, len(plan), count):
        yield plan[first : first + count]


def _unlabelled(images: ImageSet) -> list[str]:
    return [] if images.classes is not None else [f"accuracy was not measured: {no_classes(images)}"]


class _Run:
    """Extraction of features of query and support images under encoders and hybrids."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def features(
        self, encoders: Sequence[VisionEncoder], *, first: bool = False
    ) -> tuple[Sequence[FeatureSet], Sequence[FeatureSet] | None]:
        images = self._session.images
        query = self._session.extract(images.query, read_sites, encoders, note=first)
        if images.support is None or images.query.classes is None:
            return query, None
        return query, self._session.extract(images.support, read_sites, encoders, note=first)

    def hybrids(self, exchanges: Sequence[Exchange]) -> list[Hybrid]:
        base, other = self._session.encoders
        # "necessary" takes the part out of `other`: its hybrid is `other` with the base's part in its place.
        encoders = [
            swapped(Swap(other.name, e.spec, base.name), other, base)
            if e.direction == "necessary"
            else swapped(Swap(base.name, e.spec, other.name), base, other)
            for e in exchanges
        ]
        for number, encoder in enumerate(encoders):
            encoder.name = f"{exchanges[number].direction} {exchanges[number].part}"  # features are told apart by it
        query, support = self.features(encoders)
        return [Hybrid(e.direction, e.part, query[n], support[n] if support else None) for n, e in enumerate(exchanges)]
