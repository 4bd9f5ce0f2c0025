"""DPO: its losses restated one answer at a time, each image encoded once, and what the reference may cost."""

import math
import re
from pathlib import Path

import pytest
import torch
import trl
from torch.nn.functional import logsigmoid

from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.errors import UsageError
from visprobe.mllm.batches import RowEncoder
from visprobe.training.recipe import Recipe, make_recipe
from visprobe.training.rows.usable import UsableRows, preference
from visprobe.training.run import run
from visprobe.training.stages import TrainerInputs, dpo, stages
from visprobe.training.trainers import preference as trainers
from visprobe.training.trainers.preference import reference_log_probabilities

# trl uses names that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")
BATCH = 6
BETA = 0.3


@pytest.fixture(scope="module")
def rows():
    return UsableRows(DigitRows(BATCH), preference)


def plain_log_probabilities(model, processor, rows, which):
    """Log-probability of every answer token, one row at a time, by nothing but the model and its processor."""
    found = []
    for row in (rows[index] for index in range(len(rows))):
        asked = [{"type": "image"}, {"type": "text", "text": row.turns[0].text.removeprefix("<image>\n")}]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": getattr(row, which)}]
        texts = [
            processor.apply_chat_template(turns[:1], add_generation_prompt=True),
            processor.apply_chat_template(turns).rstrip("\n"),
        ]
        image = rows.image(row.images[0])
        prompt, whole = (processor(images=[image], text=[text], return_tensors="pt") for text in texts)
        ids, start = whole["input_ids"][0], prompt["input_ids"].shape[1]
        with torch.no_grad():
            scores = model.eval()(**whole).logits[0].log_softmax(-1)
        found.append(torch.stack([scores[i - 1, ids[i]] for i in range(start, len(ids))]))
    return found


@pytest.fixture(scope="module")
def restated(rows):
    """Of a policy (seed 1) and its reference (seed 0): margins of both answers, and the SFT loss of the chosen one."""
    processor = build_processor()
    policy, reference = (build_model(processor, seed) for seed in (1, 0))
    tokens = {
        (name, which): plain_log_probabilities(model, processor, rows, which)
        for name, model in (("policy", policy), ("reference", reference))
        for which in ("chosen", "rejected")
    }
    sums = {key: torch.stack([answer.sum() for answer in answers]) for key, answers in tokens.items()}
    chosen, rejected = (sums["policy", which] - sums["reference", which] for which in ("chosen", "rejected"))
    return chosen, rejected, -torch.cat(tokens["policy", "chosen"]).mean()


def trainer_of(model, rows, folder, *, reference=None, **settings):
    """A trainer, the batch of all rows that its own loader makes, and its loss on it."""
    processor = build_processor()
    settings = {"stage": "dpo", "steps": 1, "batch_size": len(rows), "beta": BETA, "precision": "float32", **settings}
    if reference is None:
        encoder, numbers = RowEncoder(processor, rows), list(range(len(rows)))
        reference = reference_log_probabilities(build_model(processor, 0), encoder, numbers, batch_size=4)
    inputs = TrainerInputs(model, processor, make_recipe(settings, "test"), rows, str(folder))
    return trainers.preference_trainer(inputs, reference)


def loss_of(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    return trainer.compute_loss(trainer.model, batch)


def assert_loss(rows, folder, expected, **settings):
    loss = loss_of(trainer_of(build_model(build_processor(), 1), rows, folder, **settings))
    # Sums of about 4 log-probabilities near -4, in another order and padded: 1e-5 is twenty float32 roundings of them.
    assert loss.item() == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.thorough
def test_two_losses_are_the_weighted_sum_of_the_papers_script(rows, restated, tmp_path):
    chosen, rejected, cross_entropy = restated
    dpo_alpha, gamma = 0.7, 1.3
    expected = dpo_alpha * -logsigmoid(BETA * (chosen - rejected)).mean() + gamma * cross_entropy
    assert (chosen - rejected).abs().max() > 1  # policy and reference do differ
    assert_loss(rows, tmp_path, expected, losses={"sigmoid": dpo_alpha, "sft": gamma})


def test_mpo_is_its_three_terms(rows, restated, tmp_path):
    chosen, rejected, cross_entropy = restated
    preference = -logsigmoid(BETA * (chosen - rejected)).mean()
    quality = (-logsigmoid(BETA * chosen) - logsigmoid(-BETA * rejected)).mean()
    assert_loss(rows, tmp_path, 0.8 * preference + 0.2 * quality + cross_entropy, losses="mpo")


def test_label_smoothing_is_that_of_robust_dpo(rows, restated, tmp_path):
    chosen, rejected, _ = restated
    wrong, margin = 0.1, BETA * (chosen - rejected)
    expected = -((1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)) / (1 - 2 * wrong)
    assert_loss(rows, tmp_path, expected.mean(), losses={"robust": 1.0}, label_smoothing=wrong)


def test_label_smoothing_without_effect_and_unknown_losses_are_refused(rows, tmp_path):
    with pytest.raises(UsageError, match=r"label_smoothing has no meaning for losses sigmoid \(only robust, "):
        make_recipe({"stage": "dpo", "label_smoothing": 0.1}, "test")
    with pytest.raises(UsageError, match=r"no such loss: sigmod \(did you mean sigmoid\?\)"):
        make_recipe({"stage": "dpo", "losses": {"sigmod": 1}}, "test")
    with pytest.raises(UsageError, match="exo_pair needs"):
        make_recipe({"stage": "dpo", "losses": {"exo_pair": 1}}, "test")


def test_known_losses_are_those_of_trl(rows, tmp_path):
    model = build_model(build_processor(), 1)
    trainer = trainer_of(model, rows, tmp_path)
    trainer.loss_types = ["none of them"]
    with pytest.raises(ValueError, match="Unknown loss type") as error:
        loss_of(trainer)
    assert set(re.findall(r"'(\w+)'", str(error.value))) == set(dpo.LOSSES)
    source = Path(trl.trainer.dpo_trainer.__file__).read_text()
    smoothed = {
        block.split('"')[0]
        for block in source.split('loss_type == "')[1:]
        if "self.label_smoothing" in block.split("elif loss_type")[0]
    }
    assert smoothed == set(dpo.SMOOTHED)


@pytest.mark.sample(1)
@pytest.mark.parametrize("reference", ["precomputed", "model"])
def test_each_image_is_encoded_once_with_the_same_loss_and_gradients(rows, tmp_path, monkeypatch, reference):
    encoded, found = [], []
    for once in (True, False):
        monkeypatch.setattr(trainers, "images_are_encoded_once", lambda _, once=once: once)
        model, start = (build_model(build_processor(), seed) for seed in (1, 0))
        for each in (model, start):
            each.model.vision_tower.register_forward_pre_hook(
                lambda _, args, kwargs: encoded.append(len(kwargs.get("pixel_values", *args[:1]))), with_kwargs=True
            )
        given = start.requires_grad_(False).eval() if reference == "model" else None
        trainer = trainer_of(model, rows, tmp_path, reference=given)
        loss = loss_of(trainer)
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    passes = 2 if reference == "model" else 1
    assert encoded == [BATCH] * passes + [2 * BATCH] * passes
    (loss, gradients), (expected, expected_gradients) = found
    assert loss == pytest.approx(expected, abs=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(gradient.abs().max() for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        # The sum over both answers is taken before the tower instead of after it: float32 rounding of sums of n terms.
        assert torch.allclose(gradient, expected_gradients[name], rtol=1e-4, atol=1e-5 * float(largest)), name


@pytest.mark.thorough
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precomputed_reference_gives_the_losses_of_a_reference_in_memory(base, tmp_path, precision):
    settings = {"stage": "dpo", "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "precision": precision}
    losses = [
        run(base, Recipe(reference=reference, **settings), DigitRows(16), tmp_path / reference)["losses"]
        for reference in ("precomputed", "model")
    ]
    # The reference was computed on batches padded otherwise. bfloat16 has 8 bits: a log-probability of -4 is known to
    # 0.016, their sums to some 0.05, times beta 0.1.
    assert losses[0] == pytest.approx(losses[1], abs=1e-5 if precision == "float32" else 5e-3)
    assert losses[0][0] == pytest.approx(math.log(2), abs=1e-6 if precision == "float32" else 5e-3)
    assert losses[0][-1] != pytest.approx(math.log(2), abs=1e-2)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_batches_of_like_length(stage, tmp_path):
    count, size = 96, 4
    rows = UsableRows(DigitRows(count), stages()[stage].need)
    model = build_model(build_processor(), 0)
    numbers, reference = list(range(count)), dict.fromkeys(range(count), (0, 0))
    lengths = [rows.length(number) for number in numbers]
    spread = {}
    for grouped in (True, False):
        recipe = make_recipe({"stage": stage, "batch_size": size, "group_by_length": grouped}, "test")
        inputs = TrainerInputs(model, build_processor(), recipe, rows, str(tmp_path))
        trainer = stages()[stage].trainer(inputs, reference)
        order = list(trainer._get_train_sampler())
        assert sorted(order) == numbers
        batches = [[lengths[row] for row in order[k : k + size]] for k in range(0, count, size)]
        spread[grouped] = sum(max(batch) - min(batch) for batch in batches)
    # The sampler sorts 24 rows at a time here: 6 batches share a range that each would span alone.
    assert spread[True] < 0.5 * spread[False]
