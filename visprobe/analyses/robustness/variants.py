"""Changed copies of the images that robustness is measured on, and their names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visprobe.data.corruptions import Corrupted, check_corruptions
from visprobe.data.crops import Cropped, Resized, check_sizes
from visprobe.data.image_set import ImageSet
from visprobe.errors import UsageError

RESOLUTION, CROP = "resolution", "crop"
# One of each group of ImageNet-C: noise, blur, weather, digital.
ALL = "mean of corruptions"
FEW = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression")


@dataclass(frozen=True)
class Plan:
    """Changes to measure.

    Attributes:
        corruptions: Names of corruptions (`visprobe.data.corruptions`), each at every severity.
        severities: Severities from 1 to 5.
        resolutions: Lengths in pixels that the shorter side is reduced to.
        crops: Shares of each side that a centre crop keeps, in (0, 1].

    Raises:
        UsageError: If a corruption or severity is unknown, a size leaves nothing, or nothing is asked for.
    """

    corruptions: tuple[str, ...] = FEW
    severities: tuple[int, ...] = (1, 3, 5)
    resolutions: tuple[int, ...] = ()
    crops: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_corruptions(self.corruptions, self.severities)
        check_sizes(self.resolutions, self.crops)
        if not (self.corruptions and self.severities) and not self.resolutions and not self.crops:
            raise UsageError("no change of the images is asked for", hint="Name corruptions, resolutions or crops.")

    def variants(self, images: ImageSet, seed: int) -> dict[str, ImageSet]:
        """Return changed copies of `images` by name: "fog 3", "resolution 16", "crop 0.5"."""
        found: dict[str, ImageSet] = {}
        for kind in dict.fromkeys(self.corruptions):
            for severity in sorted({*self.severities}):
                found[f"{kind} {severity}"] = Corrupted(images, kind, severity, seed)
        for pixels in sorted({*self.resolutions}, reverse=True):
            found[f"{RESOLUTION} {pixels}"] = Resized(images, pixels)
        for share in sorted({*self.crops} - {1.0}, reverse=True):  # the whole image is the clean one
            found[f"{CROP} {share:g}"] = Cropped(images, share)
        return found


def kind_of(variant: str) -> str:
    """Return the kind of a variant: "fog" of "fog 3"."""
    return variant.rpartition(" ")[0]


def level_of(variant: str) -> float:
    """Return the level of a variant: 3 of "fog 3"."""
    return float(variant.rpartition(" ")[2])


def summed_up(kinds: Iterable[str]) -> list[str]:
    """Return the `kinds` that are no part of another: the mean of several corruptions instead of each."""
    found = list(kinds)
    return [kind for kind in found if kind in (ALL, RESOLUTION, CROP) or ALL not in found]


def by_kind(variants: Iterable[str]) -> dict[str, list[str]]:
    """Group the variants by kind; several corruptions also together, as `ALL`."""
    found: dict[str, list[str]] = {}
    for variant in variants:
        found.setdefault(kind_of(variant), []).append(variant)
    corruptions = [kind for kind in found if kind not in (RESOLUTION, CROP)]
    if len(corruptions) > 1:
        found[ALL] = [variant for kind in corruptions for variant in found[kind]]
    return found
