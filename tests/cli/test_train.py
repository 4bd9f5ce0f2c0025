"""The stages one after another, as the paper runs them: a new model, projector, full, SFT, PIVOT."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_pieces import write_language_model, write_tower

SMALL = ("--data", "digits", "--rows", 8, "--steps", 2, "--batch-size", 4, "--learning-rate", 1e-3, "--quiet")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    root = tmp_path_factory.mktemp("pieces")
    write_tower(root / "tower", "siglip")
    write_language_model(root / "llm")
    write_language_model(root / "other-llm", seed=9)
    return root


def weights(folder):
    return load_file(folder / "model.safetensors")


def moved(before, after):
    old, new = weights(before), weights(after)
    changed = {name.removeprefix("model.").split(".")[0] for name in old if not torch.equal(old[name], new[name])}
    return {"language_model" if part == "lm_head" else part for part in changed}


@pytest.mark.thorough
def test_the_papers_stages_in_a_row(run, pieces, tmp_path):
    first = run("train", "projector", "--vision-tower", pieces / "tower", "--language-model", pieces / "llm", *SMALL,
                "-o", tmp_path / "projector")  # fmt: skip
    assert first.code == 0, first.err
    assert moved(tmp_path / "projector-start", tmp_path / "projector") == {"multi_modal_projector"}
    for stage, base in (("full", "projector"), ("sft", "full"), ("dpo", "full")):
        # To a language model of few words most of the chosen and rejected answers are the same.
        ran = run("train", stage, "--base", tmp_path / base, *SMALL, "--max-bad", "5", "-o", tmp_path / stage)
        assert ran.code == 0, ran.err
        assert moved(tmp_path / base, tmp_path / stage) == {"multi_modal_projector", "vision_tower", "language_model"}
    compared = run("compare", *(tmp_path / n for n in ("full", "sft", "dpo")), "--data", "digits", "--limit", 20,
                   "-o", tmp_path / "report")  # fmt: skip
    assert compared.code == 0, compared.err

    for name, text in (("a.yaml", ""), ("b.yaml", "train: [projector, language_model]\n")):
        (tmp_path / name).write_text(f"data: digits\nrows: 8\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\n{text}")
    pivoted = run("train", "pivot", "--tower-from", tmp_path / "dpo", "--language-model", pieces / "other-llm",
                  "--projector-config", tmp_path / "a.yaml", "--full-config", tmp_path / "b.yaml",
                  "-o", tmp_path / "pivot", "--quiet")  # fmt: skip
    assert pivoted.code == 0, pivoted.err
    taken, kept = weights(tmp_path / "dpo"), weights(tmp_path / "pivot" / "full")
    tower = [name for name in kept if name.removeprefix("model.").startswith("vision_tower.")]
    assert tower and all(torch.equal(taken[name], kept[name]) for name in tower)  # the transplanted tower stays frozen


@pytest.mark.thorough
def test_a_new_model_is_put_together_again_when_its_parts_change(run, pieces, tmp_path):
    def train(llm, *more):
        return run("train", "projector", "--vision-tower", pieces / "tower", "--language-model", pieces / llm, *SMALL,
                   *more, "-o", tmp_path / "projector")  # fmt: skip

    def inputs(*words):
        ran = train(*words)
        assert ran.code == 0, ran.err
        return json.loads((tmp_path / "projector" / "manifest.json").read_text())["inputs"]

    one, same = inputs("llm"), inputs("llm")
    assert one == same
    ran = train("other-llm")
    assert ran.code == 2 and "projector-start" in ran.err and "--overwrite" in ran.err
    assert inputs("llm") == one
    two = inputs("other-llm", "--overwrite")
    assert one["base"] != two["base"]
    assert inputs("llm", "--set", "feature_layer=1", "--overwrite")["base"] != one["base"]


@pytest.mark.thorough
def test_recipe_flags_and_settings_in_their_order(run, pieces, checkpoints, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"base: {checkpoints / 'base'}\nsteps: 5\nbatch_size: 4\nseed: 3\nrows: 8\n")
    ran = run("train", "dpo", "-C", recipe, "--steps", 2, "--set", "beta=0.7", "-o", tmp_path / "out", "--quiet")
    assert ran.code == 0, ran.err
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    recipe_used = manifest["inputs"]["recipe"]
    assert (recipe_used["steps"], recipe_used["batch_size"], recipe_used["beta"], recipe_used["seed"]) == (2, 4, 0.7, 3)
    assert manifest["origins"] | {"beta": "--set", "steps": "flag", "seed": str(recipe)} == manifest["origins"]


@pytest.mark.thorough
def test_a_folder_of_another_run_is_refused_unless_it_is_overwritten(run, checkpoints, tmp_path):
    def train(stage, *more):
        return run("train", stage, "--base", checkpoints / "base", *SMALL, *more, "-o", tmp_path / "out")

    assert train("sft").code == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    ran = train("dpo", "--seed", 1)
    assert ran.code == 2 and ran.out == ""
    assert "out holds a finished sft run: other rows; stage is sft there and dpo here; seed is 0" in " ".join(
        ran.err.split()
    )
    assert "--overwrite" in ran.err and (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert "2 steps, final loss" in train("dpo", "--seed", 1, "--overwrite").out
    assert "already there" in train("dpo", "--seed", 1, "--overwrite").out
    assert train("sft", "--save-every", 2, "--overwrite").code == 0
    assert "3 steps, went on from checkpoint-2, final loss" in train("sft", "--save-every", 2, "--steps", 3).out


def test_a_dry_run_says_what_would_be_trained_and_trains_nothing(run, pieces, tmp_path):
    from visprobe.demo.base import BASE

    ran = run("train", "sft", "--base", BASE, *SMALL, "-o", tmp_path / "out", "--dry-run")
    assert ran.code == 0 and not (tmp_path / "out").exists()
    assert ran.out.startswith(
        "sft: nothing was trained\n  rows            8 of 8 of digits-8-seed0\n  steps           2 of 4"
    )
    assert "numbers trained" in ran.out and "optimizer" in ran.out
    refused = run("train", "sft", "--base", BASE, *SMALL, "-o", tmp_path / "out", "--dry-run", "--max-bad", "many")
    assert refused.code == 2 and "neither a number nor a percentage" in refused.err
