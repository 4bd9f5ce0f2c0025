"""Panels in rows and columns; on a narrow figure the columns are stacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from visprobe.figures.style import stacked


class Panels(NamedTuple):
    """Panels of a figure.

    Attributes:
        axes: Axes of shape (rows, columns); a row shares its y axis, a column its x axis.
        stacked: True if the columns follow each other downwards.
    """

    axes: NDArray[Any]
    stacked: bool

    def label_row(self, row: int, text: str) -> None:
        """Label the y axis of a row, once if its panels stand side by side."""
        for axes in self.axes[row, : None if self.stacked else 1]:
            axes.set_ylabel(text)


def panels_of(
    figure: Figure,
    down: int,
    across: int,
    *,
    height_ratios: Sequence[float] | None = None,
    width_ratios: Sequence[float] | None = None,
) -> Panels:
    """Divide `figure` into panels; it becomes `across` times as high if its columns are stacked.

    Args:
        figure: The figure, as high as it is with panels side by side.
        down: Number of rows.
        across: Number of columns.
        height_ratios: Relative heights of the rows.
        width_ratios: Relative widths of the columns, where they stand side by side.
    """
    if across == 1 or not stacked(figure.get_figwidth()):
        made = figure.subplots(
            down, across, sharex="col", sharey="row", squeeze=False, height_ratios=height_ratios,
            width_ratios=width_ratios,
        )  # fmt: skip
        return Panels(made, False)
    figure.set_figheight(figure.get_figheight() * across)
    ratios = [*height_ratios] * across if height_ratios else None
    axes = figure.subplots(down * across, 1, height_ratios=ratios).reshape(across, down).T
    for row, column in np.ndindex(down, across):
        _share(axes[row, column], axes[row, 0], axes[-1, column])
    return Panels(axes, True)


def _share(axes: Axes, y: Axes, x: Axes) -> None:
    if axes is not y:
        axes.sharey(y)
    if axes is not x:
        axes.sharex(x)
        axes.tick_params(labelbottom=False)
