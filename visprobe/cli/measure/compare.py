"""`visprobe compare`: comparison of the vision encoders of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visprobe.cli.common_options import Common, measuring, run
from visprobe.errors import UsageError

if TYPE_CHECKING:
    from visprobe.pipelines.measurement import Measurement, Options


@measuring(output_dir=Path("visprobe-compare"))
def command(
    common: Common,
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, the first is the base: folders, hub ids, 'A\\[blocks 0-11 <- B]'."),
    ] = None,
    trajectory: Annotated[
        list[Path] | None,
        typer.Option(help="Follow the tower copies of a training run instead; repeat for runs of one base."),
    ] = None,
    analyses: Annotated[
        str | None, typer.Option(help="Analyses, with commas (visprobe list analyses); default imagenet,drift,weights.")
    ] = None,
    same_recipe: Annotated[
        list[str] | None,
        typer.Option(help="Another seed of a checkpoint's recipe, to read differences against; repeatable."),
    ] = None,
) -> None:
    r"""Where and how far each checkpoint's encoder moved from the first one's, and whether it sees better.

    Writes report.html, report.json and the figures into the output folder.

    Example: visprobe compare checkpoints/base checkpoints/sft checkpoints/dpo --data ILSVRC2012 --limit 5000

    Example: visprobe compare checkpoints/base checkpoints/dpo --data digits --json

    Example: visprobe compare checkpoints/base checkpoints/sft
    'checkpoints/sft\[blocks 0-2 <- checkpoints/dpo]' --data digits

    Example: visprobe compare --trajectory checkpoints/sft --trajectory checkpoints/dpo --data digits
    """
    from visprobe.pipelines.compare import compare
    from visprobe.pipelines.trajectory import trajectory as follow

    if trajectory and (analyses is not None or same_recipe):
        raise UsageError(
            "--analyses and --same-recipe do not apply to --trajectory", hint="Leave them out, or compare checkpoints."
        )

    def measure(how: Options) -> Measurement:
        if trajectory:
            return follow(trajectory, common.data, how, _only_base(checkpoints or []))
        how = replace(how, same_recipe=tuple(same_recipe or ()))
        if analyses is not None:
            how = replace(how, analyses=tuple(name.strip() for name in analyses.split(",")))
        return compare(checkpoints or [], common.data, how)

    run(common, measure)


def _only_base(checkpoints: list[str]) -> Path | None:
    if len(checkpoints) > 1:
        raise UsageError(
            f"--trajectory takes one checkpoint beside the runs, their base; {len(checkpoints)} are given",
            hint="visprobe compare BASE --trajectory RUN --data DATA",
        )
    return Path(checkpoints[0]) if checkpoints else None
