"""What a run would be is what it is: steps, rows and trained numbers of a dry run are those of the run itself."""

import json
import shutil

import pytest
from transformers import LlavaForConditionalGeneration

from visprobe.demo.rows import DigitRows
from visprobe.errors import CheckpointError, UsageError
from visprobe.mllm.parts import part_of
from visprobe.training.recipe import Recipe
from visprobe.training.run import dry_run, run
from visprobe.training.trainers.rewards import REWARDS


@pytest.mark.thorough
@pytest.mark.parametrize(
    "settings",
    [
        {"stage": "sft", "steps": 3},
        {"stage": "sft", "epochs": 2},
        {"stage": "dpo", "epochs": 1.5, "gradient_accumulation": 2, "train": ("projector",)},
        {"stage": "sft", "epochs": 2, "gradient_accumulation": 2, "drop_last": True},
        {"stage": "grpo", "epochs": 1, "generations": 2, "max_new_tokens": 3, "reward": ("length",)},
        {"stage": "sft", "epochs": 1, "train": ("vision_tower.blocks[1:3]", "projector")},
        {"stage": "dpo", "steps": 1, "lora": {"rank": 2}},
    ],
)
def test_a_run_is_what_was_said_of_it(base, tmp_path, monkeypatch, settings):
    monkeypatch.setitem(REWARDS, "length", lambda completion, answer: len(completion) / (9 + len(completion)))
    recipe, rows = Recipe(batch_size=4, **settings), DigitRows(19)
    planned = dry_run(base, recipe, rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    manifest = run(base, recipe, rows, tmp_path / "out")
    assert (planned.steps, planned.seen) == (manifest["seen"]["steps"], manifest["seen"]["rows"])
    assert (planned.used, planned.count) == (manifest["rows"]["used"], manifest["rows"]["count"])
    model = LlavaForConditionalGeneration.from_pretrained(base)
    for part, (trained, there) in planned.parameters.items():
        sizes = {name: p.numel() for name, p in model.named_parameters() if part_of(name) == part}
        if recipe.lora is None:
            assert trained == sum(size for name, size in sizes.items() if name in manifest["trained"])
            assert there == sum(sizes.values())
    assert planned.memory["optimizer"] == 8 * sum(trained for trained, _ in planned.parameters.values())


def test_a_reference_in_memory_is_counted(base, tmp_path):
    plain, doubled = (
        dry_run(base, Recipe(stage="dpo", batch_size=4, reference=reference), DigitRows(8), tmp_path / "out").memory
        for reference in ("precomputed", "model")
    )
    assert doubled == {**plain, "reference": plain["weights"]}


def test_what_a_run_refuses_a_dry_run_does_too(base, tmp_path):
    recipe = Recipe(stage="sft", steps=1, batch_size=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        dry_run(base, recipe, DigitRows(8), tmp_path / "mine")
    with pytest.raises(UsageError, match="no such part: towel"):
        dry_run(base, Recipe(stage="sft", steps=1, train=("towel",)), DigitRows(8), tmp_path / "out")
    with pytest.raises(UsageError, match="no such reward: exakt"):
        dry_run(base, Recipe(stage="grpo", steps=1, reward=("exakt",)), DigitRows(8), tmp_path / "out")
    shutil.copytree(base, tmp_path / "torn")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    for layers, words in ((config["text_config"].pop("layer_types"), "must be equal to"), (None, "its files lack")):
        config["text_config"] |= {"layer_types": layers} if layers else {}
        (tmp_path / "torn" / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=words):
            dry_run(tmp_path / "torn", recipe, DigitRows(8), tmp_path / "out")
        config["text_config"].pop("layer_types", None)
