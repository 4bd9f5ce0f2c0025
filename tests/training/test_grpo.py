"""GRPO steps against plain computations of what they should do."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny_families import ASKED, FAMILIES, Rows
from transformers import LlavaForConditionalGeneration, TrainerCallback

from visprobe.data.rows import BadRow, Row, Turn
from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.errors import TrainingError, UsageError
from visprobe.mllm.parts import part_of, train_only
from visprobe.training.recipe import DEFAULT_TRAIN, Recipe
from visprobe.training.rows.check import survey
from visprobe.training.rows.usable import UsableRows, verifiable
from visprobe.training.stages import TrainerInputs
from visprobe.training.trainers.group import QuestionCollator, distinct, group_trainer
from visprobe.training.trainers.rewards import REWARDS

# Notes of the libraries on their own settings; `run` silences them too.
pytestmark = pytest.mark.filterwarnings("ignore")

QUESTIONS, ANSWERS = 3, 4
PROCESSOR = build_processor()


class ListRows:
    """Rows from a list, each image a square of one brightness."""

    name = "list"

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def image(self, key):
        if key == "missing":
            raise BadRow("missing image: here")
        return Image.new("RGB", (64, 64), (int(key),) * 3)


def asked(text, *images, answer="yes"):
    return Row(text, (Turn("user", text),), images, answer=answer)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "base"
    build_model(PROCESSOR, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def by_length(monkeypatch):
    """A reward that even an untrained model earns unequal amounts of."""
    monkeypatch.setitem(REWARDS, "length", lambda completion, answer: len(completion) / (10 + len(completion)))
    monkeypatch.setitem(REWARDS, "yes", lambda completion, answer: float(completion.split()[:1] == ["yes"]))


def make(base, folder, rows=None, *, train=DEFAULT_TRAIN, callbacks=(), **settings):
    recipe = {
        "batch_size": QUESTIONS,
        "generations": ANSWERS,
        "max_new_tokens": 3,
        "learning_rate": 1e-3,
        "reward": ("length",),
        "steps": 2,
        **settings,
    }
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    train_only(model, train)
    rows = rows or DigitRows(24)
    recipe = Recipe(stage="grpo", **recipe)
    return group_trainer(TrainerInputs(model, PROCESSOR, recipe, rows, str(folder), callbacks))


def trained(*args, **settings):
    trainer = make(*args, **settings)
    trainer.train()
    return trainer


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


class Gradients(TrainerCallback):
    """The gradients of the first step."""

    def __init__(self):
        self.first = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not self.first:
            self.first = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def recorded(trainer):
    """The sampled and scored batches of a trainer, as they are made."""
    batches, score = [], trainer._generate_and_score_completions

    def keep(inputs):
        batches.append(score(inputs))
        return batches[-1]

    trainer._generate_and_score_completions = keep
    return batches


def plain_gradients(model, batch, advantages, temperature):
    """One answer at a time, unpadded, each with its own pass through the tower: equation 3 at ratio 1."""
    loss = 0.0
    for i, advantage in enumerate(advantages):
        prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
        answer = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
        ids = torch.cat([prompt, answer])[None]
        logits = model(input_ids=ids, pixel_values=batch["pixel_values"][i : i + 1]).logits[0]
        scores = (logits[len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        loss = loss - advantage * scores.gather(1, answer[:, None]).mean() / len(advantages)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.thorough
def test_a_step_follows_the_policy_gradient_of_the_paper(base, tmp_path):
    gradients = Gradients()
    trainer = make(
        base, tmp_path, steps=1, temperature=0.7, learning_rate=0.0, max_gradient_norm=1e9, callbacks=[gradients]
    )
    model, batches = copy.deepcopy(LlavaForConditionalGeneration.from_pretrained(base)), recorded(trainer)
    trainer.train()
    (batch,) = batches
    said = PROCESSOR.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor([REWARDS["length"](text, "") for text in said]).view(QUESTIONS, ANSWERS)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    # Both are float32 sums of a few numbers of size 1.
    torch.testing.assert_close(batch["advantages"], advantages.flatten(), atol=1e-5, rtol=0)
    assert advantages.abs().max() > 0.5

    expected = plain_gradients(model, batch, advantages.flatten(), 0.7)
    assert expected.keys() == gradients.first.keys()
    for name, gradient in expected.items():
        # Padding, batching and one encoding per image change the order of float32 sums only.
        torch.testing.assert_close(gradients.first[name], gradient, atol=1e-5, rtol=2e-3, msg=name)

    (log,) = [line for line in trainer.state.log_history if "reward" in line]
    assert log["reward"] == pytest.approx(rewards.mean().item(), abs=1e-5)
    assert log["reward_std"] == pytest.approx(rewards.std().item(), abs=1e-5)
    assert log["rewards/length/mean"] == log["reward"]
    assert log["frac_reward_zero_std"] == (rewards.std(1) == 0).float().mean().item()


@pytest.mark.thorough
def test_equal_rewards_teach_nothing(base, tmp_path, monkeypatch):
    monkeypatch.setitem(REWARDS, "length", lambda completion, answer: 1.0)
    trainer = trained(base, tmp_path)
    before = dict(LlavaForConditionalGeneration.from_pretrained(base).named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1


@pytest.mark.thorough
@pytest.mark.parametrize("parts", [DEFAULT_TRAIN, ("vision_tower",), ("projector", "language_model")])
def test_what_trains_changes_and_the_rest_stays_bit_identical(base, tmp_path, parts):
    after = weights(trained(base, tmp_path, train=parts))
    before = dict(LlavaForConditionalGeneration.from_pretrained(base).named_parameters())
    assert {part_of(name) for name in after if not torch.equal(after[name], before[name])} == set(parts)


@pytest.mark.thorough
def test_each_part_has_its_own_learning_rate(base, tmp_path):
    after = weights(trained(base, tmp_path, part_learning_rates={"vision_tower": 0.0}))
    before = dict(LlavaForConditionalGeneration.from_pretrained(base).named_parameters())
    changed = {part_of(name) for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"projector", "language_model"}


@pytest.mark.thorough
def test_the_seed_fixes_everything(base, tmp_path):
    one, two, other = (weights(trained(base, tmp_path / f"{i}", seed=seed)) for i, seed in enumerate((0, 0, 1)))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.thorough
def test_a_resumed_run_ends_where_an_unbroken_one_does(base, tmp_path):
    settings = {"steps": 4, "save_every": 2}
    unbroken = weights(trained(base, tmp_path, **settings))
    resumed = make(base, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(value, unbroken[name]) for name, value in weights(resumed).items())


@pytest.mark.thorough
def test_gradient_accumulation_makes_one_step_of_several_batches(base, tmp_path):
    trainer = make(base, tmp_path, steps=2, gradient_accumulation=3)
    batches = recorded(trainer)
    trainer.train()
    assert [len(batch["advantages"]) for batch in batches] == [QUESTIONS * ANSWERS] * 6


@pytest.mark.thorough
def test_a_reward_that_can_be_learned_is_learned(base, tmp_path):
    settings = {"batch_size": 4, "generations": 8, "max_new_tokens": 1, "learning_rate": 3e-3, "reward": ("yes",)}
    trainer = trained(base, tmp_path, DigitRows(40), steps=10, **settings)
    rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
    # One word in about sixty by chance; seeds 0 to 2 gave at most 0.08 and at least 0.97.
    assert sum(rewards[:2]) / 2 < 0.2
    assert sum(rewards[-3:]) / 3 > 0.8


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_every_family_learns_from_questions_with_and_without_images(tmp_path, family):
    model, processor = FAMILIES[family]()
    train_only(model, DEFAULT_TRAIN)
    before = copy.deepcopy(model)
    answered = [replace(ASKED[i], turns=ASKED[i].turns[:1], answer="yes") for i in range(len(ASKED))]
    recipe = Recipe(
        stage="grpo", steps=2, batch_size=3, generations=4, max_new_tokens=4, learning_rate=1e-3, reward=("length",)
    )
    group_trainer(TrainerInputs(model, processor, recipe, Rows(*answered), str(tmp_path))).train()
    after = dict(model.named_parameters())
    assert {part_of(n) for n, p in before.named_parameters() if not torch.equal(p, after[n])} == set(DEFAULT_TRAIN)


@pytest.mark.thorough
def test_several_rewards_are_averaged(base, tmp_path):
    (log, *_) = trained(base, tmp_path, reward=("length", "exact"), steps=1).state.log_history
    parts = [log[f"rewards/{name}/mean"] for name in ("length", "exact")]
    assert log["reward"] == pytest.approx(sum(parts) / 2, abs=1e-6)


@pytest.mark.thorough
def test_the_penalty_is_taken_from_the_base(base, tmp_path):
    logs = trained(base, tmp_path, beta=0.5, steps=3).state.log_history
    kl = [line["kl"] for line in logs if "kl" in line]
    assert kl[0] == pytest.approx(0, abs=1e-6)  # policy and reference are the same model
    assert kl[-1] > 1e-4


def test_without_a_penalty_no_reference_is_loaded(base, tmp_path):
    assert make(base, tmp_path).ref_model is None


def test_another_reference_is_refused(base, tmp_path):
    model = LlavaForConditionalGeneration.from_pretrained(base)
    recipe = Recipe(stage="grpo", beta=0.1, batch_size=2, generations=2)
    with torch.no_grad():
        model.lm_head.weight += 1
    with pytest.raises(TrainingError, match="is another model than the one that training starts from"):
        group_trainer(TrainerInputs(model, PROCESSOR, recipe, DigitRows(4), str(tmp_path)))
    with pytest.raises(TrainingError, match="nowhere: the model was not loaded"):
        group_trainer(TrainerInputs(build_model(PROCESSOR, 0), PROCESSOR, recipe, DigitRows(4), str(tmp_path)))


def test_fewer_rows_than_a_step_takes_are_refused(base, tmp_path):
    with pytest.raises(UsageError, match="has 2 rows, one step takes 3 questions"):
        make(base, tmp_path, DigitRows(2))


def test_conversations_and_any_number_of_images(base, tmp_path):
    turns = (Turn("user", "<image>\nhow many ?"), Turn("assistant", "2"), Turn("user", "and <image> ?"))
    rows = ListRows(
        [
            Row("turns", turns, ("10", "200"), answer="yes"),
            asked("even or odd ?"),
            asked("<image>\neven or odd ?", "10"),
            asked("<image>\neven or odd ?", "missing"),
            asked("even or odd ?", answer=" "),
        ]
    )
    found = survey(rows, verifiable, lambda row, sizes: "", image_required=False)
    assert found.reasons == {"missing image": 1, "no reference answer": 1}
    rows = UsableRows(rows, verifiable, found.usable)
    (conversation, *_) = QuestionCollator(rows)([{"row": i} for i in (0, 0, 1)])
    assert [message["role"] for message in conversation["prompt"]] == ["user", "assistant", "user"]
    assert conversation["prompt"][2]["content"] == [
        {"type": "text", "text": "and "},
        {"type": "image"},
        {"type": "text", "text": " ?"},
    ]
    assert [image.getpixel((0, 0))[0] for image in conversation["images"]] == [10, 200]
    trainer = make(base, tmp_path, rows, batch_size=3, steps=1)
    batches = recorded(trainer)
    trainer.train()
    assert sorted(batches[0]["num_images"]) == sorted([2, 0, 1] * ANSWERS)


def test_the_callers_processor_keeps_its_settings(base, tmp_path):
    PROCESSOR.tokenizer.padding_side = "right"
    try:
        assert make(base, tmp_path).processing_class.tokenizer.padding_side == "left"
        assert PROCESSOR.tokenizer.padding_side == "right"
    finally:
        PROCESSOR.tokenizer.padding_side = "left"


def test_distinct_images_are_found_whatever_their_order():
    different = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = different[[2, 0, 0, 1, 2, 2]]
    first, copies = distinct(images)
    assert len(first) == 3
    assert torch.equal(images[first][copies], images)


def test_images_that_differ_in_one_unsampled_pixel_are_not_confused():
    images = torch.zeros(2, 3, 64, 64)
    images[1, 0, 0, 1] = 1e-6  # every 12th value is sampled
    first, copies = distinct(images)
    assert torch.equal(images[first][copies], images)
