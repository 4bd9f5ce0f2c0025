"""What an analysis is: what it needs of each encoder, and from features to a `Result`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from visprobe.analyses.result import Result
from visprobe.encoders.encoder import VisionEncoder
from visprobe.features.feature_set import FeatureSet


@dataclass(frozen=True)
class Inputs:
    """What an analysis is given: the same images under every encoder, and the encoders.

    Attributes:
        base: Features under the base checkpoint: what the analysis asked for, and nothing else.
        others: Under its descendants, in the order given.
        floors: Under what the numbers are read against: "untrained", "<base> (bfloat16)".
        encoders: The encoders of base and others, in that order.
        seed: Seed of every random choice.
    """

    base: FeatureSet
    others: tuple[FeatureSet, ...]
    floors: tuple[FeatureSet, ...]
    encoders: tuple[VisionEncoder, ...]
    seed: int = 0


@dataclass(frozen=True)
class Analysis:
    """A question about encoders, answered from features of one image set.

    Attributes:
        name: As in `--analyses` and `Result.analysis`.
        question: The question, in one sentence.
        needs: From an encoder to what is asked of it (`visprobe.features.requests`).
        run: From inputs to the answer.
        images: At most so many images are looked at; None for all.
        floors: Whether it is also run on the floors.
        fixed_grid: Whether it needs the same grid of patches for every image.
    """

    name: str
    question: str
    needs: Callable[[VisionEncoder], Sequence[str]]
    run: Callable[[Inputs], Result]
    images: int | None = None
    floors: bool = True
    fixed_grid: bool = False


def only(features: FeatureSet, requests: Sequence[str]) -> FeatureSet:
    """`features` with nothing but `requests`."""
    return replace(features, sites={request: features.sites[request] for request in requests})
