"""Options and results of a measurement, for all commands and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from visprobe.analyses.core.gates import Gate
from visprobe.analyses.core.registry import DEFAULT
from visprobe.data.progress import Progress
from visprobe.errors import UsageError
from visprobe.features.store import FeatureStore, default_folder
from visprobe.figures.save import figure_bytes
from visprobe.io.disk import plain_errors
from visprobe.io.inert import escape_control_characters
from visprobe.report.document import build_document
from visprobe.report.notebook import measurement_html
from visprobe.report.presentations import figures_of
from visprobe.report.rebuild import Drawn, Run, read_runs, rebuild, redraw
from visprobe.report.write import write_report
from visprobe.results.result import Result
from visprobe.results.statement import Statement

if TYPE_CHECKING:
    from pandas import DataFrame

PYTHON = ("called", "from", "Python")  # instead of a command line
SCREEN_DPI = 110


@dataclass(frozen=True)
class Options:
    """Options of a measurement, the same for every command.

    Example:
        `visprobe.compare(["base", "sft"], "digits", visprobe.Options(limit=200, seed=1))`

    Attributes:
        split: Split to measure; by default val, else test, under any of their usual names.
        limit: Largest number of images of each split.
        batch_size: Images per forward pass; None is 64 (8 for maps), halved where memory is too small.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "float32", "bfloat16" or "float16": number format of the encoders' arithmetic.
        seed: Seed of every random choice.
        store: Root of the feature store; by default the user's cache folder.
        progress: Called with (stage, done, total).
        note: Called with a line on what is about to be done.
        pixels: Pixels per image for towers of native resolution.
        tiles: Read the tiles too, for models that cut images into tiles.
        analyses: Names of the analyses that `compare` runs.
        labels: File with the classes of the measured images, or the column that holds them.
        subset_per_class: Largest number of training images of each class.
        same_recipe: Checkpoints of the same recipe with another seed, shown as baselines by `compare`.
        resume: Use features and maps of earlier runs; if False, they are computed again and replaced.
    """

    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    seed: int = 0
    store: str | Path | None = None
    progress: Progress | None = None
    note: Callable[[str], None] | None = None
    pixels: int = 448 * 448
    tiles: bool = False
    analyses: tuple[str, ...] = DEFAULT
    same_recipe: tuple[str | Path, ...] = ()
    labels: str | Path | None = None
    subset_per_class: int | None = None
    resume: bool = True

    @property
    def images(self) -> dict[str, Any]:
        """Keyword arguments for `visprobe.data.open.open_images`."""
        names = ("split", "limit", "seed", "labels", "subset_per_class")
        return {name: getattr(self, name) for name in names}

    def feature_store(self) -> FeatureStore:
        """Return the feature store of this run."""
        return FeatureStore(Path(self.store) if self.store else default_folder(), fresh=not self.resume)


@dataclass(frozen=True, repr=False)
class Measurement:
    """Results of a measurement of checkpoints on one data set. A notebook shows its verdict and tables.

    `measured["drift"]` is the `Result` of one analysis, `"drift" in measured` says whether there is one, and iterating
    gives their names.

    Example:
        `measured = visprobe.compare(["base", "sft"], "digits")`, then `measured.figure("drift")`,
        `measured.to_pandas()` or `measured.save("report")`.

    Attributes:
        results: One `Result` per analysis.
        verdict: Conclusions in sentences; empty where there is nothing to compare.
        checkpoints: Name and provenance of every checkpoint, the base first.
        data: Each image set: name, n, classes, hash, bad_items.
        warnings: Caveats that limit what the numbers mean.
        decoded: Images decoded in this run: fewer than asked for if the feature store held some. None where the
            measurement was read from a report, which does not say.
        forwarded: Images x encoders forwarded in this run, or None.
        seed: Seed of the run.
        read_from: Content of the report.json that it was read from; None if it was measured here.
    """

    results: tuple[Result, ...]
    verdict: tuple[Statement, ...]
    checkpoints: tuple[dict[str, Any], ...]
    data: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]
    decoded: int | None
    forwarded: int | None
    seed: int
    read_from: Mapping[str, Any] | None = None

    @property
    def images(self) -> int:
        """Number of images that were asked for, usable or not."""
        return sum(images["n"] + len(images["bad_items"]) for images in self.data)

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Images that were left out, or whose mask could not be used: "set/id" and the reason."""
        found = [(f"{s['name']}/{item['id']}", item["reason"]) for s in self.data for item in s["bad_items"]]
        masks = [result.settings.get("without_mask", {}) for result in self.results]
        found += [(f"{name}/{id}", why) for ones in masks for name, some in ones.items() for id, why in some]
        return list(dict.fromkeys(found))

    def told(self) -> list[str]:
        """Return a line on each checkpoint that was read, and one on the work that was done."""
        read = [
            f"{one['name']}: {one['family']}, {one['layout']}, tower {one['tower_hash'][:12]}, from {one['path']}"
            for one in self.checkpoints
        ]
        if self.decoded is None:
            return [*read, "read from a report: nothing was decoded or forwarded"]
        return [*read, f"{self.decoded} images decoded, {self.forwarded} images forwarded; the rest was there already"]

    def __getitem__(self, analysis: str) -> Result:
        """Return the result of an analysis.

        Raises:
            UsageError: If there is none of that name.
        """
        for result in self.results:
            if result.analysis == analysis:
                return result
        raise UsageError(f"there is no result {analysis!r}", hint=f"There are: {', '.join(self) or 'none'}.")

    def __contains__(self, analysis: object) -> bool:
        return any(result.analysis == analysis for result in self.results)

    def __iter__(self) -> Iterator[str]:
        return (result.analysis for result in self.results)

    def __repr__(self) -> str:
        names = escape_control_characters(", ".join(str(checkpoint["name"]) for checkpoint in self.checkpoints))
        numbers = sum(len(result.rows) for result in self.results)
        return f"<Measurement of {names}: {', '.join(self)}; {numbers} numbers>"

    def _repr_html_(self) -> str:
        return measurement_html(self.document(PYTHON))

    def to_pandas(self) -> DataFrame:
        """Return all numbers as one table.

        Returns:
            A DataFrame with a line for each number and the columns of results.csv: analysis, checkpoint, site, measure,
            reference (None unless measured against another checkpoint), role ("value", "baseline" or "difference"),
            baseline (its kind, for baselines), value, low, high (the ends of the interval), n, unit ("fraction" is of
            1), method (how the interval was made).
        """
        import pandas as pd

        return pd.concat([result.to_pandas() for result in self.results], ignore_index=True)

    @property
    def figures(self) -> list[str]:
        """Names of the figures that `figure` draws, in the order of the report."""
        return [figure.name for _, figure in figures_of(self.results)]

    def figure(self, name: str, width: float | None = None) -> Figure:
        """Draw a figure of the report; a notebook shows it.

        Args:
            name: Name of the figure ("representation_drift") or of its analysis ("drift").
            width: Inches; 3.25 is one column of a two-column paper, 6.75 are two. By default as in the report.

        Returns:
            A matplotlib figure, which belongs to no window: `.savefig("drift.pdf")` writes it.

        Raises:
            UsageError: If there is no such figure.
            DataError: If it was read from a report whose settings are damaged.
        """
        figure = self.drawn(name, width).figure
        figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
        return figure

    def drawn(self, name: str, width: float | None = None) -> Drawn:
        """Draw a figure, and return it with its caption and rows; see `figure`."""
        return redraw(Run("the measurement", self.document(PYTHON)), name, width)

    @plain_errors
    def save(self, folder: str | Path) -> Path:
        """Write report.html, report.json, results.csv, results.parquet and figures, as a command does.

        Args:
            folder: Output folder, made if missing. Files of an earlier report are replaced.

        Returns:
            The path of report.html.

        Raises:
            DataError: If it was read from a report whose settings are damaged; nothing is written then.
        """
        document = self.document(PYTHON)
        if self.read_from is None:
            return write_report(Path(folder), document)
        return rebuild(Run("the measurement", document), Path(folder))

    def document(
        self,
        command: Sequence[str],
        options: Mapping[str, Mapping[str, Any]] | None = None,
        gates: Sequence[Gate] = (),
    ) -> dict[str, Any]:
        """Return the content of report.json; if the measurement was read from one, that content unchanged.

        Args:
            command: Words of the command line.
            options: Each of its options: "value" and "origin" (where the value came from).
            gates: Outcomes of conditions on these results, from `visprobe.analyses.core.gates.judge`.
        """
        if self.read_from is not None:
            return dict(self.read_from)
        return build_document(
            command=command,
            seed=self.seed,
            checkpoints=self.checkpoints,
            data=self.data,
            results=self.results,
            verdict=self.verdict,
            warnings=self.warnings,
            options=options or {},
            gates=gates,
        )


def as_list(given: str | Path | Sequence[str | Path]) -> list[str]:
    """Return one or several paths as a list of strings."""
    return [str(given)] if isinstance(given, str | Path) else [str(one) for one in given]


@plain_errors
def read_report(folder: str | Path) -> Measurement:
    """Read a measurement back from the report of a command, or of `Measurement.save`.

    Args:
        folder: Output folder, or its report.json.

    Returns:
        The measurement, whose `save` writes the same report.json again: command, time and versions stay those of the
        run. How many images that run decoded and forwarded is not known: they are None.

    Raises:
        UsageError: If it is a report of several runs.
        DataError: If there is no report, or it is damaged, of something else, or of a newer visprobe.

    Example:
        `visprobe.read_report("visprobe-compare").figure("drift")`
    """
    runs = read_runs([Path(folder)])
    if len(runs) > 1:
        names = ", ".join(run.name for run in runs)
        raise UsageError(f"{folder} is a report of several runs: {names}", hint="Name the folder of one of them.")
    [run] = runs
    document = run.document
    return Measurement(
        results=tuple(run.results),
        verdict=tuple(Statement(one["text"], tuple(one["evidence"])) for one in document["verdict"]),
        checkpoints=tuple(document["checkpoints"]),
        data=tuple(document["data"]),
        warnings=tuple(document["warnings"]),
        decoded=None,
        forwarded=None,
        seed=document["seed"],
        read_from=document,
    )


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """Render a figure for a notebook at screen resolution, with its size in CSS pixels."""
    width, height = figure.get_size_inches() * SCREEN_DPI
    return figure_bytes(figure, "png"), {"width": round(width), "height": round(height)}
