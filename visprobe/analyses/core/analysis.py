"""Analysis: what it needs of each encoder, and how it turns features into a `Result`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from visprobe.data.image_set import ImageSet
from visprobe.features.feature_set import FeatureSet, RequestView
from visprobe.results.presentation import Presentation
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

Sets = tuple[FeatureSet, ...]


@dataclass(frozen=True)
class Inputs:
    """Inputs of an analysis: features of the same images under every encoder, and the encoders.

    Attributes:
        base: Features under the base checkpoint, at the requested sites only.
        others: Features under its descendants, in the order given.
        baselines: Features under the baselines: "untrained", "<base> (bfloat16)".
        encoders: Encoders of base and others, in that order.
        seed: Seed of every random choice.
        support: Features of the training images, under base, others and baselines in that order; empty
            where the data has one split only. For analyses with `support`.
        variants: Features of each variant of the images by its name, ordered as `support`, where `variants` is given.
        images: Images of `base`, for what they carry beside classes (masks, targets, captions).
        support_images: Images of `support`.
    """

    base: FeatureSet
    others: tuple[FeatureSet, ...]
    baselines: tuple[FeatureSet, ...]
    encoders: tuple[VisionEncoder, ...]
    seed: int = 0
    support: Sets = ()
    variants: Mapping[str, Sets] = field(default_factory=dict)
    images: ImageSet | None = None
    support_images: ImageSet | None = None

    @property
    def all(self) -> Sets:
        """Features under base, others and baselines, in that order."""
        return (self.base, *self.others, *self.baselines)


@dataclass(frozen=True)
class Analysis:
    """Question about encoders, answered from features of one image set.

    Attributes:
        name: Name in `--analyses` and `Result.analysis`.
        question: Question that it answers, in one sentence.
        needs: Maps an encoder to the sites requested of it (`visprobe.features.requests`).
        run: Computes the result from the inputs.
        images: Largest number of images to use; None for all.
        baselines: Baselines that it also runs on: all, the untrained towers, or none.
        fixed_grid: True if it needs the same grid of patches for every image.
        support: True if it trains on the images of a second split, where there is one.
        variants: Maps the images and a seed to changed copies of them (corrupted, cropped) that it uses too.
        equip: Maps an encoder to one that has what its checkpoint lacks and this analysis alone asks for; called once,
            before baselines are made.
        check: Raises DataError if images (and support images) lack what it needs; called before any image is read.
        required: True if a run fails where this analysis cannot answer; otherwise it is left out with a warning.
        presentation: Titles of its measures, its figures, and the sentences that it adds to a verdict.
    """

    name: str
    question: str
    needs: Callable[[VisionEncoder], Sequence[str]]
    run: Callable[[Inputs], Result]
    images: int | None = None
    baselines: Literal["all", "untrained", "none"] = "all"
    fixed_grid: bool = False
    support: bool = False
    variants: Callable[[ImageSet, int], Mapping[str, ImageSet]] | None = None
    check: Callable[[ImageSet, ImageSet | None], None] | None = None
    equip: Callable[[VisionEncoder], VisionEncoder] | None = None
    required: bool = False
    presentation: Presentation = field(default_factory=Presentation)


def only(features: FeatureSet, requests: Sequence[str]) -> FeatureSet:
    """Return `features` restricted to `requests`."""
    return replace(features, sites=RequestView(features.sites, requests))
