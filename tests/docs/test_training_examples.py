"""The worked examples of the guide to stages and rewards."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import visprobe
from visprobe.cli.app import app
from visprobe.demo.base import BASE
from visprobe.demo.rows import DigitRows
from visprobe.demo.run import FAST, arm_recipes
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.errors import UsageError
from visprobe.mllm.batches import PreferenceCollator
from visprobe.training.recipe import Recipe, make_recipe
from visprobe.training.rows.usable import UsableRows, preference
from visprobe.training.stages import TrainerInputs, stages
from visprobe.training.trainers.preference import answer_log_probabilities
from visprobe.training.trainers.rewards import find_reward

# Notes of the libraries on their own settings; `run` silences them too.
pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = Path(__file__).parents[2] / "docs" / "guides" / "examples"


@pytest.fixture(autouse=True)
def installed(tmp_path_factory, monkeypatch):
    """The examples as an installed package."""
    root = tmp_path_factory.mktemp("site")
    package = root / "orpo-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: orpo\nVersion: 1\n")
    points = "[visprobe.stages]\norpo = orpo:ORPO\n[visprobe.rewards]\ncloseness = closeness:closeness\n"
    (package / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    stages.cache_clear()
    yield package
    stages.cache_clear()
    for name in ("orpo", "orpo_trainer", "closeness"):
        sys.modules.pop(name, None)


def test_the_loss_is_that_of_the_paper():
    from orpo_trainer import orpo_loss

    chosen, rejected, weight = [-0.5, -1.5], [-2.0, -0.25], 0.3

    def odds(score):
        return math.exp(score) / (1 - math.exp(score))

    ratios = [odds(win) / odds(lose) for win, lose in zip(chosen, rejected, strict=True)]
    terms = [-win + weight * math.log(1 + 1 / ratio) for win, ratio in zip(chosen, ratios, strict=True)]
    found = orpo_loss(torch.tensor(chosen), torch.tensor(rejected), weight)
    assert found.item() == pytest.approx(sum(terms) / 2, abs=1e-6)  # a few roundings of float32


@pytest.mark.thorough
def test_a_step_of_two_batches_is_that_of_one_of_both(tmp_path):
    losses = []
    for batch, times in ((4, 1), (2, 2)):
        recipe = Recipe(
            stage="orpo", steps=1, batch_size=batch, gradient_accumulation=times, precision="float32", odds_weight=0.5
        )
        processor, rows = build_processor(), UsableRows(DigitRows(4), preference)
        inputs = TrainerInputs(build_model(processor, 0), processor, recipe, rows, str(tmp_path))
        made = stages()["orpo"].trainer(inputs, None)
        made.train()
        losses.append(made.state.log_history[0]["loss"])
    means = []
    encoder, model = inputs.encoder, build_model(processor, 0).eval()
    for row in range(4):
        batch = PreferenceCollator(encoder)([{"row": row}])
        with torch.no_grad():
            sums = answer_log_probabilities(model, batch)
        means.append(sums / batch["completion_mask"].sum(1))
    from orpo_trainer import orpo_loss

    chosen, rejected = torch.stack(means).T
    # The log rounds to four digits in some versions; the sums are of about 4 log-probabilities near -4 in float32.
    assert losses == pytest.approx([orpo_loss(chosen, rejected, 0.5).item()] * 2, abs=1e-4)


def test_the_stage_is_known_everywhere():
    assert "orpo" in get_command(app).commands["train"].commands
    assert {"sft", "dpo", "grpo", "orpo"} <= set(arm_recipes(FAST))
    with pytest.raises(UsageError, match=r"beta has no meaning for stage orpo \(only dpo, grpo"):
        make_recipe({"stage": "orpo", "beta": 0.1}, "here")
    with pytest.raises(UsageError, match=r"odds_weight has no meaning for stage sft \(only orpo\)"):
        make_recipe({"stage": "sft", "odds_weight": 0.1}, "here")
    with pytest.raises(UsageError, match="odds_weight: input should be greater than or equal to 0"):
        make_recipe({"stage": "orpo", "odds_weight": -1}, "here")


@pytest.mark.thorough
def test_the_stage_trains_and_resumes(tmp_path):
    settings = {"base": str(BASE), "rows": 8, "batch_size": 4, "learning_rate": 1e-3, "odds_weight": 0.2}
    first = visprobe.train("orpo", tmp_path / "orpo", steps=2, save_every=2, **settings)
    assert first["seen"] == {"steps": 2, "rows": 8, "different_rows": 8, "responses": 16}
    assert first["inputs"]["recipe"]["odds_weight"] == 0.2 and "beta" not in first["inputs"]["recipe"]
    longer = visprobe.train("orpo", tmp_path / "orpo", steps=3, save_every=2, **settings)
    assert longer["resumed_from"] == "checkpoint-2" and longer["losses"][:2] == first["losses"]


def test_a_stage_that_cannot_be_loaded_is_said_by_its_name(installed):
    (installed / "entry_points.txt").write_text("[visprobe.stages]\norpo = orpo:NOTHING\n")
    stages.cache_clear()
    with pytest.raises(UsageError, match="orpo:NOTHING cannot be loaded"):
        stages()
    (installed / "entry_points.txt").write_text("[visprobe.stages]\nsft = visprobe.training.stages.cross_entropy:SFT\n")
    with pytest.raises(UsageError, match="cross_entropy:SFT is no Stage with a name of its own"):
        stages()
    assert "train" in get_command(app).commands  # other commands go on


def test_the_reward_is_one_of_those_with_a_name(tmp_path):
    reward = find_reward("closeness")
    assert reward(" Seven ", "seven") == 1 and reward("", "seven") == 0
    assert reward("even", "seven") == pytest.approx(2 * 4 / 9)  # twice the letters in common over all letters
    with pytest.raises(UsageError, match="did you mean closeness"):
        find_reward("closenes")
    settings = {"generations": 4, "max_new_tokens": 4, "temperature": 3.0, "batch_size": 4, "steps": 1, "rows": 4}
    manifest = visprobe.train("grpo", tmp_path / "grpo", base=str(BASE), reward="closeness", **settings)
    assert 0 < manifest["reward"]["mean"] < 1
    assert json.loads((tmp_path / "grpo" / "manifest.json").read_text())["inputs"]["recipe"]["reward"] == ["closeness"]
