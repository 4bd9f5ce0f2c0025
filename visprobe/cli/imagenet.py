"""`visprobe imagenet`: how well encoders tell the classes of images apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from visprobe.analyses.result import Result, Row
from visprobe.cli import options as o
from visprobe.cli.output import Bars, print_results, print_table, printable
from visprobe.report.numbers import interval_text, value_text

ASKED = ("imagenet", "knn", "probe")  # those of them that are there; and zero-shot where there is a text tower
# The one measure per analysis that the short table shows.
_SHOWN = {
    "imagenet": {"top1": "prototype"},
    "knn": {"knn_20": "kNN"},
    "probe": {"probe": "probe", "probe_top1": "probe"},
    "zeroshot": {"zeroshot": "zero-shot", "zeroshot_top1": "zero-shot"},
    "paper_protocol": {
        f"{kind}_{name}": f"{name}, {said}"
        for name in ("prototype", "fast", "slow")
        for kind, said in (("paper", "published"), ("honest", "honest"), ("leak", "leak"))
    },
}


def command(
    ckpt: Annotated[
        list[str], typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it to measure several.")
    ],
    data: o.Data,
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
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            help="Folder for report.html, report.json and figures; default none.",
            callback=lambda path: path and o.writable(path),
        ),
    ] = None,
    split: o.Split = None,
    limit: o.Limit = None,
    labels: o.Labels = None,
    subset_per_class: o.SubsetPerClass = None,
    batch_size: o.BatchSize = 64,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    pixels: o.Pixels = 448 * 448,
    tiles: o.Tiles = False,
    seed: o.Seed = 0,
    max_bad: o.MaxBad = "1%",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """How well encoders tell classes apart: prototypes and neighbours, at every site and after the projector.

    Prototypes come from the train split, or leave-one-out where there is only one split.

    Example: visprobe imagenet --ckpt checkpoints/sft --ckpt checkpoints/dpo --data ILSVRC2012

    Example: visprobe imagenet --ckpt checkpoints/sft --data ILSVRC2012 --protocol paper -o report

    Example: visprobe imagenet --ckpt checkpoints/sft --data digits --json
    """
    from visprobe.analyses.registry import available, chosen
    from visprobe.analyses.zeroshot import with_text_tower
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.cli.output import print_notes
    from visprobe.data.prompts import TEMPLATES, read_templates
    from visprobe.encoders.text_tower import has_text_tower
    from visprobe.report.measure import measure
    from visprobe.report.measurement import Options
    from visprobe.report.write import write_report

    if analyses is not None:
        names = [name.strip() for name in analyses.split(",")]
    else:
        names = [name for name in ASKED if name in available()]
        names += ["zeroshot"] if text_tower or templates or any(map(has_text_tower, ckpt)) else []
    asked = chosen([*names, *(["paper_protocol"] if protocol else [])])
    if text_tower or templates:
        own = with_text_tower(text_tower, read_templates(templates) if templates else TEMPLATES)
        asked = [own if analysis.name == own.name else analysis for analysis in asked]
    with Bars(quiet) as bars:
        how = Options(split, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels, tiles=tiles)
        how = replace(how, labels=labels, subset_per_class=subset_per_class)
        measured = measure(ckpt, data, asked, how)
        page = write_report(output_dir, measured.document(command_line())) if output_dir else None
    if json:
        show(measured, as_json=True)
    else:
        _print_short([result for result in measured.results if result.analysis != "paper_protocol"])
        _print_short([result for result in measured.results if result.analysis == "paper_protocol"])
        said = [*measured.warnings, *(warning for result in measured.results for warning in result.warnings)]
        print_notes([*dict.fromkeys(said)])  # several analyses say the same of the same images
        if page:
            print(f"\nreport: {printable(str(page))}")
    finish(measured, max_bad)


def _at(row: Row, site: str | None) -> bool:
    """Whether `row` is about `site`, or about its embedding under a head of which the site's name tells."""
    return row.site == site or (site == "embedding" and row.site.startswith("embedding ("))


def _print_short(results: Sequence[Result]) -> None:
    """Per site that matters one table: checkpoints, floors and differences down, one number per analysis across."""
    print_results([result for result in results if result.analysis not in _SHOWN])
    consumed = next((r.settings["consumed"] for r in results if "consumed" in r.settings), None)
    places = {consumed: f"{consumed} (read by the LLM)", "projected": "after the projector"}
    for site, where in {**places, "embedding": "the tower's own embedding of an image"}.items():
        lines: dict[str, dict[str, str]] = {}
        for result in results:
            shown = _SHOWN.get(result.analysis, {})
            for row in (row for row in result.rows if _at(row, site) and row.measure in shown):
                name = row.checkpoint + (f" − {row.reference}" if row.reference else "")
                name += row.site.removeprefix(str(site))
                name += " (floor)" if row.role == "floor" else ""
                role = "difference" if row.measure.startswith("leak_") else row.role
                text = f"{value_text(row.estimate, role)} {interval_text(row.estimate, role)}".strip()
                lines.setdefault(name, {})[shown[row.measure]] = text
        columns = list(dict.fromkeys(column for line in lines.values() for column in line))
        if lines:
            print_table(
                where, ("checkpoint", *columns), [(n, *(c.get(k, "") for k in columns)) for n, c in lines.items()]
            )
