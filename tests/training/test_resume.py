"""A run killed at any moment goes on and ends in the same bits."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from visprobe.training.callbacks import COMPLETE, read_metrics
from visprobe.training.digits import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
from visprobe.training.small_llava import build_model, build_processor

SETTINGS = {"steps": 9, "batch_size": 4, "learning_rate": 1e-3, "save_every": 3, "seed": 5}
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from visprobe.training.digits import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
def progress(stage, done, total):
    if stage.startswith("train") and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Recipe(**json.loads(sys.argv[3])), DigitRows(20), Path(sys.argv[2]), progress=progress)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "base"
    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "how", [{"stage": "sft"}, {"stage": "dpo"}, {"stage": "sft", "lora": {"parts": ["vision_tower"]}}], ids=str
)
def test_a_killed_run_resumes_to_the_bit(base, tmp_path, how):
    settings = {**how, **SETTINGS}
    whole = run(base, Recipe(**settings), DigitRows(20), tmp_path / "whole")
    command = [sys.executable, "-c", SCRIPT, str(base), str(tmp_path / "killed"), json.dumps(settings), "7"]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    resumed = run(base, Recipe(**settings), DigitRows(20), tmp_path / "killed")
    assert resumed["resumed_from"] == "checkpoint-6"
    assert resumed["losses"] == whole["losses"]
    assert [line["step"] for line in read_metrics(tmp_path / "killed")] == list(range(1, 10))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_that_was_not_written_to_its_end_is_not_resumed_from(base, tmp_path):
    recipe = Recipe(stage="sft", **SETTINGS)
    command = [sys.executable, "-c", SCRIPT, str(base), str(tmp_path / "out"), recipe.model_dump_json(), "7"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    torn = tmp_path / "out" / "checkpoints" / "checkpoint-6"
    (torn / COMPLETE).unlink()
    (torn / "model.safetensors").write_bytes(b"")
    assert run(base, recipe, DigitRows(20), tmp_path / "out")["resumed_from"] == "checkpoint-3"


def test_another_recipe_starts_anew(base, tmp_path):
    recipe = Recipe(stage="sft", **SETTINGS)
    command = [sys.executable, "-c", SCRIPT, str(base), str(tmp_path / "out"), recipe.model_dump_json(), "7"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    other = recipe.model_copy(update={"learning_rate": 2e-3})
    assert run(base, other, DigitRows(20), tmp_path / "out")["resumed_from"] is None
