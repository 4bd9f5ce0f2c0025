"""Figure of size, rank and direction of the change of every weight matrix, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.labels import block_number, class_label, unique_short_labels
from visprobe.figures.marks import add_tooltips
from visprobe.figures.site_axis import label_sites, place_sites
from visprobe.figures.style import MUTED, TWO_COLUMNS, CheckpointStyle, checkpoint_styles, paper_style, stacked
from visprobe.figures.text import fitted
from visprobe.figures.ticks import log_y_axis
from visprobe.results.result import Result

_CLASSES = ("attention_q", "attention_k", "attention_v", "attention_out", "mlp_in", "mlp_gate", "mlp_out")
_ACROSS = 3  # checkpoints side by side on a narrow figure
_TITLE_POINTS, _SIDE_POINTS = 54, 100
_PANELS = {
    "size": "σ₁(ΔW) / σ₁(W)",
    "rank": "Stable rank / random",
    "direction": "Top-direction energy / random",
}


def draw(result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
    """Draw spectral size, stable rank and energy along the base's strong directions, per block and checkpoint.

    Stable rank and energy are divided by those of a change of random direction: 1 on both axes.

    Args:
        result: A "spectrum" result; its settings["matrices"] are drawn.
        checkpoints: Not used: colours go by class of weight.
        width: Inches; two columns of a paper if None.
    """
    matrices = {
        name: [m for m in found if m["kind"] in _CLASSES] for name, found in result.settings["matrices"].items()
    }
    groups = sorted({m["group"] for found in matrices.values() for m in found if block_number(m["group"]) is not None})
    positions = place_sites(groups)
    look = checkpoint_styles(_CLASSES)
    with paper_style():
        figure, panels = _panels(max(len(matrices), 1), width or TWO_COLUMNS)
        for column, measure in enumerate(_PANELS):
            values = [height(m, measure) for found in matrices.values() for m in found]
            zero = log_y_axis(panels[0, column], [*values, *([1.0] if measure != "size" else [])])
            for line, found in enumerate(matrices.values()):
                ends = _draw_lines(panels[line, column], found, measure, positions, look, zero)
                if line == 0 and column == len(_PANELS) - 1:
                    label_ends(panels[line, column], ends)
            for axes in panels[:, column] if positions else ():
                label_sites(axes, positions)
                axes.set_xlabel("Block")
        _name_panels(panels, list(matrices), stacked(figure.get_figwidth()))
    return figure


def caption(result: Result) -> str:
    """Return the caption of `draw(result)`, with n."""
    count = sum(len(found) for found in result.settings["matrices"].values())
    return (
        "Spectrum of the weight change, per block and class of weight: its largest singular value over the base's "
        "(left), its stable rank over that of a random matrix of the same shape (middle), and the share of its energy "
        f"within the base's top {result.settings['k']} left and right singular directions over that of a random "
        f"direction (right; dotted: random). Exact over n = {count:,} matrices."
    )


def _panels(checkpoints: int, width: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure and its axes by checkpoint and measure: a line per checkpoint, or a column if narrow."""
    if not stacked(width):
        figure = Figure((width, 0.7 + 1.4 * checkpoints), layout="constrained")
        return figure, figure.subplots(checkpoints, len(_PANELS), sharex=True, sharey="col", squeeze=False)
    bands = -(-checkpoints // _ACROSS)
    figure = Figure((width, 0.5 + 1.3 * bands * len(_PANELS)), layout="constrained")
    made = figure.subplots(bands * len(_PANELS), min(checkpoints, _ACROSS), sharex=True, squeeze=False)
    made = made.reshape(bands, len(_PANELS), -1).transpose(0, 2, 1).reshape(-1, len(_PANELS))
    for axes in made[checkpoints:].flat:
        axes.set_visible(False)
    for axes, first in ((axes, made[0, column]) for column in range(len(_PANELS)) for axes in made[1:, column]):
        axes.sharey(first)
    return figure, made[:checkpoints]


def _name_panels(panels: NDArray[Any], names: Sequence[str], stack: bool) -> None:
    for column, title in enumerate(_PANELS.values()):
        if stack:
            for axes in panels[::_ACROSS, column]:
                axes.set_ylabel(title)
        else:
            panels[0, column].set_title(title)
    points = _TITLE_POINTS if stack else _SIDE_POINTS
    for axes, name in zip(panels[:, 0], unique_short_labels(names, lambda name: fitted(name, points, 9)), strict=False):
        axes.set_title(name) if stack else axes.set_ylabel(name)
    for axes in panels.flat:
        axes.label_outer()


def height(matrix: dict[str, Any], measure: str) -> float:
    """Return the number that a panel shows of one matrix."""
    (m, n), k = matrix["shape"], matrix["k"]
    if measure == "size":
        return float(matrix["spectral_change"])
    if measure == "rank":
        return float(matrix["stable_rank"] * (m**0.5 + n**0.5) ** 2 / (m * n))
    return float(matrix["energy_both"] * m * n / k**2)


def _draw_lines(
    axes: Axes,
    matrices: Sequence[dict[str, Any]],
    measure: str,
    positions: dict[str, float],
    look: dict[str, CheckpointStyle],
    zero: float,
) -> list[End]:
    ends = []
    if measure != "size":
        axes.axhline(1.0, color=MUTED, linestyle=":", linewidth=0.9)
    for kind in _CLASSES:
        own = sorted((m for m in matrices if m["kind"] == kind and m["group"] in positions), key=lambda m: m["group"])
        if own:
            x, y = [positions[m["group"]] for m in own], [max(height(m, measure), zero) for m in own]
            axes.plot(x, y, color=look[kind].colour, marker=look[kind].marker, markeredgecolor="white",
                      markeredgewidth=0.4, markersize=3.2, linewidth=1.0)  # fmt: skip
            add_tooltips(axes.lines[-1], (f"{m['group']}, {class_label(kind)}: {height(m, measure):.4g}" for m in own))
            ends.append(End(class_label(kind), y[-1], *look[kind]))
    axes.grid(axis="y")
    return ends
