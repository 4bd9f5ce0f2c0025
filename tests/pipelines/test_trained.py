"""A report says how its checkpoints were trained, and warns where they were told different prompts."""

import json

import pytest

from visprobe.demo.rows import DigitRows
from visprobe.pipelines.trained import training_of, unlike_prompts
from visprobe.report.page.render import render
from visprobe.training.recipe import Recipe
from visprobe.training.run import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on the same rows by other methods, and one on other rows."""
    from visprobe.demo.base import BASE

    folder = tmp_path_factory.mktemp("runs")
    for name, stage, seed in (("sft", "sft", 0), ("dpo", "dpo", 0), ("other", "sft", 1)):
        run(BASE, Recipe(stage=stage, steps=1, batch_size=4), DigitRows(8, seed), folder / name)
    return folder


def compared(folder, *names):
    from visprobe.demo.base import BASE
    from visprobe.pipelines.compare import compare
    from visprobe.pipelines.measurement import Options

    places = [BASE, *(folder / name for name in names)]
    return compare(places, "digits", Options(limit=20, analyses=("weights",), store=folder / "store"))


@pytest.mark.thorough
def test_checkpoints_of_the_same_prompts_are_compared_without_a_warning(trained):
    measured = compared(trained, "sft", "dpo")
    base, sft, dpo = (one.get("training") for one in measured.checkpoints)
    assert (sft["stage"], dpo["stage"]) == ("sft", "dpo") and sft["prompts"] == dpo["prompts"]
    assert sft["rows"] == "8 of 8 of digits-8-seed0" and sft["rows seen"] == 4
    assert not any("prompts" in warning for warning in measured.warnings)
    page = render(measured.document(["test"]), {})
    assert "How they were trained." in page and page.count(sft["prompts"]) == 2
    assert base is None or base["prompts"] != sft["prompts"]


def test_other_prompts_are_a_warning(trained):
    measured = compared(trained, "sft", "other")
    [warning] = [warning for warning in measured.warnings if "different prompts" in warning]
    assert "sft (" in warning and "other (" in warning


@pytest.mark.parametrize("manifest", ["", "[]", '{"inputs": 3}', '{"inputs": {"recipe": {}}, "rows": {"count": 1}}'])
def test_a_manifest_of_something_else_says_nothing(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    assert training_of(tmp_path) is None and training_of(tmp_path / "nowhere") is None
    assert unlike_prompts([{"name": "a"}, {"name": "b", "training": {"prompts": json.dumps(1)}}]) == []
