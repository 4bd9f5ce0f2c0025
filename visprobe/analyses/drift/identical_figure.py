"""Note on towers that equal the base: not trained or not saved, so that zero drift is not a finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from visprobe.figures.labels import shorten
from visprobe.figures.style import MUTED, SMALL


def note_identical(figure: Figure, names: Sequence[str], rounded: Mapping[str, str] | None = None) -> None:
    """Write above the panels of `figure` which towers equal the base, if any.

    Args:
        figure: Figure to write on.
        names: Checkpoints whose tower equals the base's.
        rounded: Dtype of each checkpoint that equals the base rounded to it, by name.
    """
    texts = [f"{_listed(names)}: tower identical to the base (not trained or not saved)"] if names else []
    for kind in dict.fromkeys((rounded or {}).values()):
        own = [name for name, other in (rounded or {}).items() if other == kind]
        texts.append(f"{_listed(own)}: tower equal to the base rounded to {kind}")
    if texts:
        figure.suptitle("\n".join(texts), x=0.012, ha="left", size=SMALL, style="italic", color=MUTED)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(shorten(name) for name in names)
