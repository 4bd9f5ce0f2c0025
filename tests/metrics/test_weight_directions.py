"""Singular values and directions of a weight change, and update sparsity: full SVD, planted directions, nulls."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from visprobe.metrics.weights import spectral_change as module
from visprobe.metrics.weights.spectral_change import ChangeDirections, change_directions, top_singular
from visprobe.metrics.weights.update_sparsity import total_unchanged, unchanged

Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def directions(base: Array, other: Array, k: int = 4) -> ChangeDirections:
    return change_directions(base, other - base, top_singular(base, k))


def energies(base: Array, other: Array) -> tuple[float, float, float]:
    found = directions(base, other)
    return found.energy_left, found.energy_right, found.energy_both


@pytest.mark.parametrize("lanczos", [False, True])
@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (70, 70)])
def test_top_singular_equals_the_full_decomposition(
    shape: tuple[int, int], lanczos: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRAM_SIDE", 0 if lanczos else 2048)
    matrix = normal(*shape) * np.geomspace(1, 1e-3, shape[1])
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    left, values, right = top_singular(matrix, 8)
    np.testing.assert_allclose(values, s[:8], rtol=1e-9)  # Lanczos stops at 1e-10
    np.testing.assert_allclose(left * values @ right.T, u[:, :8] * s[:8] @ vt[:8], atol=1e-8 * s[0])
    for vectors in (left, right):
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-9)


def test_singular_values_down_to_a_millionth_of_the_largest_from_the_gram_matrix() -> None:
    s = np.geomspace(1, 1e-5, 20)
    matrix = np.linalg.qr(normal(200, 20))[0] * s @ np.linalg.qr(normal(50, 20, seed=1))[0].T
    found = top_singular(matrix, 20)[1]
    np.testing.assert_array_less(np.abs(found - s), 50 * 2.2e-16 / s)  # as documented; sums of 50 products
    with pytest.raises(ValueError, match="fewer than 21"):
        top_singular(matrix, 21)
    for k in (0, 51):
        with pytest.raises(ValueError, match="between 1 and 50"):
            top_singular(matrix, k)


def test_size_and_rank_of_planted_updates() -> None:
    base = normal(40, 30)
    rank_one = np.outer(normal(40, seed=1), normal(30, seed=2))
    found = directions(base, base + rank_one)
    size = float(np.linalg.norm(rank_one))
    assert found[:3] == pytest.approx(
        (size**2, size / np.linalg.norm(base, 2), 1.0), rel=1e-9
    )  # Gram matrix of float64
    rotation = np.linalg.qr(normal(30, 30))[0]
    assert directions(np.eye(30), np.eye(30) + 0.01 * rotation).stable_rank == pytest.approx(30, rel=1e-9)
    assert directions(base, 1.01 * base).spectral_change == pytest.approx(0.01, rel=1e-9)


def test_energy_of_planted_and_of_random_changes() -> None:
    u, s, vt = np.linalg.svd(normal(80, 50))
    base = (u[:, :50] * s) @ vt
    inside = u[:, :4] @ normal(4, 4) @ vt[:4]
    outside = u[:, 4:50] @ normal(46, 46) @ vt[4:]
    left_only = u[:, :4] @ normal(4, 46) @ vt[4:]
    assert energies(base, base + inside) == pytest.approx((1, 1, 1), abs=1e-9)
    assert energies(base, base + outside) == pytest.approx((0, 0, 0), abs=1e-9)
    assert energies(base, base + left_only) == pytest.approx((1, 0, 0), abs=1e-9)
    draws = np.array([energies(base, base + normal(80, 50, seed=seed)) for seed in range(1, 101)])
    error = draws.std(0) / 10
    assert (np.abs(draws.mean(0) - [4 / 80, 4 / 50, 16 / 4000]) < 3 * error).all()  # the documented null


@pytest.mark.parametrize("angle", [1e-6, 0.1, math.pi / 2])
def test_the_largest_angle_of_a_planted_turn(angle: float) -> None:
    left, right = np.linalg.qr(normal(30, 30))[0], np.linalg.qr(normal(20, 20, seed=1))[0][:, :6]
    values = np.array([9.0, 8, 7, 0.3, 0.2, 0.1])
    turned = left[:, :6].copy()
    turned[:, 0] = math.cos(angle) * left[:, 0] + math.sin(angle) * left[:, 10]
    found = directions(left[:, :6] * values @ right.T, turned * values @ right.T, 3)
    # Three directions of nearly equal values are held to about 1e-14 / (7 - 0.3) * 9; square roots to the null angle.
    assert math.radians(found.angle_left) == pytest.approx(angle, abs=1e-12)
    assert math.radians(found.angle_right) == pytest.approx(0, abs=1e-12)


def test_update_sparsity_counts_at_zero_and_at_tolerances() -> None:
    base = torch.tensor([1.0, 2.0, 4.0, 0.0], dtype=torch.float64)
    other = base + torch.tensor([0.0, 1e-4, 1e-2, 1e-6])
    found = unchanged(base, other, (1e-4, 1e-3))
    assert (found.equal, found.within, found.weights) == (1, (2, 2), 4)  # nothing is small relative to zero
    assert unchanged(base, other, (1e-5, 1e-3), relative=False).shares_within == (0.5, 0.75)
    both = total_unchanged([found, unchanged(base, base, (1e-4, 1e-3))])
    assert (both.share_equal, both.shares_within) == (5 / 8, (6 / 8, 6 / 8))


def test_storing_in_bfloat16_makes_a_dense_update_look_sparse() -> None:
    base = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    other = base * (1 + 2**-10)
    assert unchanged(base, other).share_equal == 0
    # 2**-10 of a weight is an eighth to a quarter of a spacing of bfloat16: most weights round back.
    assert 0.7 < unchanged(base, other, dtype=torch.bfloat16).share_equal < 0.95
    stored = unchanged(base.bfloat16(), other.bfloat16())
    assert stored == unchanged(base, other, dtype=torch.bfloat16)
    assert unchanged(base, base.bfloat16()).share_equal == 1  # rounding on saving is no update


def test_sparsity_of_what_cannot_be_compared_is_refused() -> None:
    for base, other, words in [
        (torch.ones(3), torch.ones(4), "differ"),
        (torch.ones(0), torch.ones(0), "empty"),
        (torch.ones(2), torch.tensor([1.0, math.nan]), "NaN"),
        (torch.tensor([1e30]), torch.tensor([1.0], dtype=torch.float16), "infinite at torch.float16"),
    ]:
        with pytest.raises(ValueError, match=words):
            unchanged(base, other)
