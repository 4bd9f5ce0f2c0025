"""The worked examples of the guides: an analysis, families of encoders, a workflow."""

import re
import shlex
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from PIL import Image
from typer.main import get_command

from visprobe.analyses.core.contract import check_analysis, planted_inputs
from visprobe.analyses.core.gates import read_condition
from visprobe.analyses.core.registry import available
from visprobe.analyses.core.verdict import verdict
from visprobe.cli.app import app
from visprobe.encoders import families, load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.families import TOWER_OF
from visprobe.errors import UsageError
from visprobe.figures.save import svg_text
from visprobe.report.presentations import figures_of, presentations
from visprobe.report.tables import tables
from visprobe.results.result import Estimate, Row

ROOT = Path(__file__).parents[2]
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "guides" / "examples"))
    yield
    for name in ("narrow_cone", "ijepa"):
        sys.modules.pop(name, None)


def saved(folder, model):
    """`model` with every weight moved off its initial value, in `folder` with an image processor."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    with quiet():
        model.eval().requires_grad_(False).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def pictures():
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(2)]


def test_the_analysis_keeps_the_contract():
    from narrow_cone import NARROW_CONE

    check_analysis(NARROW_CONE)


def test_the_mean_cosine_is_that_of_all_pairs():
    from narrow_cone import mean_cosine

    def by_pairs(x):
        units = [row / np.linalg.norm(row) for row in x]
        return np.mean([a @ b for a, b in permutations(units, 2)])

    x = np.random.default_rng(0).normal(size=(9, 4)) + 1
    found = mean_cosine(x)
    # sums of 72 products of float64
    assert found.value == pytest.approx(by_pairs(x), abs=1e-14)
    assert found.without == pytest.approx([by_pairs(np.delete(x, i, axis=0)) for i in range(9)], abs=1e-14)


def installed(folder, monkeypatch, group, entry):
    """A package with one entry point, on the path."""
    package = folder / "example-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_the_analysis_is_found_once_its_package_is_installed(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "visprobe.analyses", "narrow_cone = narrow_cone:NARROW_CONE")
    assert available()["narrow_cone"].name == "narrow_cone"


@pytest.fixture
def narrow_cone_installed(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "visprobe.analyses", "narrow_cone = narrow_cone:NARROW_CONE")
    presentations.cache_clear()
    yield
    presentations.cache_clear()


@pytest.mark.thorough
def test_the_installed_analysis_brings_titles_a_figure_and_a_sentence(narrow_cone_installed):
    from narrow_cone import NARROW_CONE

    result = NARROW_CONE.run(planted_inputs(NARROW_CONE))
    assert {table.title for table in tables(result)} == {
        "Mean cosine of the features of two images",
        "Mean cosine of the features of two images: paired differences",
    }
    [(_, figure)] = figures_of([result])
    assert "sft" in svg_text(figure.draw(result)) and figure.caption(result).endswith("Baseline: untrained.")
    wider = Row(
        "sft", "block_03", "mean_cosine", Estimate(-0.2, -0.3, -0.1, 64, "cosine", "jackknife"), "base", "difference"
    )
    unclear = replace(wider, checkpoint="dpo", estimate=replace(wider.estimate, high=0.1))
    [said] = verdict([replace(result, rows=(wider, unclear))], "base")
    assert said.text == (
        "sft's features fill a wider cone than base's: difference in mean cosine −0.200 [−0.300, −0.100]."
    )
    assert said.evidence[0]["analysis"] == "narrow_cone"


def test_a_result_of_a_package_that_is_not_there_shows_its_measures():
    from narrow_cone import NARROW_CONE

    result = NARROW_CONE.run(planted_inputs(NARROW_CONE))
    elsewhere = replace(result, analysis="wide_cone", rows=tuple(replace(row, measure="m") for row in result.rows))
    assert {table.title for table in tables(elsewhere)} == {"m", "m: paired differences"}
    assert [*figures_of([elsewhere])] == [] and verdict([elsewhere], "base") == []


def test_the_tower_is_read_as_transformers_runs_it(tmp_path, monkeypatch):
    from ijepa import TOWERS

    monkeypatch.setitem(TOWER_OF, "ijepa", TOWERS[0])
    tower = saved(tmp_path, transformers.IJepaModel(transformers.IJepaConfig(**VISION)))
    encoder, images = load_encoder(tmp_path), pictures()
    with torch.no_grad():
        out = tower(encoder.preprocess(images).inputs["pixel_values"], output_hidden_states=True)
    tokens = encoder(images)
    assert encoder.grid == (4, 4)
    assert encoder.consumed == "final_norm"
    assert torch.equal(tokens["consumed"], out.last_hidden_state)
    assert all(torch.equal(tokens[f"block_{n:02d}"], out.hidden_states[n]) for n in range(4))
    assert all(torch.equal(weight, tower.state_dict()[name]) for name, weight in encoder.weights().items())


def test_a_lit_patch_answers_at_its_place(tmp_path, monkeypatch):
    from ijepa import TOWERS

    monkeypatch.setitem(TOWER_OF, "ijepa", TOWERS[0])
    saved(tmp_path, transformers.IJepaModel(transformers.IJepaConfig(**VISION)))
    encoder, lit = load_encoder(tmp_path), np.zeros((32, 32, 3), np.uint8)
    lit[8:16, 16:24] = 255  # row 1, column 2 of 4
    dark, bright = (encoder([Image.fromarray(a)])["block_00"][0] for a in (np.zeros_like(lit), lit))
    assert int((bright - dark).norm(dim=-1).argmax()) == 1 * 4 + 2


def test_the_family_is_found_once_its_package_is_installed(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "visprobe.families", "ijepa = ijepa")
    *own, last = families.modules()
    assert [family.name for family in last.TOWERS] == ["ijepa"]
    assert [row for module in own for row in getattr(module, "TOWERS", ())] == list(families.TOWERS)


def test_a_family_that_cannot_be_loaded_is_one_message(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, "visprobe.families", "lost = no_such_module")
    with pytest.raises(UsageError, match="the family no_such_module cannot be loaded"):
        list(families.modules())


def test_two_families_of_one_model_type_are_one_message():
    with pytest.raises(UsageError, match="two families read vit: vit and vit"):
        families.by_type([TOWER_OF["vit"], replace(TOWER_OF["vit"])])


def test_the_workflow_pins_its_actions_and_calls_visprobe_as_it_is():
    job = yaml.safe_load((ROOT / "docs" / "ci" / "visprobe.yml").read_text())["jobs"]["compare"]
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in actions)
    (line,) = [step["run"] for step in job["steps"] if step.get("run", "").startswith("visprobe")]
    _, name, *words = shlex.split(line)
    command = get_command(app).commands[name]
    given = command.make_context(name, words, resilient_parsing=True).params
    assert given["offline"] and given["limit"] == 1000
    assert [read_condition(text).measure for text in given["fail_on"]] == ["drift", "top1"]
