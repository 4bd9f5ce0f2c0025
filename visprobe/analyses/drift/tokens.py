"""Change of patch tokens by their place in the image: at the border, in a few places, or all over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Paired, difference_rows, kinds_of, value_rows
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.arrays import Array
from visprobe.metrics.intervals.estimate import FRACTION, Estimate, Scale
from visprobe.metrics.intervals.jackknife import replicate_mean
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result

QUESTION = "Where in the image did patch tokens move: at the border, in a few places, or all over?"

_IMAGES = 64
_TOP = 0.1  # share of the tokens of an image
_BORDER = 1 / 8  # share of the grid, on each side
_SAME = 1e-6

Grid = tuple[int, int]
_Measured = dict[str, Array]  # measure to one number per image


def token_changes(
    base: FeatureSet, others: Sequence[FeatureSet], baselines: Sequence[FeatureSet], grid: Grid
) -> Result:
    """Measure how far every patch token moved at the site that the language model reads.

    Args:
        base: All patch tokens in raster order ("block_NN:tokens"), float of shape (n, T, d), under the base.
        others: Tokens of the same images under its descendants.
        baselines: Tokens of the same images under "untrained" and "<base> (bfloat16)".
        grid: Rows and columns of the patch tokens, T in all.

    Returns:
        Rows, each a mean over images of one number per image, with paired differences between descendants:
        "token_change", the mean over tokens of |b - a| / |a|; "border_minus_centre", the same over the outer eighth
        of the grid on each side less that of the rest; "top_places", the share of an image's change at the tenth of
        places that changed most in other images (a tenth if no place is special; on every second image);
        "top_tokens", the share in the tenth of its own tokens that changed most, to be compared with that of
        rounding. Mean maps are in settings["maps"], the base's mean token norms in settings["norms"].

    Raises:
        DataError: If there are fewer than five images, they are not the same for all, the tokens do not fill the
            grid, or a token is not finite or zero.
    """
    base, *rest = align([base, *others, *baselines])
    refuse_fewer(base, 5, "a map of tokens")
    names = [features.encoder for features in others]
    changes = {features.encoder: _changes(base, features, grid) for features in rest}
    still = [name for name, change in changes.items() if change.max() < _SAME]
    identical = [name for name in names if name in still]
    moved = {name: change for name, change in changes.items() if name not in still}
    measured = {name: _measures(change, grid) for name, change in moved.items()}
    found = {
        (name, base.consumed, measure): values
        for name, by_measure in measured.items()
        for measure, values in by_measure.items()
    }
    numbers = {key: replicate_mean(values).estimate(_scale(key[2])) for key, values in found.items()}
    rows = (
        *value_rows(numbers, kinds_of(baselines), base.encoder),
        *difference_rows(found, names, _difference),
    )
    settings = {
        **common_settings(base),
        "grid": list(grid),
        "share_expected_of_top_places": _top(grid) / (grid[0] * grid[1]),
        "identical": identical,
        "maps": {name: _table(change.mean(0), grid) for name, change in moved.items()},
        "norms": _table(_lengths(_tokens(base, grid)).mean(0), grid),
    }
    warnings = tuple(f"{name}: no token moved at {base.consumed}" for name in identical)
    return Result("tokens", QUESTION, rows, settings, warnings)


def _tokens(features: FeatureSet, grid: Grid) -> NDArray[np.floating]:
    array = np.asarray(features.sites[f"{features.consumed}:tokens"])
    if array.ndim != 3 or array.shape[1] != grid[0] * grid[1]:
        raise DataError(
            f"{features.encoder} has tokens of shape {array.shape} at {features.consumed}: they do not fill a grid of "
            f"{grid[0]}x{grid[1]}",
            hint="Leave tokens out of --analyses for this model.",
        )
    return array


def _changes(base: FeatureSet, features: FeatureSet, grid: Grid) -> Array:
    """Compute the relative change of every token, float64 of shape (n, T)."""
    before, after = _tokens(base, grid), _tokens(features, grid)
    if before.shape != after.shape:
        raise DataError(
            f"tokens of {features.encoder} have shape {after.shape}, those of {base.encoder} {before.shape}",
            hint="Compare checkpoints that descend from one base, with the base first.",
        )
    lengths = _lengths(before)
    if not lengths.all():
        image = base.item_ids[int(np.argwhere(lengths == 0)[0][0])]
        raise DataError(
            f"{base.encoder} has a token of zeros at {base.consumed} for {image}: its relative change is not defined",
            hint="Leave this image out.",
        )
    return _lengths(after, before) / lengths


def _lengths(tokens: NDArray[np.floating], less: NDArray[np.floating] | None = None) -> Array:
    """Compute the norm of every token, or of its difference from `less`; in float64, one image at a time."""
    found = np.empty(tokens.shape[:2])
    for row, image in enumerate(tokens):
        wide = image.astype(np.float64)
        found[row] = np.linalg.norm(wide if less is None else wide - less[row], axis=1)
    return found


def _measures(change: Array, grid: Grid) -> _Measured:
    border, count = _border(grid), _top(grid)
    total = np.maximum(change.sum(1), np.finfo(np.float64).tiny)
    measures = {"token_change": change.mean(1)}
    if border.any() and not border.all():
        measures["border_minus_centre"] = change[:, border].mean(1) - change[:, ~border].mean(1)
    own = np.partition(change, -count, axis=1)[:, -count:].sum(1)
    return measures | {"top_places": _at_places_of_others(change, count), "top_tokens": own / total}


def _at_places_of_others(change: Array, count: int) -> Array:
    """Return the share of every second image's change at the places that changed most in the other half."""
    # Places are chosen and measured on different images, so that chance is not found twice; choosing them for each
    # image on all others would tie the images together: 17 % of intervals then missed a true tenth from below.
    places = np.argpartition(change[::2].sum(0), -count)[-count:]
    measured = change[1::2]
    share: Array = measured[:, places].sum(1) / np.maximum(measured.sum(1), np.finfo(np.float64).tiny)
    return share


def _border(grid: Grid) -> NDArray[np.bool_]:
    """Return the tokens in the outer eighth of the grid, one row or column at least, bool of shape (T,)."""
    rows, columns = (max(1, round(side * _BORDER)) for side in grid)
    border = np.ones(grid, dtype=bool)
    border[rows:-rows, columns:-columns] = False
    return border.ravel()


def _top(grid: Grid) -> int:
    return max(1, round(_TOP * grid[0] * grid[1]))


def _difference(pair: Paired[Array]) -> Estimate:
    return replicate_mean(pair.after - pair.before).estimate(_scale(pair.measure))


def _scale(measure: str) -> Scale:
    return FRACTION.of_differences if measure.startswith("top_") else Scale("ratio")


def _table(values: Array, grid: Grid) -> list[list[Any]]:
    return [[float(f"{value:.6g}") for value in row] for row in values.reshape(grid)]


def _run(inputs: Inputs) -> Result:
    grid = inputs.encoders[0].grid
    assert grid is not None  # fixed_grid
    return token_changes(inputs.base, inputs.others, inputs.baselines, grid)


TOKENS = Analysis(
    name="tokens",
    question=QUESTION,
    needs=lambda encoder: ["consumed:tokens"],
    run=_run,
    images=_IMAGES,
    fixed_grid=True,
    presentation=Presentation(
        titles={
            "token_change": "Mean relative change of a patch token",
            "border_minus_centre": "Relative change at the border less that in the centre",
            "top_places": "Share of the change at the tenth of places that changed most in other images",
            "top_tokens": "Share of the change in the tenth of tokens that changed most",
        },
        figures=(FigureSpec("token_change", "visprobe.analyses.drift.tokens_figure"),),
        place=170,
        drawn_settings=("maps", "norms"),
    ),
)
