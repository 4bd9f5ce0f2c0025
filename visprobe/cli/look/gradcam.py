"""`visprobe gradcam`: attribution maps of checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from visprobe.cli.common_options import Common, measuring, run
from visprobe.errors import UsageError
from visprobe.results.result import Result

if TYPE_CHECKING:
    from visprobe.pipelines.attribution.run import AttributionConfig
    from visprobe.pipelines.measurement import Measurement, Options

QUESTIONS = (".jsonl", ".json")


@measuring(
    without=("data", "split", "labels", "tiles", "fail_on"),
    output_dir=Path("visprobe-gradcam"),
    limit=32,
)
def command(
    common: Common,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders of images, a data set, or 'digits'; and a file of questions (.jsonl) with lines "
            '{"image": …, "prompt": …, "answer": …, "rejected": …, "box": […]}.'
        ),
    ],
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
    target: Annotated[
        str | None,
        typer.Option(
            help="answer, rejected, contrast, token:N, sft-loss, dpo-loss; class, or class:NAME instead of each "
            "image's own; text, or text:MODEL whose text tower reads --text. Default: what fits."
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text that is explained, then those it is told apart from.")
    ] = None,
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
) -> None:
    """Where each checkpoint looks, by attribution maps on one scale and their scores.

    Explained is the probability of an answer, the difference between two answers, or how an encoder tells classes
    apart. Maps are read against those of random weights and against a bias to the middle. Writes report.html,
    report.json, the figures and maps.npz with all values; what was finished is not made again.

    Example: visprobe gradcam digits --ckpt checkpoints/base --ckpt checkpoints/sft --ckpt checkpoints/dpo

    Example: visprobe gradcam photos/ --ckpt checkpoints/dpo --prompt "Is there a dog?" --chosen yes --rejected no

    Example: visprobe gradcam ILSVRC2012 --ckpt checkpoints/dpo --target class --limit 200 --subset-per-class 50

    Example: visprobe gradcam digits --trajectory checkpoints/dpo

    Example: visprobe gradcam a.jpg b.jpg --ckpt google/siglip2-base-patch16-224 --text "a cat" --text "a dog"
    """
    from visprobe.data.prompts import Prompt
    from visprobe.pipelines.attribution.run import AttributionConfig

    checkpoints = ckpt or []
    _check(checkpoints, trajectory, faithfulness)
    named, questions = _questions(images)
    explained, class_name, text_tower = _aim(target)
    config = AttributionConfig(
        tuple(method or ()), tuple(site or ["consumed"]), explained, Prompt(prompt, answer, rejected), questions,
        region, class_name, tuple(text or ()), text_tower, baseline, faithfulness,
    )  # fmt: skip
    run(common, lambda how: _look(checkpoints, trajectory, named, config, how, common.output_dir), short=_short)


def _look(
    checkpoints: Sequence[str],
    trajectory: Path | None,
    named: Sequence[str],
    config: AttributionConfig,
    how: Options,
    folder: Path,
) -> Measurement:
    """Make the maps, and store them in the folder of the report."""
    from visprobe.attribution.storage import save
    from visprobe.pipelines.attribution.run import gradcam
    from visprobe.pipelines.attribution.steps import gradcam_steps

    if trajectory is None:
        looked = gradcam(checkpoints, named, config, how, folder / "kept")
    else:
        start = Path(checkpoints[0]) if checkpoints else None
        looked = gradcam_steps(trajectory, named, config, how, folder / "kept", start)
    save(looked.attributions, folder / "maps.npz")
    return looked.measured


def _questions(named: Sequence[str]) -> tuple[list[str], Path | None]:
    """Separate images from the file of questions; with the file alone, return the images that it names."""
    files = [one for one in named if one.lower().endswith(QUESTIONS)]
    images = [one for one in named if one not in files]
    if len(files) > 1:
        raise UsageError(f"{files[0]} and {files[1]} are two files of questions", hint="Join them into one.")
    if not files or images:
        return images, Path(files[0]) if files else None
    file = Path(files[0])
    if not file.is_file():
        raise UsageError(f"{file} does not exist", hint="Check the path of the file of questions.")
    found = dict.fromkeys(
        str(file.parent / name) for name in map(_image, file.read_text("utf-8-sig").splitlines()) if name
    )
    if not found:
        raise UsageError(f"{file} names no image", hint='Write lines {"image": "a.png", "prompt": "…"}.')
    return list(found), file


def _image(line: str) -> str | None:
    """Return the image that a line names, if any; faulty lines are reported where the file is read in full."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    name = value.get("image") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def _aim(target: str | None) -> tuple[str | None, str | None, str | None]:
    """Split `--target` into the target, a class name and a text tower; None where not given."""
    kind, _, name = (target or "").partition(":")
    if kind == "class" and name:
        return kind, name, None
    if kind == "text" and name:
        return kind, None, name
    return target, None, None


def _check(checkpoints: list[str], trajectory: Path | None, faithfulness: int) -> None:
    """Refuse options that do not go together."""
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
    """Cut a result to the first method and site, and to mass in the region if there are regions, else focus."""
    if result.analysis not in ("attribution", "map_steps"):
        return replace(result, rows=())
    shown = ("mass_inside", "selectivity") if result.settings["with_region"] >= 2 else ("gini", "entropy")
    if result.analysis == "map_steps":
        shown = ("score", shown[0])
    base, site = result.base, result.sites[0]
    rows = [row for row in result.rows if row.site == site and row.measure in shown]
    return replace(result, rows=tuple(row for row in rows if row.role != "difference" or row.reference == base))
