"""A run killed at any moment goes on and ends in the same bits."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from visprobe.demo.rows import DigitRows
from visprobe.errors import UsageError
from visprobe.training.callbacks import read_metrics
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
from visprobe.training.run_folder.by_step import COMPLETE

SETTINGS = {"steps": 9, "batch_size": 4, "learning_rate": 1e-3, "save_every": 3, "seed": 5}
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from visprobe.demo.rows import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
def progress(stage, done, total):
    if stage.startswith("train") and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Recipe(**json.loads(sys.argv[3])), DigitRows(20), Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "how",
    [
        {"stage": "sft"},
        {"stage": "sft", "lora": {"parts": ["vision_tower"]}},
        {"stage": "dpo"},
        {"stage": "sft", "group_by_length": True},  # killed in the second pass over the rows
    ],
    ids=str,
)
def test_a_killed_run_resumes_to_the_bit(base, tmp_path, forked, how):
    settings = {**how, **SETTINGS}
    whole = run(base, Recipe(**settings), DigitRows(20), tmp_path / "whole")
    assert forked(SCRIPT, base, tmp_path / "killed", json.dumps(settings), 7) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    resumed = run(base, Recipe(**settings), DigitRows(20), tmp_path / "killed")
    assert resumed["resumed_from"] == "checkpoint-6"
    assert resumed["losses"] == whole["losses"]
    assert [line["step"] for line in read_metrics(tmp_path / "killed")] == list(range(1, 10))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.thorough
def test_a_checkpoint_that_was_not_written_to_its_end_is_not_resumed_from(base, tmp_path, forked):
    recipe = Recipe(stage="sft", **SETTINGS)
    assert forked(SCRIPT, base, tmp_path / "out", recipe.model_dump_json(), 7) == -signal.SIGKILL
    torn = tmp_path / "out" / "checkpoints" / "checkpoint-6"
    (torn / COMPLETE).unlink()
    (torn / "model.safetensors").write_bytes(b"")
    assert run(base, recipe, DigitRows(20), tmp_path / "out")["resumed_from"] == "checkpoint-3"


@pytest.mark.thorough
def test_another_recipe_that_overwrites_starts_anew(base, tmp_path, forked):
    recipe = Recipe(stage="sft", **SETTINGS)
    assert forked(SCRIPT, base, tmp_path / "out", recipe.model_dump_json(), 7) == -signal.SIGKILL
    other = recipe.model_copy(update={"learning_rate": 2e-3})
    assert run(base, other, DigitRows(20), tmp_path / "out", overwrite=True)["resumed_from"] is None


@pytest.mark.thorough
def test_another_number_of_processes_is_refused_before_anything_is_deleted(base, tmp_path, forked, monkeypatch):
    recipe = Recipe(stage="sft", **SETTINGS)
    assert forked(SCRIPT, base, tmp_path / "out", recipe.model_dump_json(), 4) == -signal.SIGKILL
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UsageError, match="had 1 processes, this one has 8"):
        run(base, recipe, DigitRows(20), tmp_path / "out")
    monkeypatch.delenv("WORLD_SIZE")
    assert run(base, recipe, DigitRows(20), tmp_path / "out")["resumed_from"] == "checkpoint-3"


@pytest.mark.thorough
def test_a_killed_run_does_not_pass_for_the_finished_one_before_it(base, tmp_path, forked):
    """The folder's manifest would speak of fewer steps, its weights perhaps of more."""
    run(base, recipe := Recipe(stage="sft", **{**SETTINGS, "steps": 1}), DigitRows(20), tmp_path / "out")
    longer = Recipe(stage="sft", **SETTINGS)
    assert forked(SCRIPT, base, tmp_path / "out", longer.model_dump_json(), 2) == -signal.SIGKILL
    with pytest.raises(UsageError, match="holds a stopped sft run: steps is 9 there and 1 here"):
        run(base, recipe, DigitRows(20), tmp_path / "out")
