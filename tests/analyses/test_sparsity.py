"""Planted sparse updates stand out from a dense update of their size; rounding alone does not."""

import json

import pytest
import torch

from visprobe.analyses.weights.sparsity import update_sparsity
from visprobe.results.result import Result

N = 200


def base(dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(N, N, generator=generator).to(dtype) for name in ("block_01.a", "projector.a")}


def moved(weights, share, size, seed=1):
    """A share of the weights of each tensor moved by Gaussians, stored in the dtype of the base."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in weights.items():
        step = size * torch.randn(N, N, generator=generator) * (torch.rand(N, N, generator=generator) < share)
        found[name] = (weight.float() + step).to(weight.dtype)
    return found


def measured(others, weights=None):
    return update_sparsity("base", weights or base(), others, lambda name: name.split(".")[0])


def value(result, checkpoint, measure, site="tower"):
    [row] = result.select(checkpoint=checkpoint, measure=measure, site=site)
    return row.estimate


def test_a_sparse_update_is_far_sparser_than_a_dense_one_of_its_size():
    result = measured({"rl": moved(base(), 0.1, 0.1)})
    equal = value(result, "rl", "share_equal")
    assert 0.9 <= equal.value < 0.93  # nine tenths planted; of the moved, few by less than their spacing
    assert value(result, "rl (dense)", "share_equal").high < 0.2
    assert (equal.low, equal.high, equal.method, equal.n) == (equal.value, equal.value, "exact", N * N)
    assert {row.site for row in result.rows} == {"tower", "projector"}
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_a_small_dense_update_that_bfloat16_swallows_equals_its_baseline(size):
    weights = base(torch.float32)
    result = measured({"sft": moved(weights, 1.0, size)}, weights)
    own, baseline = (value(result, name, "share_equal_bfloat16") for name in ("sft", "sft (dense)"))
    # Two independent draws of 40,000 weights: standard error 0.35 points.
    assert own.value == pytest.approx(baseline.value, abs=0.015)
    assert value(result, "sft", "share_equal").value < 0.001
    assert size != 1e-3 or own.value > 0.4  # most of it looks unchanged all the same


def test_tolerances_and_dtypes():
    weights = {"block_01.a": torch.ones(4)}
    other = {"block_01.a": 1 + torch.tensor([0.0, 5e-6, 5e-5, 5e-4])}
    result = measured({"sft": other}, weights)
    shares = [value(result, "sft", f"share_within_{t}").value for t in ("1e-05", "1e-04", "1e-03")]
    assert [value(result, "sft", "share_equal").value, *shares] == [0.25, 0.5, 0.75, 1.0]
    assert value(result, "sft", "share_equal_bfloat16").value == 1.0
    assert result.settings["compared_at"] == "float32"
    both = measured({"sft": other, "half": {"block_01.a": torch.ones(4).half()}}, weights)
    assert both.settings["compared_at"] == "float16"  # one dtype for all arms
    assert value(both, "half", "share_equal").value == 1.0


def test_arms_of_unlike_size_are_named():
    arms = {"sft": moved(base(), 1, 0.1), "rl": moved(base(), 1, 0.01), "dpo": moved(base(), 1, 0.011)}
    named = [text for text in measured(arms).warnings if "differ in size" in text]
    assert ["sft and rl" in named[0], "sft and dpo" in named[1], len(named)] == [True, True, 2]
