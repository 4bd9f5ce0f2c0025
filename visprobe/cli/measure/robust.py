"""`visprobe robust`: encoders on images that are corrupted, reduced or cropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from visprobe.cli import options as o
from visprobe.cli.common_options import Common, measuring, run
from visprobe.errors import UsageError
from visprobe.results.result import Result

T = TypeVar("T")


@measuring(output_dir=Path("visprobe-robust"))
def command(
    common: Common,
    ckpt: o.Ckpt,
    corruptions: Annotated[
        str | None, typer.Option(help="Names with commas, all or none; default one each of noise, blur, fog and JPEG.")
    ] = None,
    severities: Annotated[str, typer.Option(help="Of the corruptions: numbers from 1 to 5 with commas.")] = "1,3,5",
    resolutions: Annotated[
        str, typer.Option(help="Pixels on the shorter side that images are reduced to, with commas.")
    ] = "",
    crops: Annotated[str, typer.Option(help="Shares of each side of which the centre is kept, with commas.")] = "",
) -> None:
    """How well encoders tell classes apart in images that are damaged, small or cropped.

    Prototypes come from clean images. Images without classes: how far features move. At most 1000 images are changed.

    Example: visprobe robust --ckpt checkpoints/base --ckpt checkpoints/dpo --data ILSVRC2012 --limit 5000

    Example: visprobe robust --ckpt checkpoints/base --data digits --corruptions all --severities 1,2,3,4,5

    Example: visprobe robust --ckpt checkpoints/base --data digits --corruptions none --resolutions 8,16,32 --crops 0.5
    """
    from visprobe.analyses.robustness.variants import FEW
    from visprobe.data.corruptions import CORRUPTIONS
    from visprobe.pipelines.single import robust

    groups = {None: FEW, "all": tuple(CORRUPTIONS), "none": ()}
    named = groups[corruptions] if corruptions in groups else _listed(corruptions or "", str, "--corruptions", "names")
    levels = _listed(severities, int, "--severities", "whole numbers")
    sizes = _listed(resolutions, int, "--resolutions", "whole numbers")
    shares = _listed(crops, float, "--crops", "numbers")
    run(
        common,
        lambda how: robust(
            ckpt, common.data, how, corruptions=named, severities=levels, resolutions=sizes, crops=shares
        ),
        short=_summary,
    )


def _summary(result: Result) -> Result:
    """Drop single corruptions where their mean is there, to fit a terminal."""
    from visprobe.analyses.robustness.variants import summed_up

    kinds = dict.fromkeys(row.measure.partition("/")[2] for row in result.rows)
    kept = {"", *summed_up(kinds)}
    return replace(result, rows=tuple(row for row in result.rows if row.measure.partition("/")[2] in kept))


def _listed(text: str, kind: Callable[[str], T], option: str, wanted: str) -> tuple[T, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(kind(part) for part in parts)
    except ValueError:
        raise UsageError(f"{option} {text!r} are no {wanted} with commas", hint="Write 1,3,5.") from None
