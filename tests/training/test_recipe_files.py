"""The recipes in training/ are read by the commands that they are for, and say what the paper's stages are."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from visprobe.pipelines.study_file import read_study
from visprobe.training.job import make_job
from visprobe.training.on_paper import seen
from visprobe.training.recipe import DEFAULT_TRAIN
from visprobe.training.trainers.mixins import WholeSteps

FOLDER = Path(__file__).parents[2] / "training"
JOBS = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "study.yaml")
PROCESSES = 8


def job(path):
    values = yaml.safe_load(path.read_text())
    start = {} if "base" in values else {"base": "./somewhere"}
    return make_job(values["stage"], path, start)


def global_batch(recipe):
    return recipe.batch_size * recipe.gradient_accumulation * PROCESSES


def test_all_stages_are_there():
    assert {path.stem for path in JOBS} == {"1a-projector", "1b-full", "2-sft", "2-dpo", "pivot"}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_every_recipe_is_accepted_and_is_of_the_paper(path):
    text, recipe = path.read_text(), job(path).recipe
    assert (
        "Needs (estimate" in text
        and "Should show" in text
        and f"--config training/{path.name}" in text.replace("--full-config", "--config")
    )
    assert global_batch(recipe) == 256
    assert (recipe.schedule, recipe.warmup, recipe.weight_decay, recipe.max_gradient_norm) == ("cosine", 0.03, 0, 1)
    assert recipe.resample == "bicubic"
    assert recipe.epochs == (3 if path.stem.startswith("2-") else 1)
    rates = {"1a-projector": 1e-3, "1b-full": 1e-5, "2-sft": 5e-6, "2-dpo": 1e-6, "pivot": 1e-5}
    assert recipe.learning_rate == rates[path.stem]
    assert recipe.part_learning_rates == ({"vision_tower": 2e-6} if path.stem == "1b-full" else {})
    parts = {"1a-projector": ("projector",), "pivot": ("projector", "language_model")}
    assert recipe.train == parts.get(path.stem, DEFAULT_TRAIN)


def test_the_two_arms_read_the_same_rows():
    sft, dpo = (job(FOLDER / f"2-{arm}.yaml") for arm in ("sft", "dpo"))
    assert sft.sources == dpo.sources
    assert dpo.recipe.loss_weights == {"sigmoid": 1.0} and dpo.recipe.beta == 0.1


def test_the_study_is_the_two_arms():
    study = read_study(FOLDER / "study.yaml", Path("nowhere"))
    assert study.seeds == (0, 1, 2) and study.base == Path("checkpoints/1b-full")
    assert {global_batch(recipe) for recipe in study.arms.values()} == {256}
    for arm in ("sft", "dpo"):
        alone, here = job(FOLDER / f"2-{arm}.yaml").recipe, study.arms[arm]
        batch = {"batch_size": alone.batch_size, "gradient_accumulation": alone.gradient_accumulation}
        assert here.model_copy(update=batch) == alone


def test_the_slurm_script_hands_its_arguments_on(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(FOLDER.parent)}
    command = ["bash", str(FOLDER / "slurm.sh"), "dpo", "--set", "losses={sigmoid: 1.0}"]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert out[:2] == ["accelerate", "launch"]
    assert out[4:] == ["-m", "visprobe", "train", "dpo", "--set", "losses={sigmoid:", "1.0}"]
    assert (FOLDER.parent / out[3]).is_file()
    alone = subprocess.run(command, env={"PATH": environment["PATH"]}, capture_output=True, text=True)
    assert alone.returncode != 0 and "run this with sbatch" in alone.stderr


def test_the_arms_take_the_papers_number_of_steps():
    """20,000 rows in steps of 256 are 78 a pass by the published rule, which leaves out what fills no step."""
    for recipe in (job(FOLDER / "2-sft.yaml").recipe, job(FOLDER / "2-dpo.yaml").recipe):
        assert recipe.drop_last
        assert len(WholeSteps(range(20_000), global_batch(recipe))) // global_batch(recipe) * recipe.epochs == 234
        assert seen(recipe, 234, 20_000, 8)["rows"] == 234 * 256
