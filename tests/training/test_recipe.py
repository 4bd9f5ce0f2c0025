"""Recipes: every fault at once, named so that it can be mended."""

import json

import pytest

from visprobe.errors import UsageError
from visprobe.training.recipe import Recipe, make_recipe, read_yaml
from visprobe.training.stages.dpo import MPO


def test_every_fault_is_reported_at_once():
    settings = {"stage": "sft", "stepz": 5, "batch_size": 0, "learning_rate": "fast", "beta": 0.1, "warmup": 2}
    with pytest.raises(UsageError) as error:
        make_recipe(settings, "recipe.yaml")
    for part in (
        "recipe.yaml: ",
        "unknown key stepz (did you mean steps?)",
        "batch_size: input should be greater than or equal to 1",
        "learning_rate: input should be a valid number",
        "warmup: input should be less than 1",
        "beta has no meaning for stage sft",
    ):
        assert part in error.value.message


def test_strings_stand_for_lists_and_presets_for_weights():
    recipe = make_recipe({"stage": "dpo", "train": "projector, vision_tower", "losses": "mpo"}, "here")
    assert recipe.train == ("projector", "vision_tower")
    assert recipe.loss_weights == MPO
    assert make_recipe({"stage": "dpo", "losses": {"sigmoid": 1, "sft": 0}}, "here").loss_weights == {
        "sigmoid": 1,
        "sft": 0,
    }


def test_the_projector_stage_trains_the_projector():
    assert make_recipe({"stage": "projector"}, "here").train == ("projector",)
    with pytest.raises(UsageError, match="trains the projector alone"):
        make_recipe({"stage": "projector", "train": "vision_tower"}, "here")


@pytest.mark.parametrize("stage", ["orpo", None, 3, ["sft"]])
def test_stages_that_do_not_exist_are_refused_with_those_that_do(stage):
    with pytest.raises(UsageError, match=r"stage: input should be 'projector', 'full', 'sft', 'dpo'.* 'grpo'"):
        make_recipe({"stage": stage}, "here")


def test_nested_settings_are_checked_too():
    with pytest.raises(UsageError, match=r"unknown key lora\.rang"):
        make_recipe({"stage": "sft", "lora": {"rang": 4}}, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "holds no settings"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_yaml(path)


def test_a_recipe_survives_json():
    recipe = make_recipe({"stage": "dpo", "part_learning_rates": {"vision_tower": 2e-6}, "lora": {"rank": 4}}, "here")
    assert Recipe(**json.loads(recipe.model_dump_json())) == recipe


def test_missing_files(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_yaml(tmp_path / "absent.yaml")
