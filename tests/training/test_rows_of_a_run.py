"""What a run trains on is what its rows say: the others are named, limited and never replaced by copies."""

import json

import pytest
from PIL import Image
from transformers import AutoTokenizer

from visprobe.errors import UsageError
from visprobe.mllm.batches import RowEncoder
from visprobe.training.job import make_job, run_job
from visprobe.training.recipe import Recipe
from visprobe.training.rows.llava import llava_json
from visprobe.training.run import run
from visprobe.training.trainers.rewards import REWARDS

ROWS = 12


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def put_rows(tmp_path):
    """Twelve rows about twelve pictures, with changes by the number of the row."""

    def put(changes=None, name="rows.json", **everywhere):
        for number in range(ROWS):
            Image.new("RGB", (64, 64), (20 * number, 90, 5)).save(tmp_path / f"{number}.png")
        plain = {"question": "even or odd ?", "chosen": "even", "rejected": "odd", "answer": "even", **everywhere}
        rows = [{"image": f"{number}.png", **plain, **(changes or {}).get(number, {})} for number in range(ROWS)]
        (tmp_path / name).write_text(json.dumps(rows))
        return llava_json(tmp_path / name)

    return put


def train(base, rows, folder, stage="sft", **how):
    notes = []
    recipe = Recipe(stage=stage, steps=3, batch_size=4, seed=1, **how.pop("settings", {}))
    return run(base, recipe, rows, folder, note=notes.append, **how), notes


def test_rows_that_cannot_be_used_are_left_out_and_named_before_training(base, put_rows, tmp_path, monkeypatch):
    fetched = []
    encode = RowEncoder.__getitem__
    monkeypatch.setattr(RowEncoder, "__getitem__", lambda self, row: fetched.append(row) or encode(self, row))
    rows = put_rows({3: {"image": "gone.png"}, 7: {"chosen": ""}, 8: {"license": "free"}})
    manifest, notes = train(base, rows, tmp_path / "out", max_bad="2")
    assert manifest["rows"]["count"] == ROWS and manifest["rows"]["used"] == ROWS - 2
    assert manifest["rows"]["skipped"] == {"empty answer": 1, "missing image": 1}
    assert notes == [
        "2 of 12 rows of rows.json are not used: empty answer (1), missing image (1)", "rows.json: not used: license",
    ]  # fmt: skip
    assert sorted(fetched) == list(range(ROWS - 2))  # steps of 4, 4 and 2 rows: each row once
    assert manifest["seen"] == {"steps": 3, "rows": 10, "different_rows": 10, "responses": 10}


@pytest.mark.sample(1)
@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_too_many_unusable_rows_are_refused_before_anything_is_trained(base, put_rows, tmp_path, stage):
    rows = put_rows({number: {"image": f"gone{number}.png"} for number in range(1, ROWS)})
    with pytest.raises(UsageError, match=rf"11 of 12 rows of rows.json cannot be used for {stage}") as caught:
        train(base, rows, tmp_path / "out", stage)
    assert "--max-bad allows 1: missing image (11), for example rows.json#1: missing image: gone1.png" in str(
        caught.value
    )
    assert not (tmp_path / "out").exists()
    manifest, _ = train(base, rows, tmp_path / "out", "sft", max_bad="95%", settings={"epochs": 1})
    assert manifest["seen"]["different_rows"] == 1


def test_rows_longer_than_the_model_has_positions_for(base, put_rows, tmp_path):
    config = json.loads((base / "config.json").read_text())["text_config"]
    long = "even " * config["max_position_embeddings"]
    with pytest.raises(UsageError, match=r"longer than the language model's positions \(2\)"):
        train(base, put_rows({1: {"chosen": long}, 2: {"rejected": long}}), tmp_path / "out", "dpo")


@pytest.mark.thorough
def test_every_arm_of_a_study_is_told_the_same_prompts(base, put_rows, tmp_path, monkeypatch):
    monkeypatch.setitem(REWARDS, "length", lambda completion, answer: len(completion) / (9 + len(completion)))
    rows, settings = put_rows(), {"generations": 4, "max_new_tokens": 4, "reward": ("length",)}
    told = {}
    for stage, more in {"sft": {}, "dpo": {}, "grpo": settings}.items():
        manifest, _ = train(base, rows, tmp_path / stage, stage, settings=more)
        told[stage] = manifest["rows"]["prompts"]
    assert len(set(told.values())) == 1
    other, _ = train(base, put_rows({5: {"question": "how many ?"}}), tmp_path / "other")
    assert other["rows"]["prompts"] != told["sft"]


@pytest.mark.thorough
def test_a_system_prompt_in_a_field_of_its_own_is_told(base, put_rows, tmp_path):
    without, _ = train(base, put_rows(), tmp_path / "without")
    told, _ = train(base, put_rows(system="even or odd ?"), tmp_path / "told")
    assert told["rows"]["prompts"] != without["rows"]["prompts"] and told["rows"]["fields_not_used"] == {}


def test_the_job_of_the_command_line_says_how_many_may_be_bad(base, put_rows, tmp_path):
    put_rows({1: {"image": "gone.png"}, 2: {"image": "gone.png"}})
    job = make_job("sft", None, {"base": str(base), "data": str(tmp_path / "rows.json"), "steps": 1, "batch_size": 4})
    with pytest.raises(UsageError, match="2 of 12 rows"):
        run_job(job, tmp_path / "out")
    assert run_job(job, tmp_path / "out", max_bad="17%")["rows"]["used"] == 10
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
