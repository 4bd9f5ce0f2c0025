"""Patch features and the classes of their pixels, image by image, for training and evaluating heads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse

from visprobe.analyses.segmentation.view import UNCOUNTED, View, not_smaller, window
from visprobe.data.image_set import BadImage, ImageSet, decode
from visprobe.data.labels.annotated import HasMasks
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, parts_of
from visprobe.metrics.arrays import Indices
from visprobe.metrics.segmentation.pixels import patch_counts

MOST_ACROSS = 512  # most pixels that are counted along a mask's longer side

Floats = NDArray[np.float32]


class Patches:
    """Patch features of some images of one set at one site, read on demand.

    Args:
        features: Feature set.
        request: Requested site ("block_12:tokens").
        ids: Ids of the images, in the order of their indices.

    Raises:
        DataError: If the set repeats an id or lacks one of `ids`.

    Attributes:
        tokens: Number of patches per image.
        width: Number of features per patch.
    """

    def __init__(self, features: FeatureSet, request: str, ids: Sequence[str]) -> None:
        position = {item: row for row, item in enumerate(features.item_ids)}
        lacking = [item for item in ids if item not in position]
        if lacking or len(position) < len(features.item_ids):
            raise DataError(
                f"{features.encoder} was not given the same images of {features.images}"
                + (f": {lacking[0]} is missing" if lacking else ": an image id is there more than once"),
                hint="Extract the features of all checkpoints from the same image set in one run.",
            )
        self._features, self._request = features, request
        self._parts = parts_of(features.sites, request)
        self._starts = [0, *accumulate(len(part) for part in self._parts)]
        self._rows = [position[item] for item in ids]
        self.tokens, self.width = (int(size) for size in self._parts[0].shape[1:])

    def __call__(self, images: Indices) -> Floats:
        """Return the features of images by their indices, float32 of shape (b, patches, d).

        Raises:
            DataError: If one is not finite.
        """
        found = np.stack([self._row(self._rows[image]) for image in images]).astype(np.float32)
        if not np.isfinite(found).all():
            raise DataError(
                f"{self._features.encoder}: the features of {self._features.images} at {self._request} are not finite",
                hint="Extract in float32; if it stays, the checkpoint holds NaN, or overflows the store's float16.",
            )
        return found

    def _row(self, row: int) -> NDArray[np.floating]:
        # The shard that holds the row: shards are never joined, as the whole may not fit into memory.
        part = bisect_right(self._starts, row) - 1
        found: NDArray[np.floating] = self._parts[part][row - self._starts[part]]
        return found


@dataclass(frozen=True)
class Labelled:
    """Masks of some images as one view shows them.

    Attributes:
        ids: Ids of the images with a mask in which at least one pixel counts.
        counts: Pixels of each class in each patch by grid, one sparse array of shape (patches, classes) per image.
        windows: Mask of each image as it is seen, uint16 of shape (H, W); empty if they were not kept.
        left_out: Images without a usable mask, and why.
    """

    ids: tuple[str, ...]
    counts: Mapping[Grid, Sequence[sparse.csr_array]]
    windows: tuple[NDArray[np.uint16], ...]
    left_out: tuple[tuple[str, str], ...]

    def only(self, ids: Sequence[str]) -> Labelled:
        """Return the masks of some of the images, in the order of `ids`."""
        place = {item: number for number, item in enumerate(self.ids)}
        rows = [place[item] for item in ids]
        counts = {grid: [each[row] for row in rows] for grid, each in self.counts.items()}
        return Labelled(tuple(ids), counts, tuple(self.windows[row] for row in rows) if self.windows else (), ())

    def batch(self, grid: Grid, images: Indices) -> Floats:
        """Return the pixels of each class in each patch, float32 of shape (b, patches, classes)."""
        return np.stack([self.counts[grid][image].toarray() for image in images]).astype(np.float32)

    def pixels(self) -> NDArray[np.int64]:
        """Count the pixels of each class over all images, int64 of shape (classes,)."""
        each = next(iter(self.counts.values()))
        total: NDArray[np.int64] = np.sum([one.sum(0) for one in each], axis=0)
        return total


@dataclass(frozen=True)
class Labels:
    """Classes of the numbers in masks.

    Attributes:
        classes: Names of the classes by number.
        ignored: Numbers that count for no class.
    """

    classes: tuple[str, ...]
    ignored: frozenset[int] = field(default_factory=frozenset)


def labels_of(images: ImageSet, ignored: Collection[int], background: int | None) -> Labels:
    """Return the classes of `images`, without what they or `ignored` exclude; a `background` always counts.

    Raises:
        DataError: If the images have no masks, fewer than two classes, or `background` is no class.
    """
    if not isinstance(images, HasMasks):
        raise DataError(
            f"{images.name} has no masks",
            hint="Segmentation needs a class for every pixel: images/ and masks/ side by side, Pascal VOC, ADE20K, "
            "COCO-stuff, a dataset with two image columns, or 'digits'.",
        )
    classes = images.mask_classes
    if background is not None and not 0 <= background < len(classes):
        raise DataError(f"{images.name} has no class {background} to be its background", hint="Leave --background out.")
    left = frozenset({images.ignored, *ignored} - {background})
    if len(set(range(len(classes))) - left) < 2:
        raise DataError(
            f"{images.name} has fewer than two classes of pixels", hint="Give other images, or ignore less."
        )
    return Labels(classes, left)


def read_masks(
    images: ImageSet, wanted: Collection[str], view: View, grids: Collection[Grid], labels: Labels, *, keep: bool
) -> Labelled:
    """Read the masks of `images`, each once.

    Args:
        images: Images with masks.
        wanted: Ids of the images that have features.
        view: View of the tower.
        grids: Grids of patches to count pixels in.
        labels: Classes of the numbers.
        keep: Keep the masks themselves too.

    Raises:
        DataError: If a mask holds a number that is no class.
    """
    ids: list[str] = []
    windows: list[NDArray[np.uint16]] = []
    left_out: list[tuple[str, str]] = []
    counts: dict[Grid, list[sparse.csr_array]] = {grid: [] for grid in grids}
    for item, found in _read(images, frozenset(wanted), view, labels):
        if isinstance(found, str):
            left_out.append((item, found))
            continue
        ids.append(item)
        for grid in grids:
            own = patch_counts(not_smaller(found, grid), grid, len(labels.classes), UNCOUNTED)
            counts[grid].append(sparse.csr_array(own.reshape(-1, len(labels.classes)).astype(np.int32)))
        if keep:
            step = -(-max(found.shape) // MOST_ACROSS)
            windows.append(found[::step, ::step].copy())
    return Labelled(tuple(ids), counts, tuple(windows), tuple(left_out))


def _read(
    images: ImageSet, wanted: frozenset[str], view: View, labels: Labels
) -> Iterator[tuple[str, NDArray[np.uint16] | str]]:
    """Yield every image with the visible part of its mask, or why there is none."""
    assert isinstance(images, HasMasks)  # `labels_of` was asked first
    ignored = np.array(sorted(labels.ignored))
    for index, item in enumerate(images.items):
        if item.id not in wanted:
            continue
        try:
            mask = images.mask(index)
        except (BadImage, OSError) as error:
            yield item.id, str(error)
            continue
        counted = mask[~np.isin(mask, ignored)]
        if counted.size and (counted.min() < 0 or counted.max() >= len(labels.classes)):
            raise DataError(
                f"the mask of {item.id} holds the numbers {counted.min()} to {counted.max()}; there are "
                f"{len(labels.classes)} classes, from 0 on",
                hint="If one of them means unlabelled, say --ignored N; else complete the list of class names.",
            )
        seen = window(mask, view.box(mask.shape[1], mask.shape[0]), lambda part: np.isin(part, ignored))
        yield item.id, seen if (seen != UNCOUNTED).any() else "no pixel that is seen counts for a class"


def picture(images: ImageSet, index: int, view: View, side: int) -> Image.Image:
    """Return the part of an image that `view` shows, at most `side` pixels long.

    Raises:
        OSError: If it cannot be read.
        BadImage: If it cannot be decoded.
    """
    whole = decode(images.read(index), reduced=True)
    shown = whole.crop(view.box(*whole.size))
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shown
