"""`visprobe gradcam`: where checkpoints look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from visprobe.analyses.result import Result
from visprobe.cli import options as o
from visprobe.cli.output import Bars
from visprobe.errors import UsageError


def command(
    images: Annotated[list[str], typer.Argument(help="Image files, folders of images, a data set, or 'digits'.")],
    ckpt: Annotated[
        list[str] | None,
        typer.Option("--ckpt", help="Checkpoint folder or hub id; repeat it, the first is the base."),
    ] = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(help="Follow the maps over a training run with --snapshot-tower-every; --ckpt names its base."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is asked of every image. Default: Describe the image.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", "--chosen", help="Answer that is explained. Default: the base's own.")
    ] = None,
    rejected: Annotated[str | None, typer.Option(help="Another answer, to be told apart from the first.")] = None,
    questions: Annotated[
        Path | None, typer.Option(help='Lines {"image": …, "prompt": …, "answer": …, "rejected": …, "box": […]}.')
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="answer, rejected, contrast, token:N, sft-loss, dpo-loss, class or text; else what fits."),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--class", help="Class that is explained, instead of each image's own.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text that is explained, then those it is told apart from.")
    ] = None,
    text_tower: Annotated[str | None, typer.Option(help="Two-tower model that reads the texts.")] = None,
    region: Annotated[
        str | None, typer.Option(help="Where answers lie: folder of PNG masks, or a class of the images' own masks.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="gradcam, gradient-norm, gradient-times-input, integrated-gradients, occlusion, rollout or "
            "gradient-attention; repeatable, the first is drawn. Default: gradient-norm and gradcam for answers, "
            "gradcam for classes and texts."
        ),
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(help="consumed, projected or block_NN; repeatable, the first is drawn. Default: consumed."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Image without content: mean, black or blur.")] = "mean",
    faithfulness: Annotated[
        int, typer.Option(min=0, help="Delete and insert patches in the order of the maps, on so many images.")
    ] = 0,
    output_dir: o.OutputDir = Path("visprobe-gradcam"),
    limit: o.Limit = 32,
    batch_size: o.BatchSize = 8,
    device: o.Device = "auto",
    dtype: o.Dtype = "float32",
    pixels: o.Pixels = 448 * 448,
    seed: o.Seed = 0,
    max_bad: o.MaxBad = "1%",
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Where each checkpoint looks: attribution maps on one scale, and whether they are more focused than before.

    Explained is the probability of an answer, the difference between two answers, or how an encoder tells classes
    apart. Maps are read against those of random weights and against a bias to the middle. Writes report.html,
    report.json, the figures and maps.npz with all values; what was finished is not made again.

    Example: visprobe gradcam digits --ckpt checkpoints/base --ckpt checkpoints/sft --ckpt checkpoints/dpo

    Example: visprobe gradcam photos/ --ckpt checkpoints/dpo --prompt "Is there a dog?" --chosen yes --rejected no

    Example: visprobe gradcam ILSVRC2012 --ckpt checkpoints/base --ckpt checkpoints/dpo --target class --limit 200

    Example: visprobe gradcam digits --trajectory checkpoints/dpo

    Example: visprobe gradcam a.jpg b.jpg --ckpt google/siglip2-base-patch16-224 --text "a cat" --text "a dog"
    """
    from visprobe.attribution.storage import save
    from visprobe.cli.measured import command_line, finish, show
    from visprobe.data.asked import Asked
    from visprobe.report.gradcam import Look, gradcam
    from visprobe.report.gradcam_steps import gradcam_steps
    from visprobe.report.measurement import Options
    from visprobe.report.write import write_report

    checkpoints = ckpt or []
    _check(checkpoints, trajectory, faithfulness)
    look = Look(
        tuple(method or ()), tuple(site or ["consumed"]), target, Asked(prompt, answer, rejected), questions,
        region, class_name, tuple(text or ()), text_tower, baseline, faithfulness,
    )  # fmt: skip
    with Bars(quiet) as bars:
        how = Options(None, limit, batch_size, device, dtype, seed, progress=bars, pixels=pixels)
        if trajectory is None:
            looked = gradcam(checkpoints, images, look, how, output_dir / "kept")
        else:
            start = Path(checkpoints[0]) if checkpoints else None
            looked = gradcam_steps(trajectory, images, look, how, output_dir / "kept", start)
        save(looked.attributions, output_dir / "maps.npz")
        page = write_report(output_dir, looked.measured.document(command_line()))
    measured = looked.measured
    if not json:
        measured = replace(measured, results=tuple(map(_short, measured.results)))
    show(measured, as_json=json, page=page)
    finish(measured, max_bad)


def _check(checkpoints: list[str], trajectory: Path | None, faithfulness: int) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: If it is so.
    """
    if trajectory is None and not checkpoints:
        raise UsageError("there is no checkpoint", hint="Name one: --ckpt FOLDER, or a training run: --trajectory RUN.")
    if trajectory is not None and len(checkpoints) > 1:
        raise UsageError(
            f"--trajectory takes one checkpoint beside the run, its base, not {len(checkpoints)}",
            hint="Leave --ckpt out where the run is finished: its manifest names the base.",
        )
    if trajectory is not None and faithfulness:
        raise UsageError(
            "--faithfulness does not apply to --trajectory", hint="Compare two moments: --ckpt BASE --ckpt RUN."
        )


def _short(result: Result) -> Result:
    """What reads on a terminal: the first method and site, where the answers lie if that is known, else the focus."""
    if result.analysis not in ("attribution", "map_steps"):
        return replace(result, rows=())
    shown = ("mass_inside", "selectivity") if result.settings["with_region"] >= 2 else ("gini", "entropy")
    if result.analysis == "map_steps":
        shown = ("score", shown[0])
    base, site = result.settings["base"], result.settings["sites"][0]
    rows = [row for row in result.rows if row.site == site and row.measure in shown]
    return replace(result, rows=tuple(row for row in rows if row.role != "difference" or row.reference == base))
