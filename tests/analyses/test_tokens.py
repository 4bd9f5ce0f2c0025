from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from planted_features import feature_set
from planted_towers import write_base

from visprobe.analyses.drift.tokens import token_changes
from visprobe.encoders.load import load_encoder
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import forwarded, to_array
from visprobe.results.result import Estimate, Result

N, GRID, WIDTH = 40, (8, 10), 16
TOKENS = GRID[0] * GRID[1]


def planted(name: str, size: np.ndarray | float, seed: int = 1) -> FeatureSet:
    """Token t moves by about size[t] of its length, which is the same for all: the measures are relative."""
    base = np.random.default_rng(0).standard_normal((N, TOKENS, WIDTH))
    base *= WIDTH**0.5 / np.linalg.norm(base, axis=2, keepdims=True)
    step = np.random.default_rng([2, seed]).standard_normal(base.shape)
    moved = base + np.broadcast_to(size, TOKENS)[None, :, None] * step
    return feature_set(name, {"block_02:tokens": moved.astype(np.float16)})


BASE = planted("base", 0.0)


def of(result: Result, measure: str, checkpoint: str = "sft") -> Estimate:
    return result.select(checkpoint=checkpoint, measure=measure, role="value")[0].estimate


def test_changed_positions_of_a_real_tower_are_found_in_20_of_20_seeds(tmp_path) -> None:
    base = load_encoder(write_base(tmp_path / "base"))
    draw = np.random.default_rng(0)
    pixels = base.preprocess([Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(12)])
    [name] = [key for key in base.weights() if "position_embedding" in key]

    def features(encoder, name: str) -> FeatureSet:
        request = f"{encoder.consumed}:tokens"
        array = to_array(encoder.reduced(pixels, {request: forwarded(request)})[request])
        return replace(feature_set(name, {request: array}), sites={request: array}, consumed=encoder.consumed)

    for seed in range(20):
        place = np.random.default_rng(seed).choice(16, 2, replace=False)
        weights = base.weights()
        weights[name] = weights[name].clone()
        weights[name][place] += torch.randn(2, weights[name].shape[1], generator=torch.Generator().manual_seed(seed))
        other = base.with_weights("sft", weights, base.provenance)
        result = token_changes(features(base, "base"), [features(other, "sft")], [], (4, 4))
        found = np.argsort(np.ravel(result.settings["maps"]["sft"]))[-2:]
        assert set(found) == set(place)
        assert of(result, "top_places").low > 2 / 16  # more than the share of two places of sixteen


def test_a_moved_border_is_told_from_a_moved_centre() -> None:
    border = np.ones(GRID, dtype=bool)
    border[1:-1, 1:-1] = False
    for size, sign in ((np.where(border, 0.2, 0.1), 1), (np.where(border, 0.1, 0.2), -1)):
        estimate = of(token_changes(BASE, [planted("sft", size.ravel())], [], GRID), "border_minus_centre")
        assert sign * estimate.value > 0 and np.sign([estimate.low, estimate.high]).tolist() == [sign, sign]


def test_maps_are_the_mean_relative_change_on_the_grid() -> None:
    other = planted("sft", np.linspace(0.01, 0.3, TOKENS))
    result = token_changes(BASE, [other], [], GRID)
    before, after = (f.sites["block_02:tokens"].astype(np.float64) for f in (BASE, other))
    expected = (np.linalg.norm(after - before, axis=2) / np.linalg.norm(before, axis=2)).mean(0).reshape(GRID)
    assert np.array(result.settings["maps"]["sft"]) == pytest.approx(expected, rel=1e-5)  # kept to six digits
    assert np.array(result.settings["norms"]).shape == GRID
    assert of(result, "token_change").value == pytest.approx(expected.mean(), rel=1e-6)


def test_where_no_place_is_special_a_tenth_of_the_places_holds_a_tenth_of_the_change() -> None:
    covered = shown = 0
    for seed in range(60):
        result = token_changes(BASE, [planted("sft", 0.1, seed)], [], GRID)
        border, places = of(result, "border_minus_centre"), of(result, "top_places")
        covered += border.low <= 0 <= border.high
        shown += places.low > 0.1 + 1e-9
        assert of(result, "top_tokens").value > 0.12  # the largest of an image's own tokens: never a tenth
    assert covered >= 52  # 57 expected, three standard errors below
    assert shown <= 5  # 1.5 expected, three standard errors above


def test_a_concentrated_change_is_read_against_the_baseline() -> None:
    few = np.where(np.arange(TOKENS) < 8, 0.5, 0.05)
    rounded = planted("base (bfloat16)", 0.01, 3)
    result = token_changes(BASE, [planted("sft", few), planted("dpo", 0.1, 4)], [rounded], GRID)
    baseline = result.select(checkpoint="base (bfloat16)", measure="top_places", role="baseline")[0].estimate
    assert of(result, "top_places").value == pytest.approx(8 * 0.5 / (8 * 0.5 + 72 * 0.05), rel=0.05)
    assert of(result, "top_places").low > baseline.high and of(result, "top_places", "dpo").low < baseline.high
    [row] = result.select(checkpoint="dpo", reference="sft", measure="top_places", role="difference")
    assert row.estimate.high < 0


def test_what_did_not_move_is_said_and_wrong_shapes_are_refused() -> None:
    result = token_changes(BASE, [replace(BASE, encoder="copy")], [], GRID)
    assert result.settings["identical"] == ["copy"] and not result.rows and "no token moved" in result.warnings[0]
    with pytest.raises(DataError, match="do not fill a grid of 9x9"):
        token_changes(BASE, [planted("sft", 0.1)], [], (9, 9))
    array = BASE.sites["block_02:tokens"].copy()
    array[7, 3] = 0
    with pytest.raises(DataError, match="token of zeros at block_02 for image-0007"):
        token_changes(replace(BASE, sites={"block_02:tokens": array}), [planted("sft", 0.1)], [], GRID)
