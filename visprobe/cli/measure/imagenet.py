"""`visprobe imagenet`: classification accuracy of encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from visprobe.cli import options as o
from visprobe.cli.common_options import Common, measuring, run
from visprobe.cli.output import print_notes, print_results, print_table
from visprobe.report.numbers import interval_text, value_text
from visprobe.results.presentation import Presentation
from visprobe.results.read_site import read_note
from visprobe.results.result import Result, Row

if TYPE_CHECKING:
    from visprobe.pipelines.measurement import Measurement


@measuring(output_dir=None)
def command(
    common: Common,
    ckpt: o.Ckpt,
    analyses: Annotated[
        str | None,
        typer.Option(
            help="What is asked, by name, with commas; default imagenet,knn,probe, and zeroshot for CLIP and SigLIP."
        ),
    ] = None,
    protocol: Annotated[
        Literal["paper"] | None, typer.Option(help="Also the published protocol, and how much of it is its leak.")
    ] = None,
    text_tower: Annotated[
        str | None,
        typer.Option(
            help="Zero-shot: the two-tower model (CLIP, SigLIP) that the vision towers came from; it lends its pooling "
            "head too."
        ),
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(help="Zero-shot: file of sentences with {} for the class name, one per line.")
    ] = None,
) -> None:
    """How well encoders tell classes of images apart, at every site and after the projector.

    Prototypes come from the train split, or leave-one-out where there is only one split.

    Example: visprobe imagenet --ckpt checkpoints/sft --ckpt checkpoints/dpo --data ILSVRC2012

    Example: visprobe imagenet --ckpt checkpoints/sft --data ILSVRC2012 --protocol paper -o report

    Example: visprobe imagenet --ckpt checkpoints/sft --data digits --json
    """
    from visprobe.data.templates import TEMPLATES, read_templates
    from visprobe.pipelines.single import imagenet
    from visprobe.report.presentations import presentation_of

    def show(measured: Measurement) -> None:
        shown = {result.analysis: presentation_of(result.analysis) for result in measured.results}
        for apart in (False, True):
            _print_short([result for result in measured.results if shown[result.analysis].apart == apart], shown)
        said = [*measured.warnings, *(warning for result in measured.results for warning in result.warnings)]
        print_notes([*dict.fromkeys(said)])  # several analyses say the same of the same images

    names = None if analyses is None else [name.strip() for name in analyses.split(",")]
    sentences = read_templates(templates) if templates else TEMPLATES
    run(
        common,
        lambda how: imagenet(
            ckpt, common.data, how, analyses=names, paper=protocol is not None, text_tower=text_tower,
            templates=sentences,
        ),
        show_as=None if common.verbose else show,
    )  # fmt: skip


def _at(row: Row, site: str | None) -> bool:
    """Return whether `row` is of `site`; "embedding" also matches "embedding (…)", that of a borrowed head."""
    return row.site == site or (site == "embedding" and row.site.startswith("embedding ("))


def _print_short(results: Sequence[Result], presentations: Mapping[str, Presentation]) -> None:
    """Print one table per site that is read: checkpoints, baselines and differences down, analyses across."""
    columns_of = {name: shown.columns for name, shown in presentations.items()}
    print_results([result for result in results if not columns_of[result.analysis]])
    consumed = next((r.consumed for r in results if "consumed" in r.settings), None)
    note = next((read_note(r) for r in results if "consumed" in r.settings), "")
    places = {consumed: f"{consumed} ({note})", "projected": "after the projector"}
    for site, where in {**places, "embedding": "the tower's own embedding of an image"}.items():
        lines: dict[str, dict[str, str]] = {}
        for result in results:
            shown = columns_of[result.analysis]
            for row in (row for row in result.rows if _at(row, site) and row.measure in shown):
                name = row.checkpoint + (f" − {row.reference}" if row.reference else "")
                name += row.site.removeprefix(str(site))
                name += " (baseline)" if row.role == "baseline" else ""
                role = "difference" if row.measure.startswith("leak_") else row.role
                text = f"{value_text(row.estimate, role)} {interval_text(row.estimate, role)}".strip()
                lines.setdefault(name, {})[shown[row.measure]] = text
        columns = list(dict.fromkeys(column for line in lines.values() for column in line))
        if lines:
            print_table(
                where, ("checkpoint", *columns), [(n, *(c.get(k, "") for k in columns)) for n, c in lines.items()]
            )
