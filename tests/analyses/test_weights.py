import json

import pytest
import torch
from torch import Tensor

from visprobe.analyses.core.verdict import verdict
from visprobe.analyses.weights.weights import weight_drift
from visprobe.errors import CheckpointError
from visprobe.results.result import Result

Weights = dict[str, Tensor]


def group_of(name: str) -> str:
    return name.split(".")[0]


def base_weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    names = ["projector.0", "block_02.a", "block_01.a", "block_01.b", "embeddings.patch", "final_norm.weight"]
    return {name: torch.randn(20, 10, generator=generator) for name in names} | {"embeddings.ids": torch.arange(5)}


def changed(weights: Weights, factors: dict[str, float]) -> Weights:
    return {name: tensor * factors.get(name, 1.0) for name, tensor in weights.items()}


def value(result: Result, checkpoint: str, site: str, measure: str) -> float:
    return result.select(checkpoint=checkpoint, site=site, measure=measure)[0].estimate.value


def test_planted_changes_are_found_per_group() -> None:
    base = base_weights()
    sft = changed(base, {"block_01.a": 1.5, "projector.0": 2.0})
    result = weight_drift("base", base, {"sft": sft}, group_of)
    a, b = (base[name].double().square().sum() for name in ("block_01.a", "block_01.b"))
    # float32 holds 1.5 w to 6e-8 of w.
    assert value(result, "sft", "block_01", "relative_change") == pytest.approx(
        float(0.5 * (a / (a + b)).sqrt()), rel=1e-6
    )
    assert value(result, "sft", "block_01", "share_equal") == 0.5
    assert value(result, "sft", "block_02", "relative_change") == 0
    assert value(result, "sft", "tower", "share_equal") == 0.8  # one of five tensors; the projector is not the tower
    assert value(result, "sft", "projector", "relative_change") == 1
    assert [row.site for row in result.select(measure="share_equal")] == [
        *result.settings["groups"],
        *result.settings["classes"],
    ]
    assert result.settings["groups"] == ["embeddings", "block_01", "block_02", "final_norm", "projector", "tower"]
    assert result.settings["classes"] == ["norm", "other"]
    assert result.settings["identical"] == []
    estimate = result.select(measure="relative_change")[0].estimate
    assert (estimate.low, estimate.high, estimate.method, estimate.n) == (estimate.value, estimate.value, "exact", 200)
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_untouched_towers_are_named_even_with_a_new_projector() -> None:
    base = base_weights()
    others = {"frozen": changed(base, {"projector.0": 2.0}), "sft": changed(base, {"final_norm.weight": 2.0})}
    result = weight_drift("base", base, others, group_of)
    assert result.settings["identical"] == ["frozen"] and result.settings["rounded"] == {}
    assert sum("not trained or not saved" in text for text in result.warnings) == 1


def floats(base: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in base.items() if tensor.is_floating_point()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_copy_in_a_coarser_dtype_is_the_base_rounded_and_not_identical(dtype: torch.dtype) -> None:
    base, kind = base_weights(), str(dtype).removeprefix("torch.")
    trained = floats(changed(base, {"block_01.a": 2.0}), dtype)
    others = {"copy": floats(base, dtype), "sft": trained, "wide": floats(floats(base, dtype), torch.float32)}
    result = weight_drift("base", base, others, group_of)
    assert result.settings["identical"] == []
    assert result.settings["rounded"] == {"copy": kind, "wide": kind}  # wide: saved in float32 after the rounding
    assert result.settings["compared_at"]["copy"] == [kind]
    assert any(text == f"copy: every tower weight equals base's rounded to {kind}" for text in result.warnings)
    assert not any("not trained" in text for text in result.warnings)


def test_a_copy_in_a_finer_dtype_has_the_same_values_and_is_identical() -> None:
    base = floats(base_weights(), torch.bfloat16)
    finer = floats(base, torch.float32)
    moved = {name: tensor * (1 + 1e-4) for name, tensor in finer.items()}  # less than a step of bfloat16
    result = weight_drift("base", base, {"copy": finer, "sft": moved}, group_of)
    assert result.settings["identical"] == ["copy"]
    assert result.settings["rounded"] == {}


def test_groups_off_the_training_path_are_named() -> None:
    base = base_weights()
    result = weight_drift("base", base, {"sft": changed(base, {"block_01.a": 2.0})}, group_of, {"final_norm", "head"})
    assert result.settings["off_path"] == ["final_norm"]
    assert any("never reaches final_norm" in text for text in result.warnings)


def test_weights_that_one_side_lacks_are_named_and_left_out() -> None:
    base = base_weights()
    bare = {name: tensor for name, tensor in base.items() if not name.startswith("projector")}
    result = weight_drift("base", bare, {"sft": changed(base, {"block_01.a": 2.0})}, group_of)
    assert not result.select(site="projector")
    assert result.warnings == ("sft has weights in projector that base lacks; they are not compared",)


def test_a_group_that_was_all_zero_has_no_relative_change() -> None:
    result = weight_drift("base", {"head.bias": torch.zeros(4)}, {"sft": {"head.bias": torch.ones(4)}}, group_of)
    assert not result.select(measure="relative_change")
    assert value(result, "sft", "head", "share_equal") == 0


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"unknown": torch.ones(3)}, "no weight of the same name"),
        ({"block_01.a": torch.ones(3)}, r"block_01.a is \(3,\) in sft and \(20, 10\) in base"),
        ({"block_01.a": torch.full((20, 10), torch.nan)}, "block_01.a of sft holds NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: Weights, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        weight_drift("base", base_weights(), {"sft": other}, group_of)
    assert caught.value.hint


def tower_of_blocks(seed: int) -> dict[str, torch.Tensor]:
    """Six blocks with matrices of size 0.02 and gains of norms of 1, which hold most of the squared norm."""
    draw = torch.Generator().manual_seed(seed)
    weights = {"embeddings.patch.weight": 0.02 * torch.randn((32, 3, 8, 8), generator=draw)}
    for block in range(6):
        for name in ("q_proj", "k_proj", "fc1"):
            weights[f"encoder.layers.{block}.{name}.weight"] = 0.02 * torch.randn((32, 32), generator=draw)
        weights[f"encoder.layers.{block}.norm.weight"] = torch.ones(32)
    return weights


def block_of(name: str) -> str:
    return f"block_{int(name.split('.')[2]) + 1:02d}" if name.startswith("encoder") else "embeddings"


def test_noise_of_30_percent_on_each_matrix_of_three_blocks_reads_30_percent() -> None:
    base, draw = tower_of_blocks(0), torch.Generator().manual_seed(1)
    noisy = dict(base)
    for name, weight in base.items():
        if block_of(name) in ("block_02", "block_04", "block_06") and "norm" not in name:
            noise = torch.randn(weight.shape, generator=draw)
            noisy[name] = weight + 0.3 * weight.norm() / noise.norm() * noise
    result = weight_drift("base", base, {"sft": noisy}, block_of)
    for block in ("block_02", "block_04", "block_06"):
        assert value(result, "sft", block, "matrix_change") == pytest.approx(0.3, rel=1e-5)  # float32
        assert value(result, "sft", block, "relative_change") < 0.06  # gains of norms hide it
    assert value(result, "sft", "block_01", "matrix_change") == 0
    assert result.select(site="block_02", measure="matrix_change")[0].estimate.n == 3
    assert value(result, "sft", "tower", "matrix_change") == pytest.approx(0.3, rel=1e-5)
    assert value(result, "sft", "tower", "matrices_changed") == 9 / 19
    [said] = verdict([result], "base")
    assert said.text.startswith(
        "sft: 9 of 19 weight matrices of the tower changed, by 30.0 % in the median of those (‖ΔW‖ / ‖W‖, Frobenius), "
        "in block_02, block_04 and block_06 (30.0 %)"
    )


def test_gains_alone_change_no_matrix_and_are_seen_in_the_norm_of_all() -> None:
    base = tower_of_blocks(0)
    scaled = {name: 1.1 * weight if "norm" in name else weight for name, weight in base.items()}
    result = weight_drift("base", base, {"sft": scaled}, block_of)
    assert value(result, "sft", "tower", "matrix_change") == 0
    assert value(result, "sft", "tower", "relative_change") > 0.08
    assert result.settings["identical"] == []
    assert verdict([result], "base")[0].text.startswith("sft: 0 of 19 weight matrices of the tower changed; ")


def test_matrices_that_are_zero_in_the_base_are_left_out() -> None:
    base = tower_of_blocks(0)
    base["encoder.layers.0.fc1.weight"] = torch.zeros(32, 32)
    grown = {name: 1.5 * weight for name, weight in base.items()} | {"encoder.layers.0.fc1.weight": torch.ones(32, 32)}
    result = weight_drift("base", base, {"sft": grown}, block_of)
    assert value(result, "sft", "block_01", "matrix_change") == pytest.approx(0.5, rel=1e-6)
    assert result.select(site="block_01", measure="matrix_change")[0].estimate.n == 2
