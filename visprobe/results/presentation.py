"""How the results of one analysis are shown: what tables call their numbers, and which figures they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from visprobe.results.result import Result
from visprobe.results.rules import LAST, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureSpec:
    """A figure of a result. Its module is imported when it is first drawn, since matplotlib takes its time.

    Attributes:
        name: File name of the figure in a report.
        module: Module that draws it, by its dotted name; `__name__` for the module at hand.
        drawn_by: Function of `module`, from a result, the names of all checkpoints of the report (for their colours)
            and a width in inches (or None) to a matplotlib figure.
        described_by: Function of `module`, from a result to a caption that says what is shown, n, and how the
            intervals were made.
        baseline: What the numbers are read against, where no rows of role "floor" say it.
    """

    name: str
    module: str
    drawn_by: str = "draw"
    described_by: str = "caption"
    baseline: str = ""

    def draw(self, result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
        """Draw `result` in the colours of all `checkpoints` of a report, so many inches wide."""
        figure: Figure = getattr(import_module(self.module), self.drawn_by)(result, checkpoints, width)
        return figure

    def caption(self, result: Result) -> str:
        """Say what the figure of `result` shows, n, the kind of interval and the baselines."""
        described = getattr(import_module(self.module), self.described_by)(result)
        return f"{described} {self.baseline or floors_of(result)}".rstrip()


@dataclass(frozen=True)
class Presentation:
    """How the results of one analysis are shown. All of it may be left out.

    Attributes:
        titles: What tables call each measure (a row's `measure` up to its first "/"). Measures of other analyses
            need none.
        heading: What the lines of its tables are.
        figures: Its figures.
        place: Where it stands among the others in reports and lists, ascending.
        columns: Measures that the short table of `visprobe imagenet` shows, with the heading of their column.
        apart: Whether these columns make a table of their own.
        checkpoints_downwards: Whether its tables have checkpoints, which may be many, as lines instead of columns.
        about_weights: Whether it speaks of weights alone, so that the images do not matter.
        sums_up: Whether a terminal shows it in place of the other results.
        has_gallery: Whether the page shows the maps in its settings as a gallery too.
        drawn_settings: Settings that its figures, tables or gallery show, so that the page does not list them.
        rules: What it says in a verdict.
    """

    titles: Mapping[str, str] = field(default_factory=dict)
    heading: str = "Site"
    figures: tuple[FigureSpec, ...] = ()
    place: int = LAST
    columns: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False
    checkpoints_downwards: bool = False
    about_weights: bool = False
    sums_up: bool = False
    has_gallery: bool = False
    drawn_settings: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


def floors_of(result: Result) -> str:
    """One sentence that names what the numbers of `result` are read against, such as "Floors: untrained, chance."."""
    names = list(dict.fromkeys(row.checkpoint for row in result.rows if row.role == "floor"))
    if result.settings.get("chance") is not None and "chance" not in names:
        names.append("chance")
    return f"Floor{'s' * (len(names) > 1)}: {', '.join(names)}." if names else ""
