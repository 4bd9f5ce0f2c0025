"""Style of all figures: sizes of a paper column, colours that colour-blind readers tell apart, fixed output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

from matplotlib import style

from visprobe.results.result import BaselineKind, Result, Row

# Inches, of ICML and CVPR (CVPR's two columns are 6.875); one-column venues such as ICLR and NeurIPS have 5.5.
ONE_COLUMN = 3.25
TWO_COLUMNS = 6.75
_STACKED = 5.0  # inches; panels of narrower figures are stacked
SMALL = 7.0  # points, the smallest text: figures are printed at the size they are drawn for

LineStyle = Literal["-", "--", "-.", ":"]

INK = "#222222"
MUTED = "#6b6b6b"
RULE = "#d9d9d9"
SHADE = "#f2f2ef"

# Okabe and Ito (2008), without the yellow, which is unreadable on white; the base is always the first, black.
_COLOURS = ("#222222", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_STYLE = {
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same layout on every machine
    "font.size": 7.5,
    "text.parse_math": False,  # a "$" in a checkpoint's name is a dollar sign
    "text.color": INK,
    "legend.fontsize": SMALL,
    "axes.titlesize": 8.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "lines.markeredgewidth": 0.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "visprobe",
    "pdf.fonttype": 42,
}


class CheckpointStyle(NamedTuple):
    """Colour and marker of one checkpoint, the same in every figure of a report."""

    colour: str
    marker: str


def paper_style() -> AbstractContextManager[None]:
    """Return a context in which figures are made and saved; it restores matplotlib's own settings."""
    return style.context(["default", _STYLE])


def checkpoint_styles(checkpoints: Sequence[str]) -> dict[str, CheckpointStyle]:
    """Assign colour and marker to each checkpoint, by its place in `checkpoints` (the base first).

    Runs of one arm ("sft-seed0", "sft-seed1") share theirs with each other and with the arm ("sft").
    """
    arms = list(dict.fromkeys(map(_arm, checkpoints)))
    kept = {
        arm: CheckpointStyle(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, arm in enumerate(arms)
    }
    return {name: kept[_arm(name)] for name in checkpoints}


def stacked(width: float) -> bool:
    """Return True if a figure so many inches wide has no room for panels side by side."""
    return width < _STACKED


def _arm(checkpoint: str) -> str:
    return re.sub(r"-seed\d+$", "", checkpoint)


def checkpoints_of(result: Result) -> list[str]:
    """Return the checkpoints of `result`, the base first, without baselines."""
    base = [result.base] if "base" in result.settings else []
    values = [row.checkpoint for row in result.rows if row.role == "value"]
    return list(dict.fromkeys([*base, *values, *result.identical]))


def baseline_lines(rows: Iterable[Row]) -> dict[str, LineStyle]:
    """Return the line style of each baseline: untrained towers, number formats and other seeds differ."""
    styles: dict[BaselineKind, LineStyle] = {"untrained": "--", "recipe": ":"}
    return {row.checkpoint: styles.get(row.baseline, "-.") for row in rows if row.baseline}
