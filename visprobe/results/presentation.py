"""Presentation of the results of one analysis: table titles, figures, columns and rules."""

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
    """Figure of a result; its module is imported at the first drawing, since matplotlib is slow to import.

    Attributes:
        name: File name in a report.
        module: Module that draws it, by its dotted name; `__name__` for the module at hand.
        drawn_by: Function of `module`, from a result, the names of all checkpoints of the report (for their colours)
            and a width in inches (or None) to a matplotlib figure.
        described_by: Function of `module`, from a result to a caption that says what is shown, n, and how the
            intervals were made.
        baseline: Sentence on what the numbers are compared with, where no rows of role "baseline" say it.
    """

    name: str
    module: str
    drawn_by: str = "draw"
    described_by: str = "caption"
    baseline: str = ""

    def draw(self, result: Result, checkpoints: Sequence[str] = (), width: float | None = None) -> Figure:
        """Draw `result`.

        Args:
            result: Result of the analysis.
            checkpoints: All checkpoints of the report, in order; they set the colours.
            width: Width in inches, None for the default.
        """
        figure: Figure = getattr(import_module(self.module), self.drawn_by)(result, checkpoints, width)
        return figure

    def caption(self, result: Result) -> str:
        """Describe what the figure of `result` shows, n, the kind of interval and the baselines."""
        described = getattr(import_module(self.module), self.described_by)(result)
        return f"{described} {self.baseline or baselines_of(result)}".rstrip()


@dataclass(frozen=True)
class Presentation:
    """Display options of the results of one analysis; every one has a default.

    Attributes:
        titles: Title in tables of each measure (a row's `measure` up to its first "/"). Measures of other analyses
            need none.
        heading: Heading of the first column of its tables.
        figures: Figures of its results.
        place: Position in reports and lists, ascending.
        columns: Measures that the short table of `visprobe imagenet` shows, with the heading of their column.
        apart: True if these columns make a table of their own.
        checkpoints_downwards: True if its tables have checkpoints, which may be many, as lines instead of columns.
        about_weights: True if it concerns only weights, so that the images do not matter.
        sums_up: True if a terminal shows it in place of the other results.
        has_gallery: True if the page shows the maps in its settings as a gallery too.
        drawn_settings: Settings that its figures, tables or gallery show, so that the page does not list them.
        rules: Rules for its statements in a verdict.
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


def baselines_of(result: Result) -> str:
    """Name the baselines of `result` in one sentence, such as "Baselines: untrained, chance."; "" without any."""
    names = list(dict.fromkeys(row.checkpoint for row in result.rows if row.role == "baseline"))
    if "chance" in result.settings and "chance" not in names:
        names.append("chance")
    return f"Baseline{'s' * (len(names) > 1)}: {', '.join(names)}." if names else ""
