"""Setting of a segmentation: images with masks, the part that each checkpoint sees, features and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.analyses.segmentation.data import Labelled, Labels, Patches, labels_of, read_masks
from visprobe.analyses.segmentation.heads import Form, Task
from visprobe.analyses.segmentation.view import View, grid_of
from visprobe.data.image_set import ImageSet
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet, parts_of

Of = tuple[str, str]  # checkpoint and site
_LEAST = 5  # training images: four to train on, one held out
_NO_SUPPORT = "Heads are trained: give data with train and val splits."


@dataclass(frozen=True)
class SegmentationConfig:
    """Options of a segmentation.

    Attributes:
        heads: Forms of heads to train.
        seeds: Number of trainings of each head.
        ignored: Labels in masks that count for no class, beside those that the images themselves name.
        background: Class that patches hold only if they hold no other.
        paper: Run the published protocol, and measure its leak, as well.
        least_steps: Least steps of each training, if five epochs are fewer; by default 300.
    """

    heads: tuple[Form, ...] = ("linear",)
    seeds: int = 3
    ignored: tuple[int, ...] = ()
    background: int | None = None
    paper: bool = False
    least_steps: int | None = None


@dataclass(frozen=True)
class Setting:
    """Labels and images that all checkpoints share, and the tasks of each checkpoint and site.

    Attributes:
        labels: Classes of the masks.
        train_ids: Ids of the training images.
        val_ids: Ids of the images that heads are evaluated on.
        tasks: Tasks by checkpoint and site.
        left_out: Images without a usable mask, and why, by image set.
        without_grid: Checkpoints and sites whose tokens lie on no grid.
        views: View of the images, by checkpoint.
    """

    labels: Labels
    train_ids: tuple[str, ...]
    val_ids: tuple[str, ...]
    tasks: Mapping[Of, Task]
    left_out: Mapping[str, Sequence[tuple[str, str]]]
    without_grid: Sequence[Of]
    views: Mapping[str, View]


def setting_of(inputs: Inputs, asked: SegmentationConfig) -> Setting:
    """Read the masks and pair them with the features.

    Raises:
        DataError: If there are no masks or no training images, or the features do not fit.
    """
    refuse_fewer(inputs.base, 2, "segmentation")
    if inputs.images is None or inputs.support_images is None or not inputs.support:
        raise DataError(f"{inputs.base.images} has no training images", hint=_NO_SUPPORT)
    labels = labels_of(inputs.images, asked.ignored, asked.background)
    views = _views(inputs)
    known = {view.key: view for view in views.values()}
    grids, without = _grids(inputs, views)
    read = {
        key: (
            read_masks(inputs.support_images, inputs.support[0].item_ids, view, used, labels, keep=False),
            read_masks(inputs.images, inputs.base.item_ids, view, used, labels, keep=True),
        )
        for key, view in known.items()
        if (used := {grid for of, grid in grids.items() if views[of[0]].key == key})
    }
    if not read:
        raise DataError(f"{inputs.base.encoder}: its tokens lie on no grid", hint="Leave segmentation out for it.")
    train_ids, val_ids = (_shared([pair[which] for pair in read.values()]) for which in (0, 1))
    _refuse_few(inputs, train_ids, val_ids)
    own = {key: (pair[0].only(train_ids), pair[1].only(val_ids)) for key, pair in read.items()}
    tasks = {}
    for support, features in zip(inputs.support, inputs.all, strict=True):
        _same_images(features, inputs.base)
        for request in features.sites:
            of = features.encoder, request.partition(":")[0]
            if of in grids:
                train, val = own[views[features.encoder].key]
                sides = Patches(support, request, train_ids), train, Patches(features, request, val_ids), val
                if sides[0].width != sides[2].width or sides[0].tokens != sides[2].tokens:
                    raise DataError(
                        f"{of[0]}: features at {of[1]} differ in shape between {support.images} and {features.images}",
                        hint="Extract the features of both splits from one checkpoint.",
                    )
                tasks[of] = Task(*sides, grids[of], asked.background, inputs.encoders[0].device)
    left_out = {inputs.support_images.name: _left_out(read, 0), inputs.images.name: _left_out(read, 1)}
    return Setting(labels, train_ids, val_ids, tasks, left_out, without, views)


def _views(inputs: Inputs) -> dict[str, View]:
    """Return the view of each checkpoint; those of one pixel format share the base's image processor."""
    base, known = inputs.encoders[0], {encoder.name: encoder for encoder in inputs.encoders}
    views: dict[str, View] = {}
    for features in inputs.all:
        own = known.get(features.encoder) or next(
            (e for e in known.values() if f"({e.name})" in features.encoder), base
        )
        shown = base if own.pixel_kind == base.pixel_kind else own
        same = next((view for view in views.values() if view.key == (shown.processor_hash, *shown.pixel_kind)), None)
        views[features.encoder] = same or View(shown)
    return views


def _grids(inputs: Inputs, views: Mapping[str, View]) -> tuple[dict[Of, Grid], list[Of]]:
    grids: dict[Of, Grid] = {}
    without: list[Of] = []
    for features in inputs.all:
        for request in features.sites:
            of = features.encoder, request.partition(":")[0]
            grid = grid_of(parts_of(features.sites, request)[0].shape[1], views[features.encoder].grid)
            if grid is None:
                without.append(of)
            else:
                grids[of] = grid
    return grids, without


def _shared(read: Sequence[Labelled]) -> tuple[str, ...]:
    common = set.intersection(*(set(one.ids) for one in read))
    return tuple(item for item in read[0].ids if item in common)


def _left_out(read: Mapping[Any, tuple[Labelled, Labelled]], which: int) -> list[tuple[str, str]]:
    return list(dict.fromkeys(one for pair in read.values() for one in pair[which].left_out))


def _same_images(features: FeatureSet, base: FeatureSet) -> None:
    if set(features.item_ids) != set(base.item_ids):
        raise DataError(
            f"{features.encoder} and {base.encoder} were not given the same images of {base.images}",
            hint="Extract the features of all checkpoints from the same image set in one run.",
        )


def _refuse_few(inputs: Inputs, train_ids: Sequence[str], val_ids: Sequence[str]) -> None:
    for features, ids, least in ((inputs.support[0], train_ids, _LEAST), (inputs.base, val_ids, 2)):
        if len(ids) < least:
            raise DataError(
                f"{features.images} has {len(ids)} images with a usable mask; {least} are needed",
                hint="Check that masks have the names and sizes of their images, and what is ignored.",
            )


def check_masks(images: ImageSet, support: ImageSet | None) -> None:
    """Refuse images without masks, or without a training split of the same classes.

    Raises:
        DataError: If masks or the training split are missing, or the classes differ.
    """
    labels_of(images, (), None)
    if support is None:
        raise DataError(f"{images.name} has no training split beside it", hint=_NO_SUPPORT)
    if labels_of(support, (), None).classes != labels_of(images, (), None).classes:
        raise DataError(
            f"{support.name} and {images.name} have different classes of pixels",
            hint="Write one classes.txt beside both splits.",
        )
