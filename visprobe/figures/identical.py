"""A tower that equals the base is said in words: it was not trained or not saved, and zero drift is not a finding."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from visprobe.figures.labels import shorten
from visprobe.figures.style import MUTED, SMALL


def note_identical(figure: Figure, names: Sequence[str]) -> None:
    """Write above the panels of `figure` which towers equal the base; nothing if none does."""
    if names:
        text = f"{', '.join(shorten(n) for n in names)}: tower identical to the base (not trained or not saved)"
        figure.suptitle(text, x=0.012, ha="left", size=SMALL, style="italic", color=MUTED)
