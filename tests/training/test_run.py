"""SFT and DPO runs against plain computations of what they should do."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visprobe.demo.rows import DigitRows
from visprobe.errors import CheckpointError, TrainingError, UsageError
from visprobe.mllm.load import model_for_training, read_processor
from visprobe.mllm.parts import part_of, train_only
from visprobe.training.callbacks import check_gradients
from visprobe.training.recipe import Recipe
from visprobe.training.run import run as train
from visprobe.training.trainers.rewards import REWARDS

BATCH = 8


@pytest.fixture(scope="module")
def rows():
    return DigitRows(BATCH)


def run(base, rows, folder, **settings):
    settings = {"stage": "sft", "steps": 2, "batch_size": BATCH, "learning_rate": 3e-4, **settings}
    return train(base, Recipe(**settings), rows, folder)


def changed_parts(before, after, dtype=None):
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    assert old.keys() == new.keys()
    return {name.split(".")[0] for name in old if not torch.equal(old[name].to(dtype), new[name].to(dtype))}


def answer_log_probabilities(folder, rows, which):
    """Plain transformers, one row at a time: log-probabilities of the answer's tokens and the end of the turn."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = []
    for row in (rows[index] for index in range(len(rows))):
        question = row.turns[0].text.removeprefix("<image>\n")
        turns = [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
            {"role": "assistant", "content": getattr(row, which)},
        ]
        text = processor.apply_chat_template(turns)
        inputs = processor(images=[rows.image(row.images[0])], text=[text], return_tensors="pt")
        ids = inputs["input_ids"][0]
        end = int((ids == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")).nonzero()[-1])
        start = int((ids == processor.tokenizer.convert_tokens_to_ids("assistant")).nonzero()[-1]) + 1
        with torch.no_grad():
            scores = model(**inputs).logits[0].log_softmax(-1)
        found.append([scores[i - 1, ids[i]].item() for i in range(start, end + 1)])
    return found


@pytest.mark.thorough
def test_supervised_loss_is_the_mean_over_answer_tokens(base, rows, tmp_path):
    manifest = run(base, rows, tmp_path / "sft")
    tokens = [-score for answer in answer_log_probabilities(base, rows, "chosen") for score in answer]
    # Padding and batching change float32 sums in the last digits only.
    assert manifest["losses"][0] == pytest.approx(sum(tokens) / len(tokens), abs=2e-5)


@pytest.mark.thorough
def test_preference_loss_is_the_formula_of_dpo(base, rows, tmp_path):
    trained = tmp_path / "dpo"
    first = run(base, rows, trained, stage="dpo", steps=6, beta=0.3)
    assert first["losses"][0] == pytest.approx(math.log(2), abs=1e-5)  # policy and reference are the same model
    sums = {
        (folder, which): torch.tensor([sum(a) for a in answer_log_probabilities(folder, rows, which)])
        for folder in (base, trained)
        for which in ("chosen", "rejected")
    }
    margin = (sums[trained, "chosen"] - sums[base, "chosen"]) - (sums[trained, "rejected"] - sums[base, "rejected"])
    loss = -torch.nn.functional.logsigmoid(0.3 * margin).mean().item()
    # The last step's loss was taken before its own small update (the cosine has reached 1 % of the peak by then).
    assert loss == pytest.approx(first["losses"][-1], abs=0.02)
    assert loss < 0.6 < first["losses"][0]


@pytest.mark.thorough
def test_both_arms_see_the_same_rows_and_record_it(base, rows, tmp_path):
    sft = run(base, rows, tmp_path / "sft")
    dpo = run(base, rows, tmp_path / "dpo", stage="dpo")
    assert sft["inputs"]["rows"] == dpo["inputs"]["rows"]
    assert sft["inputs"]["base"] == dpo["inputs"]["base"]
    differ = {key for key, value in sft["inputs"]["recipe"].items() if dpo["inputs"]["recipe"][key] != value}
    assert differ == {"stage"}
    assert (sft["seen"]["responses"], dpo["seen"]["responses"]) == (2 * BATCH, 4 * BATCH)
    assert json.loads((tmp_path / "sft" / "manifest.json").read_text())["losses"] == sft["losses"]


def test_everything_the_loss_reaches_is_trained(base, rows, tmp_path):
    manifest = run(base, rows, tmp_path / "sft")
    assert changed_parts(base, tmp_path / "sft") == {"vision_tower", "multi_modal_projector", "language_model"}
    assert manifest["off_path"] == [
        f"model.vision_tower.post_layernorm.{kind}" for kind in ("bias", "weight")
    ]  # the MLLM reads the last block, before that norm


@pytest.mark.sample(1)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_parts_left_out_stay_bit_identical(base, rows, tmp_path, stage):
    run(base, rows, tmp_path / "out", stage=stage, train=("projector",))
    assert changed_parts(base, tmp_path / "out") == {"multi_modal_projector"}


@pytest.mark.thorough
def test_each_part_has_its_own_learning_rate(base, rows, tmp_path):
    run(base, rows, tmp_path / "slow", steps=3, part_learning_rates={"vision_tower": 3e-5})
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "slow" / "model.safetensors")
    step = {
        part: max((new[n] - old[n]).abs().max().item() for n in old if n.startswith(part))
        for part in ("vision_tower", "multi_modal_projector")
    }
    # Adam moves a weight by at most about its learning rate per step, whatever the gradient.
    assert step["multi_modal_projector"] / step["vision_tower"] == pytest.approx(10, rel=0.2)


def test_a_finished_run_is_not_repeated(base, rows, tmp_path):
    run(base, rows, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert run(base, rows, tmp_path / "out")["reused"]
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.thorough
def test_same_seed_same_weights(base, rows, tmp_path):
    for name in ("one", "two"):
        run(base, rows, tmp_path / name, stage="dpo")
    assert changed_parts(tmp_path / "one", tmp_path / "two") == set()


def test_a_diverged_run_stops_and_leaves_nothing(base, rows, tmp_path):
    with pytest.raises(TrainingError, match="the loss is nan"):
        run(base, rows, tmp_path / "out", steps=5, learning_rate=1e30)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_part_without_any_gradient_is_refused(base):
    model = LlavaForConditionalGeneration.from_pretrained(base)
    train_only(model, ("vision_tower", "language_model"))
    for name, parameter in model.named_parameters():
        parameter.grad = torch.ones_like(parameter) if part_of(name) == "language_model" else None
    with pytest.raises(TrainingError, match=r"vision_tower is meant to train .*patch_embedding"):
        check_gradients(model)


def test_unknown_parts_and_bases_are_refused(base, rows, tmp_path):
    with pytest.raises(UsageError, match="no such part: tower"):
        run(base, rows, tmp_path / "out", train=("tower",))
    with pytest.raises(CheckpointError, match="cannot load"):
        run(tmp_path, rows, tmp_path / "out")
    with pytest.raises(TrainingError, match="no known part"):
        part_of("model.audio_tower.weight")


@pytest.mark.thorough
def test_rewards_train_the_tower_too(rows, tmp_path):
    from visprobe.demo.base import BASE

    settings = {"steps": 3, "batch_size": 4, "generations": 4, "max_new_tokens": 3, "temperature": 2.0}
    manifest = run(BASE, rows, tmp_path / "grpo", stage="grpo", **settings)
    assert manifest["seen"] == {"steps": 3, "rows": 12, "different_rows": 8, "responses": 48}
    reward = json.loads((tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()[0])["reward"]
    assert 0.3 <= reward <= 1  # the shipped base answers many questions right, however hot its answers are


def test_a_run_whose_answers_all_earn_the_same_is_no_trained_model(base, rows, tmp_path):
    """An untrained model never answers "yes" and stops."""
    with pytest.raises(TrainingError, match=r"none of the first 2 steps taught anything: .*\(exact, 0 on average\)"):
        run(base, rows, tmp_path / "grpo", stage="grpo", batch_size=2, generations=2, max_new_tokens=1)
    assert not (tmp_path / "grpo" / "manifest.json").exists()


def test_a_first_step_whose_answers_all_earn_the_same_is_no_fault(base, rows, tmp_path, monkeypatch):
    """A reward that is 0 for the first step's answers and differs for those of the second."""
    asked = []

    def late(completion, answer):
        asked.append(completion)
        return 0.0 if len(asked) <= 4 else float(len(asked) % 2)

    monkeypatch.setitem(REWARDS, "exact", late)
    manifest = run(base, rows, tmp_path / "grpo", stage="grpo", batch_size=2, generations=2, max_new_tokens=1)
    assert manifest["reward"] == {"mean": 0.25, "groups_alike": 0.5}


def test_a_learning_rate_of_zero_is_refused(base, rows, tmp_path):
    with pytest.raises(TrainingError, match="the learning rate is 0"):
        run(base, rows, tmp_path / "none", learning_rate=0)


@pytest.mark.sample(1)
@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_adapters_change_their_part_alone_and_leave_an_ordinary_checkpoint(rows, tmp_path, stage):
    from visprobe.demo.base import BASE
    from visprobe.encoders.load import load_encoder

    lora = {"parts": ("vision_tower.blocks[1:3]",), "rank": 4, "alpha": 64}
    settings = {"generations": 4, "max_new_tokens": 3, "batch_size": 8} if stage == "grpo" else {}
    manifest = run(
        BASE, rows, tmp_path / "out", stage=stage, train=("projector",), lora=lora, learning_rate=1e-2, **settings
    )
    assert any("lora_A" in name for name in manifest["trained"])
    before, after = load_encoder(BASE).weights(), load_encoder(tmp_path / "out").weights()
    moved = {load_encoder(BASE).weight_group(n) for n in before if not torch.equal(before[n].float(), after[n].float())}
    assert moved == {"block_02", "block_03", "projector"}
    assert changed_parts(BASE, tmp_path / "out", dtype=torch.float32) == {"vision_tower", "multi_modal_projector"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_rows_that_fill_no_step_can_be_left_out(base, tmp_path, stage):
    """25 rows, batches of 2, 4 of them a step, 3 passes: 12 steps, and 9 by the published rule."""
    settings = {"stage": stage, "batch_size": 2, "gradient_accumulation": 4, "epochs": 3, "precision": "float32"}
    counts = {}
    for drop in (False, True):
        manifest = train(base, Recipe(**settings, drop_last=drop), DigitRows(25), tmp_path / f"{drop}")
        counts[drop] = len(manifest["losses"]), manifest["seen"]["steps"], manifest["seen"]["rows"]
    assert counts == {False: (12, 12, 75), True: (9, 9, 72)}
    with pytest.raises(UsageError, match="7 rows fill no step of 8"):
        train(base, Recipe(**settings, drop_last=True), DigitRows(7), tmp_path / "few")


def test_an_end_of_turn_can_be_left_to_the_template(base, tmp_path):
    """A template that writes none: the tokenizer's end is trained on unless that is not wanted."""
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    template = (bare / "chat_template.jinja").read_text()
    (bare / "chat_template.jinja").write_text(template.replace(" + '<|im_end|>'", ""))
    losses = {}
    for end in ("auto", "none"):
        recipe = Recipe(stage="sft", steps=1, batch_size=4, precision="float32", end_of_turn=end)
        losses[end] = train(bare, recipe, DigitRows(4), tmp_path / end)["losses"][0]
    assert losses["auto"] != losses["none"]
    assert json.loads((tmp_path / "auto" / "manifest.json").read_text())["end_of_turn"] == "<|im_end|> added"
    assert json.loads((tmp_path / "none" / "manifest.json").read_text())["end_of_turn"] == "none"


class Photos(DigitRows):
    """Every row shows the same picture of noise, of another shape than the tower's."""

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8))

    def image(self, key):
        return self.picture


def pillows(filter):
    """The picture as Pillow resizes it, from -1 to 1."""
    values = np.asarray(Photos.picture.resize((64, 64), filter), np.float32)
    return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("resample", ["processor", "bicubic"])
@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_images_are_resized_as_the_recipe_says_and_the_checkpoint_says_so(base, tmp_path, monkeypatch, stage, resample):
    from visprobe.encoders.load import load_encoder
    from visprobe.training import run as module

    bilinear = tmp_path / "base"
    shutil.copytree(base, bilinear)
    described = json.loads((bilinear / "processor_config.json").read_text())
    described["image_processor"]["resample"] = int(Image.Resampling.BILINEAR)
    (bilinear / "processor_config.json").write_text(json.dumps(described))
    seen = []

    def load(*given, **settings):
        model = model_for_training(*given, **settings)
        model.model.vision_tower.register_forward_pre_hook(lambda _, pixels: seen.extend(pixels[0]))
        return model

    monkeypatch.setattr(module, "model_for_training", load)
    rewards = itertools.cycle([0.0, 1.0])  # answers to a question must earn unlike, or nothing is learned
    monkeypatch.setitem(REWARDS, "exact", lambda completion, answer: next(rewards))
    settings = {"generations": 2, "max_new_tokens": 1} if stage == "grpo" else {}
    settings |= {"batch_size": 2, "precision": "float32", "snapshot_tower_every": 1, "resample": resample}
    manifest = run(bilinear, Photos(4), tmp_path / "out", stage=stage, **settings)

    wanted, other = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
    if resample == "processor":
        wanted, other = other, wanted
    assert len(seen) >= 2
    assert all(torch.allclose(pixels, pillows(wanted), rtol=0, atol=1e-6) for pixels in seen)
    assert (pillows(wanted) - pillows(other)).abs().max() > 0.1
    assert manifest["inputs"]["recipe"]["resample"] == resample
    for folder in (tmp_path / "out", tmp_path / "out" / "snapshots" / "step-000001"):
        assert read_processor(folder).image_processor.resample == wanted
        assert load_encoder(folder).processor.resample == wanted


@pytest.mark.parametrize("how", [{"steps": 1}, {"steps": None, "epochs": 1}])
def test_a_run_of_one_step_learns_from_it(base, rows, tmp_path, how):
    run(base, rows, tmp_path / "one", **how)
    assert {"vision_tower", "language_model"} <= changed_parts(base, tmp_path / "one")
