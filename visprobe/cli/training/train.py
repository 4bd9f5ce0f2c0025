"""`visprobe train`: training of one stage, of a pivot, or of a whole study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from visprobe.cli import options as o
from visprobe.cli.config_file import origins
from visprobe.cli.output import Bars, print_notes, printable
from visprobe.training.launch import is_first_process, launch_note, require_training

if TYPE_CHECKING:
    from visprobe.training.stages import Stage

MaxBadRows = Annotated[
    str,
    typer.Option(
        "--max-bad", help="Rows that may be unusable, N or P% (rounded up); more of them, and nothing is trained."
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove another run or model that the folder holds, once this one trains.")
]


class _Stages(TyperGroup):
    """Command group that adds the commands of stages on first use: other packages may bring some."""

    _given: dict[str, Any]
    _complete = False

    @property
    def commands(self) -> Any:
        if not self._complete:
            from visprobe.training.stages import stages

            by_name = typer.Typer()
            for stage in stages().values():
                by_name.command(stage.name)(_stage_command(stage))
            self._given.update(get_group(by_name).commands)
            self._complete = True
        return self._given

    @commands.setter
    def commands(self, given: Any) -> None:
        self._given = given


app = typer.Typer(help="Train a multimodal LLM: checkpoints to compare.", no_args_is_help=True, cls=_Stages)


def _stage_command(stage: Stage) -> Any:
    """Make the command of one stage: all stages share the flags, which reach recipe and sources by their names."""

    def command(
        context: typer.Context,
        output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of the new checkpoint.")],
        config: Annotated[Path | None, typer.Option("--config", "-C", help="Recipe file (YAML); flags win.")] = None,
        base: Annotated[str | None, typer.Option(help="Multimodal model to start from.")] = None,
        vision_tower: Annotated[str | None, typer.Option(help="Vision tower of a new model.")] = None,
        language_model: Annotated[str | None, typer.Option(help="Language model of a new model.")] = None,
        data: Annotated[
            str | None, typer.Option("--data", "-d", help="Training rows: a file, folder, hub id, or 'digits'.")
        ] = None,
        images: Annotated[Path | None, typer.Option(help="Folder that image paths in the rows start from.")] = None,
        rows: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Optimizer steps; without it, by epochs. More than before: goes on.")
        ] = None,
        epochs: Annotated[float | None, typer.Option(help="Passes over the rows.")] = None,
        batch_size: Annotated[
            int | None, typer.Option("--batch-size", "-b", min=1, help="Rows per step and process.")
        ] = None,
        gradient_accumulation: Annotated[int | None, typer.Option(min=1, help="Batches per optimizer step.")] = None,
        learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        vision_learning_rate: Annotated[
            float | None, typer.Option(help="Learning rate of the vision tower alone.")
        ] = None,
        train: Annotated[
            str | None,
            typer.Option(help="What trains: vision_tower, projector, language_model, vision_tower.blocks[8:12]."),
        ] = None,
        precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
        save_every: Annotated[int | None, typer.Option(min=0, help="Steps between checkpoints to resume from.")] = None,
        snapshot_tower_every: Annotated[
            int | None, typer.Option(min=0, help="Steps between copies of tower and projector.")
        ] = None,
        attribution_every: Annotated[
            int | None,
            typer.Option(
                min=0, help="Steps between maps of where it looks in a few pictures, drawn as training goes on."
            ),
        ] = None,
        setting: Annotated[
            list[str] | None, typer.Option("--set", help="Any other setting of the recipe: key=value.")
        ] = None,
        max_bad: MaxBadRows = "1%",
        seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
        overwrite: Overwrite = False,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", help="Check recipe, rows and model, and say what would be trained."),
        ] = False,
        offline: o.Offline = False,
        verbose: o.Verbose = None,
    ) -> None:
        require_training()
        from visprobe.cli.training.train_plan import print_plan
        from visprobe.pipelines.attribution.during_training import attribution_callback
        from visprobe.training.job import Sources, dry_run_job, make_job, run_job
        from visprobe.training.recipe import Recipe

        settings = {*Sources.model_fields, *Recipe.model_fields}
        flags = {name: value for name, value in context.params.items() if name in settings}
        job = make_job(stage.name, config, flags, setting or [], vision_learning_rate)
        print_notes(filter(None, [launch_note()]))
        with Bars(verbose if is_first_process() else False) as bars:
            options: Any = {"progress": bars, "note": _note, "callbacks": [attribution_callback(_note)]}
            options |= {"max_bad": max_bad, "overwrite": overwrite}
            if dry_run:
                print_plan(dry_run_job(job, output_dir, **options))
                return
            manifest = run_job(job, output_dir, **options)
        _print_done(output_dir, stage.name, manifest)

    examples = "".join(
        f"\n    Example: visprobe train {stage.name} {one} -o checkpoints/{stage.name}\n" for one in stage.examples
    )
    command.__doc__ = f"{stage.summary}\n{examples}"
    return command


def _note(text: str) -> None:
    if is_first_process():
        print_notes([text])


def _print_done(folder: Path, stage: str, manifest: dict[str, Any]) -> None:
    if not is_first_process():
        return
    begun = f"went on from {manifest['resumed_from']}, " if manifest.get("resumed_from") else ""
    state = "already there" if manifest.get("reused") else f"{begun}final loss {manifest['losses'][-1]:.4g}"
    if reward := manifest.get("reward"):
        alike = f"{reward['groups_alike']:.0%} of answers in groups that earn alike"
        state += f", mean reward {reward['mean']:.3g}, {alike}"
    print(f"{printable(str(folder))}: {stage}, {manifest['seen']['steps']} steps, {state}")


@app.command("pivot")
def pivot(
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Folder of the stages.")],
    tower_from: Annotated[str, typer.Option(help="Checkpoint whose post-trained tower is transplanted.")],
    language_model: Annotated[str, typer.Option(help="Language model that it is put under.")],
    projector_config: Annotated[Path, typer.Option(help="Recipe of the projector stage (YAML).")],
    full_config: Annotated[Path, typer.Option(help="Recipe of the stage after it; its `train` decides on the tower.")],
    reuse_projector_layers: Annotated[int, typer.Option(min=0, help="First projector layers taken over too.")] = 0,
    max_bad: MaxBadRows = "1%",
    seed: o.Seed = 0,
    overwrite: Overwrite = False,
    verbose: o.Verbose = None,
) -> None:
    """Put a post-trained tower under a fresh projector and another language model, and train those.

    Example: visprobe train pivot --tower-from checkpoints/dpo --language-model Qwen/Qwen2.5-1.5B-Instruct
    --projector-config training/1a-projector.yaml --full-config training/pivot.yaml -o checkpoints/pivot

    Example: visprobe train pivot --tower-from checkpoints/sft --language-model Qwen/Qwen2.5-1.5B-Instruct
    --projector-config training/1a-projector.yaml --full-config training/pivot.yaml --seed 1 -o checkpoints/pivot-sft
    """
    require_training()
    from visprobe.pipelines.attribution.during_training import attribution_callback
    from visprobe.training.job import run_pivot

    with Bars(verbose if is_first_process() else False) as bars:
        stages = run_pivot(
            tower_from, language_model, projector_config, full_config, output_dir,
            reuse_projector_layers=reuse_projector_layers, seed=seed, progress=bars, note=_note,
            callbacks=[attribution_callback(_note)], max_bad=max_bad, overwrite=overwrite,
        )  # fmt: skip
    for stage, manifest in stages.items():
        _print_done(output_dir / stage, stage, manifest)


@app.command("study")
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Study file (YAML): base, rows, arms, seeds, comparison.")],
    output_dir: o.OutputDir = Path("visprobe-study"),
    max_bad: MaxBadRows = "1%",
    overwrite: Overwrite = False,
    json: o.Json = False,
    verbose: o.Verbose = None,
) -> None:
    """Train every arm with every seed from one base on the same rows, then compare all their encoders.

    Example: visprobe train study training/study.yaml -o study

    Example: visprobe train study training/study.yaml -o study --json
    """
    require_training()
    from visprobe.cli.present import command_line, finish, show, show_json
    from visprobe.pipelines.attribution.during_training import attribution_callback
    from visprobe.pipelines.study import run_study, train_arms
    from visprobe.pipelines.study_file import read_study
    from visprobe.report.write import write_report

    if not is_first_process():  # all processes train, the first one compares
        planned = read_study(file, output_dir, overwrite=overwrite)
        train_arms(planned, output_dir, callbacks=[attribution_callback(_note)], max_bad=max_bad, overwrite=overwrite)
        return
    with Bars(verbose) as bars:
        planned = read_study(file, output_dir, overwrite=overwrite)
        measured = run_study(
            planned, output_dir, progress=bars, note=_note, callbacks=[attribution_callback(_note)], max_bad=max_bad,
            overwrite=overwrite,
        )  # fmt: skip
        document = measured.document(command_line(), origins(context))
        page = write_report(output_dir / "report", document)
    if json:
        show_json(document)
    else:
        show(measured, page=page)
    finish(measured, "1%")
