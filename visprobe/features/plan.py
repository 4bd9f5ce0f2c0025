"""Upper bounds on what passes over images decode, forward and write, known before the first image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from visprobe.data.image_set import ImageSet
from visprobe.encoders import EMBEDDING, HEADS
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import PrerequisiteError
from visprobe.features.extract import Job
from visprobe.features.requests import DRAWN
from visprobe.features.store import FeatureStore
from visprobe.io.disk import size_text


@dataclass(frozen=True)
class Pass:
    """Pass of encoders over images.

    Attributes:
        images: Image set.
        sites: Maps an encoder to the features wanted of it.
        encoders: Encoders that see the images.
        processors: For each encoder, the one whose processor makes its pixels.
    """

    images: ImageSet
    sites: Callable[[VisionEncoder], Sequence[str]]
    encoders: Sequence[VisionEncoder]
    processors: Sequence[VisionEncoder]


@dataclass(frozen=True)
class Plan:
    """Upper bounds of passes; features in the store are neither forwarded nor written again.

    Attributes:
        decoded: Images that are decoded.
        forwarded: Images x encoders that are forwarded.
        nbytes: Bytes of features that are written.
    """

    decoded: int
    forwarded: int
    nbytes: int


def planned(passes: Iterable[Pass]) -> Plan:
    """Sum up passes that share one store: equal encoders are forwarded once, equal arrays written once."""
    decoded = forwarded = nbytes = 0
    for one in passes:
        jobs = [Job(e, p, one.sites(e)) for e, p in zip(one.encoders, one.processors, strict=True)]
        arrays: dict[str, dict[str, int]] = {}
        for job in jobs:
            rows = {array: row_bytes(job.encoder, request) for request, array in job.arrays.items()}
            arrays.setdefault(job.key(()).digest(), {}).update(rows)
        count = len(one.images.items)
        decoded += count
        forwarded += count * sum(map(bool, arrays.values()))
        nbytes += count * sum(sum(rows.values()) for rows in arrays.values())
    return Plan(decoded, forwarded, nbytes)


def row_bytes(encoder: VisionEncoder, request: str) -> int:
    """Return bytes per image of the array of a request; for "embedding" an estimate, as its width may differ."""
    site, _, reduction = request.partition(":")
    width = _width(encoder, site)
    patches = encoder.grid[0] * encoder.grid[1] if encoder.grid else 0
    return {
        "norms": 4 * patches, "tokens": 2 * width * patches, "quarters": 4 * 4 * width, "drawn": 2 * width * DRAWN,
    }.get(reduction, 4 * width)  # fmt: skip


def _width(encoder: VisionEncoder, site: str) -> int:
    widths = {known.name: known.dim for known in encoder.sites}
    if site == EMBEDDING:
        return widths[encoder.consumed]
    return widths["block_00"] if site.startswith(HEADS) else widths[site]


def describe(plan: Plan, store: FeatureStore) -> str:
    """Describe the plan in one line for people."""
    return (
        f"at most {plan.decoded:,} images are decoded, {plan.forwarded:,} times forwarded and "
        f"{size_text(plan.nbytes)} of features written to {store.folder} ({size_text(store.free())} free there); "
        "what lies there already is not made again"
    )


def check_room(plan: Plan, store: FeatureStore) -> None:
    """Refuse a plan whose features cannot fit, however many of them are in the store already.

    Raises:
        PrerequisiteError: If they need more than the free space and the whole store together.
    """
    free = store.free()
    if plan.nbytes > free and plan.nbytes > free + store.held():
        raise PrerequisiteError(
            f"{size_text(plan.nbytes)} of features do not fit into {store.folder}: {size_text(free)} are free there",
            hint="Set VISPROBE_CACHE to a folder with more room, make room, or look at fewer images (--limit).",
        )
