"""Tiny checkpoints changed in a known way, through `compare`: each change is found where it is, and nothing else."""

import re
from pathlib import Path

import pytest
from planted_changes import blocks_swapped, collapsed, one_in_twenty, output_rotated, rounded, units_permuted
from planted_towers import BLOCKS, block, noise, of_tower, write_base, write_changed
from safetensors.torch import load_file

from visprobe.analyses.drift.noise_floor import has_moved
from visprobe.errors import DataError
from visprobe.pipelines.compare import compare
from visprobe.pipelines.measurement import Measurement, Options
from visprobe.results.result import Result

CONSUMED = "block_03"  # the language model reads the layer before the last
OFF_PATH = ("block_04", "final_norm")
STRENGTHS = {"weak": 0.05, "middle": 0.2, "strong": 0.8}
CHANGES = {
    **{name: noise(block(2), strength) for name, strength in STRENGTHS.items()},
    "permuted": units_permuted,
    "rotated": output_rotated,
    "swapped": blocks_swapped,
    "sparse": one_in_twenty,
    "bf16": rounded,
    "norm": noise("post_layernorm", 0.5),
    "last": noise(block(BLOCKS), 0.5),
    "frozen": lambda tensors, draw: None,
}
SLOW, THOROUGH = range(1, 6), range(6, 20)
SEEDS = [
    0,
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in SLOW),
    *(pytest.param(seed, marks=pytest.mark.thorough) for seed in THOROUGH),
]


@pytest.fixture(scope="module", params=SEEDS)
def measured(request, tmp_path_factory) -> tuple[Path, Measurement]:
    root = tmp_path_factory.mktemp("planted")
    base = write_base(root / "base", request.param, reads=-2)
    others = [write_changed(base, root / name, change, request.param) for name, change in CHANGES.items()]
    options = Options(limit=60, store=root / "store", analyses=("drift", "weights", "similarity"), seed=request.param)
    return root, compare([base, *others], "digits", options)


def result(measured, name: str) -> Result:
    [found] = [one for one in measured[1].results if one.analysis == name]
    return found


def moved(measured, name: str) -> list[str]:
    drift = result(measured, "drift")
    return [row.site for row in drift.select(checkpoint=name, role="value") if has_moved(drift, row)]


def number(measured, analysis: str, measure: str, name: str, site: str) -> float:
    [row] = result(measured, analysis).select(checkpoint=name, site=site, measure=measure, reference="base")
    return row.estimate.value


@pytest.mark.sample(1)
def test_a_perturbed_block_is_found_from_there_on_and_ordered_by_strength(measured):
    for name in STRENGTHS:
        assert moved(measured, name) == ["block_02", "block_03", "block_04", "final_norm", "projected"]
    ckas = [number(measured, "drift", "cka", name, "block_02") for name in STRENGTHS]
    assert ckas == sorted(ckas, reverse=True)


def test_permuted_units_are_invisible_to_cka_and_visible_to_distances_unit_by_unit(measured):
    assert moved(measured, "permuted") == []
    assert number(measured, "drift", "cka", "permuted", CONSUMED) == pytest.approx(1, abs=1e-9)  # float32 features
    assert number(measured, "similarity", "relative_error", "permuted", CONSUMED) > 0.3
    assert number(measured, "similarity", "relative_error", "permuted", "projected") < 1e-4  # float32 forward passes


def test_a_rotated_output_is_invisible_to_cka_and_visible_to_distances_unit_by_unit(measured):
    assert moved(measured, "rotated") == []
    assert number(measured, "similarity", "cosine", "rotated", "projected") < 0.9


def test_swapped_blocks_are_found_at_their_place_in_features_and_weights(measured):
    assert moved(measured, "swapped")[:2] == ["block_02", "block_03"]
    assert "block_01" not in moved(measured, "swapped")
    changed = result(measured, "weights").select(checkpoint="swapped", measure="relative_change")
    sites = [row.site for row in changed if row.estimate.value > 0 and "/" not in row.measure]
    assert {site for site in sites if site.startswith(("block_", "embed", "final", "head"))} == {"block_02", "block_03"}


def test_the_share_of_equal_weights_is_exact(measured):
    tensors = load_file(measured[0] / "base/model.safetensors")
    tower = [tensors[name].numel() for name in of_tower(tensors)]
    share = 1 - sum(count // 20 for count in tower) / sum(tower)
    assert number(measured, "weights", "share_equal", "sparse", "tower") == pytest.approx(share, abs=1e-12)  # float64


def test_a_round_trip_through_bfloat16_is_not_movement(measured):
    assert moved(measured, "bf16") == []
    assert said(measured, "bf16.*: the tower did not measurably move")


@pytest.mark.parametrize(("name", "sites"), [("norm", ["final_norm"]), ("last", ["block_04", "final_norm"])])
def test_what_the_language_model_never_reads_moves_nothing_that_it_reads(measured, name, sites):
    assert moved(measured, name) == sites
    assert set(sites) <= set(OFF_PATH)
    assert any("never reaches block_04, final_norm" in text for text in result(measured, "weights").warnings)
    assert said(measured, f"{name}.*: the tower moved only where the language model does not read")


def test_an_equal_tower_was_not_trained_or_not_saved(measured):
    assert "frozen" in result(measured, "drift").settings["identical"]
    assert said(measured, "frozen.*not trained or not saved")
    assert not result(measured, "drift").select(checkpoint="frozen")


def test_what_cka_does_not_see_is_said_of_those_it_is_true_of_and_no_others(measured):
    assert said(measured, "^permuted: at block_03 units were permuted, rotated")
    assert said(measured, "^rotated: at projected units were permuted, rotated")


def said(measured, pattern: str) -> bool:
    return any(re.search(pattern, statement.text) for statement in measured[1].verdict)


@pytest.mark.thorough
def test_a_tower_that_does_not_see_and_too_few_images_are_errors(tmp_path):
    base = write_base(tmp_path / "base")
    blind = write_changed(base, tmp_path / "blind", collapsed)
    with pytest.raises(DataError, match="blind at block_00"):
        compare([base, blind], "digits", Options(limit=20, store=tmp_path / "store", analyses=("drift",)))
    other = write_changed(base, tmp_path / "other", noise(block(1), 0.1))
    with pytest.raises(DataError, match="4 usable images"):
        compare([base, other], "digits", Options(limit=4, store=tmp_path / "store", analyses=("drift",)))


def test_towers_run_in_bfloat16_are_read_against_their_own_arithmetic(tmp_path):
    base = write_base(tmp_path / "base")
    names = {"other": noise("", 0.001), "moved": noise(block(2), 0.5)}
    others = [write_changed(base, tmp_path / name, change) for name, change in names.items()]
    options = Options(limit=60, store=tmp_path / "store", analyses=("drift",), dtype="bfloat16")
    found = compare([base, *others], "digits", options)
    drift = found.results[0]
    assert {row.checkpoint for row in drift.select(role="baseline")} == {
        "untrained",
        "base (bfloat16)",
        "base (float32)",
    }
    sites = drift.settings["sites"]
    assert [drift.select(checkpoint="base (bfloat16)", site=s)[0].estimate.value for s in sites] == pytest.approx(
        [1] * len(sites),
        abs=1e-12,  # float64 sums: rounding twice is rounding once
    )
    assert not any(has_moved(drift, row) for row in drift.select(checkpoint="other", role="value"))
    assert any(has_moved(drift, row) for row in drift.select(checkpoint="moved", role="value"))
    assert any("for float32 arithmetic" in statement.text for statement in found.verdict)
