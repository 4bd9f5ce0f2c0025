"""Figure: size, rank and direction of the change of every weight matrix, from block to block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from visprobe.analyses.result import Result
from visprobe.figures.end_labels import End, label_ends
from visprobe.figures.labels import block_number, class_label, shorten
from visprobe.figures.log_axis import log_y_axis
from visprobe.figures.site_axis import label_sites, place_sites
from visprobe.figures.style import MUTED, TWO_COLUMNS, Look, looks, paper_style

_CLASSES = ("attention_q", "attention_k", "attention_v", "attention_out", "mlp_in", "mlp_gate", "mlp_out")
_PANELS = {
    "size": "σ₁(ΔW) / σ₁(W)",
    "rank": "Stable rank / random",
    "direction": "Top-direction energy / random",
}


def draw(result: Result, checkpoints: Sequence[str] = ()) -> Figure:
    """Spectral size, stable rank and energy along the base's strong directions, per block; a row per checkpoint.

    Stable rank and energy are shown over what a change of random direction would have: 1 on both axes.

    Args:
        result: A "spectrum" result; its settings["matrices"] are drawn.
        checkpoints: Not used: colours go by class of weight.
    """
    matrices = {
        name: [m for m in found if m["kind"] in _CLASSES] for name, found in result.settings["matrices"].items()
    }
    groups = sorted({m["group"] for found in matrices.values() for m in found if block_number(m["group"]) is not None})
    positions = place_sites(groups)
    look = looks(_CLASSES)
    with paper_style():
        figure = Figure((TWO_COLUMNS, 0.7 + 1.4 * max(len(matrices), 1)), layout="constrained")
        panels = figure.subplots(max(len(matrices), 1), len(_PANELS), sharex=True, sharey="col", squeeze=False)
        for column, (measure, title) in enumerate(_PANELS.items()):
            panels[0, column].set_title(title)
            values = [height(m, measure) for found in matrices.values() for m in found]
            zero = log_y_axis(panels[0, column], [*values, *([1.0] if measure != "size" else [])])
            for line, found in enumerate(matrices.values()):
                ends = _draw_lines(panels[line, column], found, measure, positions, look, zero)
                if line == 0 and column == len(_PANELS) - 1:
                    label_ends(panels[line, column], ends)
            if positions:
                label_sites(panels[-1, column], positions)
                panels[-1, column].set_xlabel("Block")
        for line, name in enumerate(matrices):
            panels[line, 0].set_ylabel(shorten(name))
    return figure


def caption(result: Result) -> str:
    """The caption of `draw(result)`."""
    count = sum(len(found) for found in result.settings["matrices"].values())
    return (
        "Spectrum of the weight change, per block and class of weight: its largest singular value over the base's "
        "(left), its stable rank over that of a random matrix of the same shape (middle), and the share of its energy "
        f"within the base's top {result.settings['k']} left and right singular directions over that of a random "
        f"direction (right; dotted: random). Exact over n = {count:,} matrices."
    )


def height(matrix: dict[str, Any], measure: str) -> float:
    """What a panel shows of one matrix."""
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
    look: dict[str, Look],
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
            ends.append(End(class_label(kind), y[-1], *look[kind]))
    axes.grid(axis="y")
    return ends
