"""`visprobe list`: tables of analyses, families, datasets, recipes, figures, methods and more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from visprobe.cli import options as o
from visprobe.cli.checkpoints import families
from visprobe.cli.output import print_table


class Known(NamedTuple):
    """Columns and lines of a table."""

    columns: tuple[str, ...]
    lines: Sequence[Sequence[str]]


class What(StrEnum):
    """Kinds of things that can be listed."""

    analyses = "analyses"
    families = "families"
    datasets = "datasets"
    recipes = "recipes"
    figures = "figures"
    corruptions = "corruptions"
    methods = "methods"
    measures = "measures"


def command(
    what: Annotated[What, typer.Argument(help="What is listed.", show_default=False)], json: o.Json = False
) -> None:
    """What visprobe knows: analyses, families, datasets, recipes, figures, methods and more.

    Example: visprobe list analyses

    Example: visprobe list corruptions --json
    """
    from visprobe.io.atomic import to_json

    if what is What.families:
        families.command(json)
        return
    known = _TABLES[what]()
    if json:
        print(to_json({what.value: [dict(zip(known.columns, line, strict=True)) for line in known.lines]}))
    else:
        print_table(what.value, known.columns, known.lines)


def _analyses() -> Known:
    from visprobe.analyses.core.registry import DEFAULT, available

    columns = ("analysis", "question", "by default", "images", "baselines")
    return Known(
        columns,
        [
            (
                name,
                a.question,
                "yes" if name in DEFAULT else "",
                "all" if a.images is None else str(a.images),
                a.baselines,
            )
            for name, a in available().items()
        ],
    )


def _datasets() -> Known:
    folder = "folder with train/ and val/ or without"
    return Known(
        ("given as", "what it is", "for"),
        [
            ("digits", "built-in scenes of real handwritten digits, with classes, masks and questions", "both"),
            (folder, "images in one folder per class (ImageNet's wnids too), or without classes", "measuring"),
            ("Kaggle's ILSVRC folder", "ImageNet as it comes: Data/CLS-LOC and LOC_val_solution.csv", "measuring"),
            (
                "folder with images/ and masks/",
                "masks beside images: ADE20K, Pascal VOC, COCO-stuff, CamVid",
                "measuring",
            ),
            ("folder of .tar files", "WebDataset shards", "measuring"),
            ("folder of .parquet files", "rows with images; LLaVA-OneVision's for training", "both"),
            ("folder of datasets.save_to_disk", "a Hugging Face dataset on this disk", "both"),
            ("org/name", "a Hugging Face dataset of the hub", "both"),
            ("file.json, file.jsonl", "conversations as LLaVA writes them", "training"),
            ("file.yaml, folder/{a,b}.json", "a mixture of several files with their shares", "training"),
            ("folder with meta.json", "MMPR: chosen and rejected answers", "training"),
        ],
    )


def _recipes() -> Known:
    from visprobe.training.stages import stages

    return Known(
        ("recipe", "what it does", "example"),
        [(name, one.summary, " ".join(["visprobe train", name, *one.examples[:1]])) for name, one in stages().items()],
    )


def _figures() -> Known:
    from visprobe.report.presentations import presentations

    known = [(figure.name, name) for name, shown in presentations().items() for figure in shown.figures]
    return Known(("figure", "analysis"), known)


def _corruptions() -> Known:
    from visprobe.data.corruptions import CORRUPTIONS, SEVERITIES

    severities = f"{SEVERITIES[0]} to {SEVERITIES[-1]}"
    groups = {name: one.operation.__module__.rpartition("_")[2] for name, one in CORRUPTIONS.items()}
    return Known(("corruption", "group", "severities"), [(name, group, severities) for name, group in groups.items()])


def _methods() -> Known:
    from visprobe.attribution.methods.attention_maps import ATTENTION_MAPS
    from visprobe.attribution.methods.by_name import INPUT_MAPS, METHODS

    def looks_at(method: str) -> str:
        return "the image" if method in INPUT_MAPS else "attention" if method in ATTENTION_MAPS else "tokens of a site"

    return Known(("method", "explains by"), [(method, looks_at(method)) for method in METHODS])


def _measures() -> Known:
    from visprobe.report.presentations import titles

    return Known(("measure", "what it is"), list(titles().items()))


_TABLES: dict[What, Callable[[], Known]] = {
    What.analyses: _analyses,
    What.datasets: _datasets,
    What.recipes: _recipes,
    What.figures: _figures,
    What.corruptions: _corruptions,
    What.methods: _methods,
    What.measures: _measures,
}
