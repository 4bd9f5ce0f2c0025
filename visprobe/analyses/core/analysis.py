"""What an analysis is: what it needs of each encoder, and from features to a `Result`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from visprobe.data.image_set import ImageSet
from visprobe.encoders.encoder import VisionEncoder
from visprobe.features.feature_set import FeatureSet, RequestView
from visprobe.results.presentation import Presentation
from visprobe.results.result import Result

Sets = tuple[FeatureSet, ...]


@dataclass(frozen=True)
class Inputs:
    """What an analysis is given: the same images under every encoder, and the encoders.

    Attributes:
        base: Features under the base checkpoint: what the analysis asked for, and nothing else.
        others: Under its descendants, in the order given.
        floors: Under what the numbers are read against: "untrained", "<base> (bfloat16)".
        encoders: The encoders of base and others, in that order.
        seed: Seed of every random choice.
        support: Features of the images that may be learned from, under base, others and floors in that order; empty
            where the data has one split only. For analyses with `support`.
        variants: Name of a variant of the images to features as in `support`. For analyses with `variants`.
        images: The images of `base`, for what they carry beside classes (masks, targets, captions).
        support_images: The images of `support`.
    """

    base: FeatureSet
    others: tuple[FeatureSet, ...]
    floors: tuple[FeatureSet, ...]
    encoders: tuple[VisionEncoder, ...]
    seed: int = 0
    support: Sets = ()
    variants: Mapping[str, Sets] = field(default_factory=dict)
    images: ImageSet | None = None
    support_images: ImageSet | None = None

    @property
    def all(self) -> Sets:
        """Features under base, others and floors."""
        return (self.base, *self.others, *self.floors)


@dataclass(frozen=True)
class Analysis:
    """A question about encoders, answered from features of one image set.

    Attributes:
        name: As in `--analyses` and `Result.analysis`.
        question: The question, in one sentence.
        needs: From an encoder to what is asked of it (`visprobe.features.requests`).
        run: From inputs to the answer.
        images: At most so many images are looked at; None for all.
        floors: Which floors it is also run on: all, the untrained towers, or none.
        fixed_grid: Whether it needs the same grid of patches for every image.
        support: Whether it learns from the images of a second split, where there is one.
        variants: From the images and a seed to changed copies of them (corrupted, cropped) that it looks at too.
        equip: From an encoder to one that has what its checkpoint lacks and this analysis alone asks for; called once,
            before floors are made.
        check: Raises DataError if images (and support images) lack what it needs; called before any image is read.
        required: Whether a run fails where this analysis cannot answer; any other is left out and said.
        presentation: Titles of its measures, its figures, and the sentences that it adds to a verdict.
    """

    name: str
    question: str
    needs: Callable[[VisionEncoder], Sequence[str]]
    run: Callable[[Inputs], Result]
    images: int | None = None
    floors: Literal["all", "untrained", "none"] = "all"
    fixed_grid: bool = False
    support: bool = False
    variants: Callable[[ImageSet, int], Mapping[str, ImageSet]] | None = None
    check: Callable[[ImageSet, ImageSet | None], None] | None = None
    equip: Callable[[VisionEncoder], VisionEncoder] | None = None
    required: bool = False
    presentation: Presentation = field(default_factory=Presentation)


def only(features: FeatureSet, requests: Sequence[str]) -> FeatureSet:
    """`features` with nothing but `requests`."""
    return replace(features, sites=RequestView(features.sites, requests))
