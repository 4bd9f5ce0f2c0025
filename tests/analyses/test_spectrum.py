"""Planted directions of a weight change are found per class; a random change gives the stated baseline."""

import json

import numpy as np
import pytest
import torch

from visprobe.analyses.weights.spectrum import weight_spectrum
from visprobe.results.result import Result

Q, QKV = "encoder.layers.0.self_attn.q_proj.weight", "blocks.0.attn.qkv.weight"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measured(base, *others, k=4):
    named = {f"arm{n}": other for n, other in enumerate(others)}
    return weight_spectrum("base", base, named, lambda name: "block_01", k)


def value(result, measure, site="attention_q", checkpoint="arm0"):
    [row] = result.select(checkpoint=checkpoint, measure=measure, site=site)
    return row.estimate.value


def test_a_rank_one_change_along_the_strongest_directions():
    weight = normal(60, 40)
    u, s, vt = np.linalg.svd(weight.numpy())
    inside = {Q: weight + 0.1 * torch.tensor(s[0] * np.outer(u[:, 0], vt[0]))}
    outside = {Q: weight + 0.01 * torch.tensor(s[0] * np.outer(u[:, 39], vt[39]))}
    result = measured({Q: weight}, inside, outside)
    # Gram matrices in float64 hold a tenth of the largest singular value to 1e-13 of it.
    assert value(result, "spectral_change") == pytest.approx(0.1, rel=1e-9)
    assert value(result, "stable_rank") == pytest.approx(1, rel=1e-9)
    for measure in ("energy_left", "energy_right", "energy_both"):
        assert value(result, measure) == pytest.approx(1, abs=1e-9)
        assert value(result, measure, checkpoint="arm1") == pytest.approx(0, abs=1e-9)
    for measure in ("angle_left", "angle_right"):  # scaling a singular direction turns nothing
        assert value(result, measure) == pytest.approx(0, abs=1e-5)


def test_a_turned_subspace_is_found_at_its_angle():
    s = np.array([9.0, 8, 7, 6, *np.linspace(1, 0.1, 36)])
    u, v = np.linalg.qr(normal(60, 40).numpy())[0], np.linalg.qr(normal(40, 40, seed=1).numpy())[0]
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    turned = u.copy()
    turned[:, 0], turned[:, 30] = cos * u[:, 0] + sin * u[:, 30], cos * u[:, 30] - sin * u[:, 0]
    base, other = ({Q: torch.tensor(left * s @ v.T)} for left in (u, turned))
    result = measured(base, other)
    assert value(result, "angle_left") == pytest.approx(30, abs=1e-6)
    assert value(result, "angle_right") == pytest.approx(0, abs=1e-5)


def test_random_changes_give_the_baseline():
    base = {f"encoder.layers.{n}.self_attn.q_proj.weight": normal(80, 50, seed=n) for n in range(40)}
    other = {name: weight + 0.01 * normal(80, 50, seed=100 + n) for n, (name, weight) in enumerate(base.items())}
    result = measured(base, other)
    baseline = "arm0 (random direction)"
    for measure in ("energy_left", "energy_right", "energy_both"):
        # 40 matrices x 200 (left), 320 (right), 16 (both) squared normals: relative standard error at most 5.6 %.
        assert value(result, measure) == pytest.approx(value(result, measure, checkpoint=baseline), rel=0.2)
    # The largest singular value of a Gaussian matrix of this size is 3 % below its limit.
    assert value(result, "stable_rank") == pytest.approx(value(result, "stable_rank", checkpoint=baseline), rel=0.1)


def test_fused_tensors_come_apart_and_what_has_no_direction_is_left_out():
    base = {QKV: normal(60, 20), "blocks.0.norm1.weight": normal(20), "pos_embed.weight": normal(9, 20),
            "blocks.0.mlp.fc1.weight": torch.zeros(40, 20)}  # fmt: skip
    other = {name: weight.clone() for name, weight in base.items()}
    other[QKV][:20] += 0.1 * normal(20, 20, seed=3)
    other["blocks.0.mlp.fc1.weight"] += 1
    result = measured(base, other, k=16)
    assert {row.site for row in result.rows} == {"attention_q"}
    [matrix] = result.settings["matrices"]["arm0"]
    assert (matrix["kind"], matrix["shape"], matrix["k"]) == ("attention_q", [20, 20], 5)
    assert result.warnings == (
        "blocks.0.mlp.fc1.weight has fewer singular values above rounding than are looked at: it is left out",
    )
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
