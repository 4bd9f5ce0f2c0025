"""Maps during training: the model trains on bit for bit, the maps are right, and nothing that fails stops it."""

import json
import random
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.storage import load
from visprobe.attribution.targets.answers import open_mllm
from visprobe.data.rows import Row, Turn
from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.errors import TrainingError, UsageError
from visprobe.pipelines.attribution import during_training as during_training_module
from visprobe.pipelines.attribution.during_training import attribution_callback, pick_examples
from visprobe.training import maps as during_training
from visprobe.training.maps import MapsDuringTraining, name_of, refuse_shards, step_of, undisturbed
from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import UsableRows, preference, supervised
from visprobe.training.run import run
from visprobe.training.run_folder.by_step import append_line, forget_after, read_lines

SETTINGS = {"steps": 5, "batch_size": 4, "learning_rate": 1e-3, "seed": 3}
ROWS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base with dropout in its language model: training draws random numbers at every step."""
    folder = tmp_path_factory.mktemp("checkpoints") / "base"
    processor = build_processor()
    model = build_model(processor, seed=0)
    model.config.text_config.attention_dropout = 0.2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def fail(text):
    raise AssertionError(text)


def trained(base, folder, stage, warn=fail, **settings):
    callbacks = [attribution_callback(warn)] if settings.get("attribution_every") else []
    return run(base, Recipe(stage=stage, **{**SETTINGS, **settings}), DigitRows(ROWS), folder, callbacks=callbacks)


@pytest.fixture(scope="module")
def looked(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "dpo"
    return folder, trained(base, folder, "dpo", attribution_every=2, save_every=3)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "stage, extra", [("sft", {}), ("dpo", {}), ("dpo", {"lora": {"parts": ["language_model", "vision_tower"]}})]
)
def test_losses_and_weights_are_those_of_a_run_without_maps(base, tmp_path, monkeypatch, stage, extra):
    def wasteful(*args, **kwargs):
        torch.rand(7), np.random.rand(), random.random()  # as a library might
        return maps(*args, **kwargs)

    monkeypatch.setattr(during_training, "maps", wasteful)
    monkeypatch.setattr(during_training_module, "draw", lambda *_: b"")  # a second each
    extra = {**extra, "steps": 3, "batch_size": 2}
    plain = trained(base, tmp_path / "plain", stage, **extra)
    assert trained(base, tmp_path / "maps", stage, attribution_every=1, **extra)["losses"] == plain["losses"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "maps"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_maps_of_the_start_are_those_of_the_base_and_of_the_end_those_of_the_saved_model(base, looked):
    folder, _ = looked
    found = load(folder / "attribution.npz")
    assert [step_of(name) for name in found.names] == [0, 2, 4, 5]
    held = pick_examples(Recipe(stage="dpo"), base, UsableRows(DigitRows(ROWS), preference), build_processor())
    for name, checkpoint in ((name_of(0), base), (name_of(5), folder)):
        subject = open_mllm(checkpoint, held.questions, "contrast")
        [expected] = maps(subject, held.images, [held.method]).values()
        [made] = found.maps[name].values()
        for one, other in zip(made, expected, strict=True):
            assert torch.equal(one.values, other.values) and one.score == other.score
    assert all(region is not None for region in found.regions)


def test_each_look_is_a_line_and_a_figure(looked):
    folder, _ = looked
    lines, found = read_lines(folder / "attribution.jsonl"), load(folder / "attribution.npz")
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert sorted(path.name for path in (folder / "attribution").iterdir()) == [
        f"step-{step:06d}.png" for step in (0, 2, 4, 5)
    ]
    for line in lines:
        [made] = found.maps[name_of(line["step"])].values()
        assert list(line["scores"].values()) == [one.score for one in made]
        assert line["score"]["value"] == pytest.approx(np.mean([one.score for one in made]), rel=1e-6)
        assert line["gini"]["low"] <= line["gini"]["value"] <= line["gini"]["high"] <= 1
    assert "rank_correlation" not in lines[0] and lines[-1]["rank_correlation"]["value"] < 1
    with Image.open(folder / "attribution" / "step-000005.png") as figure:
        assert figure.size[0] > 500


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from visprobe.training import maps as during_training
from visprobe.pipelines.attribution import during_training as module
from visprobe.demo.rows import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
module.draw = lambda *_: b""
real = during_training.append_line
def torn(path, line):
    if line["step"] == 4:
        with path.open("a") as file:
            file.write('{"step": 4, "sco')
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, line)
during_training.append_line = torn
base, out, recipe = sys.argv[1:]
run(Path(base), Recipe(**json.loads(recipe)), DigitRows(20), Path(out), callbacks=[module.attribution_callback(print)])
"""


@pytest.mark.thorough
def test_a_run_killed_while_it_appends_goes_on_to_the_same_maps(base, looked, tmp_path, forked, monkeypatch):
    monkeypatch.setattr(during_training_module, "draw", lambda *_: b"")
    whole, _ = looked
    recipe = Recipe(stage="dpo", **SETTINGS, attribution_every=2, save_every=3)
    assert forked(SCRIPT, base, tmp_path / "out", recipe.model_dump_json()) == -signal.SIGKILL
    assert [line["step"] for line in read_lines(tmp_path / "out" / "attribution.jsonl")] == [0, 2]
    manifest = run(base, recipe, DigitRows(ROWS), tmp_path / "out", callbacks=[attribution_callback(fail)])
    assert manifest["resumed_from"] == "checkpoint-3"
    assert (tmp_path / "out" / "attribution.npz").read_bytes() == (whole / "attribution.npz").read_bytes()
    ours, theirs = (read_lines(folder / "attribution.jsonl") for folder in (tmp_path / "out", whole))
    assert [{**line, "seconds": 0} for line in ours] == [{**line, "seconds": 0} for line in theirs]


def test_a_run_that_begins_anew_is_without_the_old_maps(tmp_path):
    (tmp_path / "attribution").mkdir()
    for name in ("attribution.npz", "attribution/step-000009.png"):
        (tmp_path / name).write_bytes(b"old")
    append_line(tmp_path / "attribution.jsonl", {"step": 9})
    forget_after(tmp_path, 0)
    assert not (tmp_path / "attribution.npz").exists() and not list((tmp_path / "attribution").iterdir())
    assert read_lines(tmp_path / "attribution.jsonl") == []


def test_what_fails_is_said_once_and_training_goes_on(base, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(during_training, "maps", broken)
    said = []
    manifest = trained(base, tmp_path / "out", "sft", said.append, attribution_every=2)
    assert said == ["maps of step 0 failed, training goes on: RuntimeError: no such thing"]
    assert manifest["seen"]["steps"] == 5


def test_everything_is_as_before_after_a_look_that_fails():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    model[0].bias.requires_grad_(False)
    model[1].eval()
    model[0].weight.grad = gradient = torch.ones(2, 2)
    model.get_image_features = replaced = object()
    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), undisturbed(model):
        assert "get_image_features" not in vars(model)
        model.eval().requires_grad_(False)
        model[0].weight.grad = None
        torch.rand(3)
        raise RuntimeError
    assert [module.training for module in model.modules()] == [True, True, False]
    assert model[0].weight.requires_grad and not model[0].bias.requires_grad
    assert model[0].weight.grad is gradient and model.get_image_features is replaced
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shards_are_refused_with_what_to_do_instead(monkeypatch):
    plain = SimpleNamespace(deepspeed_plugin=None)
    model = torch.nn.Linear(1, 1)
    refuse_shards(plain, model)
    with pytest.raises(TrainingError, match="ZeRO-3 or FSDP") as caught:
        refuse_shards(SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3)), model)
    assert "--trajectory" in caught.value.hint
    monkeypatch.setattr(during_training, "DTensor", torch.nn.Parameter)  # a sharded weight is a DTensor
    with pytest.raises(TrainingError, match="no process holds the whole model"):
        refuse_shards(plain, model)


def test_only_the_first_process_looks(tmp_path):
    maps_of = MapsDuringTraining(1, tmp_path, lambda: fail("looked"), fail, fail)
    maps_of.on_step_end(None, SimpleNamespace(global_step=1, is_world_process_zero=False), None)


def test_maps_that_nobody_would_draw_are_refused(base, tmp_path):
    with pytest.raises(UsageError, match="nobody is there"):
        run(base, Recipe(stage="sft", attribution_every=1), DigitRows(4), tmp_path / "out")


class Talk:
    """Rows with the same picture: two questions, no picture, two pictures, the one that is wanted."""

    name = "talk"
    rows = (
        Row("none", (Turn("user", "hi"), Turn("assistant", "hello"))),
        Row("two", (Turn("user", "<image><image>same?"), Turn("assistant", "no")), ("a", "b")),
        Row("wanted", (Turn("user", "<image>\nwhat ?"), Turn("assistant", "a cat"), Turn("user", "sure ?"),
                       Turn("assistant", "yes")), ("a",)),
    )  # fmt: skip

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def image(self, key):
        return Image.new("RGB", (64, 64), "red" if key == "a" else "blue")

    def content_hash(self):
        return json.dumps(len(self.rows))


def test_other_rows_give_their_own_pictures_and_first_questions(base):
    held = pick_examples(Recipe(stage="sft"), base, UsableRows(Talk(), supervised), build_processor())
    assert list(held.ids) == ["wanted"] and held.target == "answer" and list(held.regions) == [None]
    assert held.questions[0].prompt == "<image>\nwhat ?" and held.questions[0].answer == "a cat"
    assert held.images[0].getpixel((0, 0)) == (255, 0, 0)
