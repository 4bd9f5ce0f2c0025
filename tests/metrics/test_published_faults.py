"""Ways in which published packages compute CKA, restated, on data where the answer is known: wrong there, right here.

What each package does: see the card of drift (analyses/drift/card.md).
"""

import numpy as np
import pytest

from visprobe.metrics.similarity.cka import debiased_cka

N, D = 200, 64


def draw(seed, n=N, d=D):
    return np.random.default_rng(seed).normal(size=(n, d))


def debiased(x, y):
    """The unbiased estimator from Gram matrices (Song et al. 2012), written out."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        return (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k.sum(0) @ m.sum(0)) / (n - 2)

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def test_a_bootstrap_over_images_finds_likeness_between_independent_features():
    x, y = draw(0, d=256), draw(1, d=256)
    resampled = np.random.default_rng(2).integers(0, N, (20, N))
    bootstrap = np.array([debiased(x[rows], y[rows]) for rows in resampled])
    assert bootstrap.min() > 0.4  # images drawn twice are alike in both
    ours = debiased_cka(x, y)
    assert ours.value == pytest.approx(debiased(x, y), abs=1e-12)
    assert ours.low < 0 < ours.high
    assert ours.high < 0.1


def test_two_shuffled_loaders_make_equal_encoders_look_unrelated():
    x, order = draw(0), np.random.default_rng(1).permutation(N)
    assert abs(debiased(x, x[order])) < 0.05  # rows paired by position; visprobe pairs by item id (tests/analyses)
    assert debiased_cka(x, x).value == pytest.approx(1, abs=1e-12)


def test_an_accumulator_that_is_overwritten_sees_the_last_batch_alone():
    x = draw(0)
    y = np.concatenate([draw(1)[:150], x[150:]])  # three of four batches are unrelated
    last = debiased(x[150:], y[150:])
    assert last == pytest.approx(1, abs=1e-12)
    assert debiased_cka(x, y).value < 0.5


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0, 1e3])
def test_a_constant_in_the_denominator_makes_cka_depend_on_the_scale(scale):
    x = draw(0)
    y = x + draw(1)

    def with_constant(a, b):
        a, b = a - a.mean(0), b - b.mean(0)
        return ((a.T @ b) ** 2).sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b) + 1e-6)

    true = debiased_cka(x, y).value
    assert debiased_cka(scale * x, scale * y).value == pytest.approx(true, abs=1e-12)
    if scale == 1e-3:
        assert with_constant(scale * x, scale * y) < 0.9 * with_constant(x, y)


def test_features_far_from_their_origin_need_float64_and_centring_first():
    x, y = draw(0), draw(1)
    far_x, far_y = (100 + x).astype(np.float32), (100 + y).astype(np.float32)

    def in_float32(a, b):
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        n = np.float32(len(a))
        parts = [(p * q).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2)) - 2 * (p.sum(0) @ q.sum(0)) / (n - 2)
                 for p, q in ((k, m), (k, k), (m, m))]  # fmt: skip
        with np.errstate(all="ignore"):
            return float(parts[0] / np.sqrt(parts[1] * parts[2]))

    true = debiased_cka(x, y).value
    assert not abs(in_float32(far_x, far_y) - true) < 0.2
    assert debiased_cka(far_x, far_y).value == pytest.approx(true, abs=1e-3)  # float32 at 100 keeps 17 bits of x
