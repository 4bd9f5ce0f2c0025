"""Mistakes are named in one message before anything is loaded, and the manifest says what was really seen."""

import errno
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import SafetensorError

from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_processor
from visprobe.errors import PrerequisiteError, TrainingError, UsageError
from visprobe.mllm.batches import RowEncoder
from visprobe.training import run as module
from visprobe.training.callbacks import Watch
from visprobe.training.job import make_job
from visprobe.training.on_paper import seen
from visprobe.training.recipe import Recipe, make_recipe
from visprobe.training.rows.usable import UsableRows, preference, supervised
from visprobe.training.run import run
from visprobe.training.trainers.common import resolved_precision


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part_learning_rates": {"tower": 1e-3}}, "part_learning_rates.tower"),
        ({"part_learning_rates": {"vision_tower": -1}}, "greater than or equal to 0"),
        ({"schedule": "cosin"}, "schedule: input should be 'linear', 'cosine'"),
        ({"train": []}, "train: tuple should have at least 1 item"),
        ({"warmup": 1}, "warmup: input should be less than 1"),
        ({"stage": "dpo", "losses": {}}, "losses: name at least one"),
        ({"stage": "grpo", "group_by_length": True}, "group_by_length has no meaning for stage grpo"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\\(")):
        make_recipe({"stage": "sft", **settings}, "test")


@pytest.mark.parametrize(
    ("flags", "settings", "message"),
    [
        ({"base": "b", "rows": 0}, [], "rows: Input should be greater"),
        ({"base": "b"}, ["losses={"], "the value is not YAML"),
        ({"base": "b"}, ["image_size=64"], "a base has its own image_size"),
    ],
)
def test_faults_of_sources_are_usage_errors(flags, settings, message):
    with pytest.raises(UsageError, match=message):
        make_job("sft", None, flags, settings)


def test_a_recipe_of_another_stage_is_refused(tmp_path):
    (tmp_path / "dpo.yaml").write_text("stage: dpo\nbase: b\n")
    with pytest.raises(UsageError, match="is a recipe of stage 'dpo', not sft"):
        make_job("sft", tmp_path / "dpo.yaml", {})


def test_folders_trackers_and_precision_are_checked_first(base, tmp_path):
    (tmp_path / "file").touch()
    recipe = Recipe(stage="sft", steps=1)
    for folder, message in ((tmp_path / "file" / "out", "is no folder"), (base, "is that of the base")):
        with pytest.raises(UsageError, match=message):
            run(base, recipe, DigitRows(4), folder)
    with pytest.raises(UsageError, match="report_to: nope does not exist"):
        run(base, recipe.model_copy(update={"report_to": ("nope",)}), DigitRows(4), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_float16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="float16 needs a CUDA device"):
        resolved_precision("float16")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2586112 vs 2586004"),
    ],
    ids=["python", "safetensors", "torch"],  # as they were raised on a full tmpfs
)
def test_a_full_disk_is_named(error):
    recipe = Recipe(stage="sft")
    said = "the disk is full: out cannot be written"
    with pytest.raises(PrerequisiteError, match=said), module._readable_failure(recipe, Path("out")):
        raise error


def test_the_last_step_is_logged_whatever_log_every_is(base, tmp_path):
    manifest = run(base, Recipe(stage="sft", steps=3, batch_size=2, log_every=10), DigitRows(6), tmp_path / "out")
    assert len(manifest["losses"]) == 1


def test_a_gradient_that_is_none_stops_the_run(tmp_path):
    watch = Watch(Recipe(stage="sft", batch_size=2, gradient_accumulation=3), tmp_path, None)

    class State:
        global_step, is_world_process_zero = 4, True

    with pytest.raises(TrainingError, match="the grad_norm is nan at step 4; rows of about 18 to 24 "):
        watch.on_log(None, State, None, {"loss": 0.1, "grad_norm": float("nan")})


def test_another_chat_template_of_the_base_is_another_run(base, tmp_path):
    recipe = Recipe(stage="sft", steps=1, batch_size=2)
    run(base, recipe, DigitRows(2), tmp_path / "out")
    assert run(base, recipe, DigitRows(2), tmp_path / "out")["reused"]
    template = base / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before + "{# changed #}")
    try:
        with pytest.raises(UsageError, match="another configuration, tokenizer or chat template of the base"):
            run(base, recipe, DigitRows(2), tmp_path / "out")
    finally:
        template.write_text(before)


@pytest.mark.parametrize(
    ("stage", "steps", "count", "expected"),
    [
        ("sft", 2, 10, 20),  # two passes of 10 rows, each one step of 12
        ("sft", 3, 30, 30),  # 12 + 12 + 6
        ("sft", 5, 30, 54),  # a second pass begins
        ("dpo", 4, 100, 48),
        ("grpo", 1, 10, 8),  # batches of 4 questions: the last 2 rows fill none
    ],
)
def test_rows_seen_are_counted_without_what_a_pass_has_not(stage, steps, count, expected):
    recipe = Recipe(stage=stage, batch_size=4, gradient_accumulation=3)
    found = seen(recipe, steps, count, processes=1)
    assert found["rows"] == expected and found["different_rows"] == min(
        expected, count - (count % 4) * (stage == "grpo")
    )


@pytest.mark.thorough
def test_rows_seen_are_those_that_were_collated(base, tmp_path, monkeypatch):
    fetched = []
    encode = RowEncoder.__getitem__
    monkeypatch.setattr(RowEncoder, "__getitem__", lambda self, row: fetched.append(row) or encode(self, row))
    recipe = Recipe(stage="sft", epochs=2, batch_size=4, gradient_accumulation=2)
    assert run(base, recipe, DigitRows(10), tmp_path / "out")["seen"]["rows"] == len(fetched) == 20
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]["skipped"] == {}


class Blind(DigitRows):
    """Rows whose images must not be looked at."""

    def image(self, key):
        raise AssertionError(key)


def test_lengths_are_the_same_for_every_stage_and_take_no_images():
    rows = Blind(6)
    lengths = {need: [UsableRows(rows, need).length(i) for i in range(6)] for need in (supervised, preference)}
    assert lengths[supervised] == lengths[preference]
    row = rows[0]
    assert lengths[supervised][0] == len(row.turns[0].text) + len(row.chosen) + len(row.rejected)


def test_encoded_rows_are_kept_as_long_as_there_is_room(monkeypatch):
    class Counted(DigitRows):
        loaded = 0

        def image(self, key) -> Image.Image:
            self.loaded += 1
            return super().image(key)

    rows = Counted(4)
    fitted = UsableRows(rows, supervised)
    one = 3 * 64 * 64 * 4  # bytes of an image; the tokens of a row are under a tenth of that
    encoder = RowEncoder(build_processor(), fitted, memory=int(2.5 * one))
    for _ in range(2):
        for number in range(4):
            encoder[number]
    assert rows.loaded == 4 + 2  # two rows are remembered, two are encoded again
