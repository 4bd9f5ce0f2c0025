"""Procrustes, CCA, RSA, unaligned distance and linear maps: golden values, independent forms, nulls, invariances."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import eigh, orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge

from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import replicate_by_groups, replicate_mean
from visprobe.metrics.similarity.cca import pwcca, svcca
from visprobe.metrics.similarity.linear_map import PENALTIES, fit_ridge, linear_map
from visprobe.metrics.similarity.procrustes import procrustes, procrustes_held_out, replicate_procrustes
from visprobe.metrics.similarity.relative_error import unaligned
from visprobe.metrics.similarity.rsa import rdm, replicate_rsa, rsa

Array = NDArray[np.float64]


def pair(n: int = 100, d: int = 10) -> tuple[Array, Array]:
    legacy = np.random.RandomState(1337)  # the seed and generator of Kornblith's published notebook
    x = legacy.randn(n, d)
    return x, legacy.randn(n, d) + x


def turn(d: int, seed: int = 1) -> Array:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def unrelated(n: int, d: int, e: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, e))


def test_procrustes_golden_values_and_scipy() -> None:
    x, y = pair()
    found = procrustes(x, y)
    golden = 0.736255310606, 0.527489378788, 0.743276476121  # 12 digits
    assert (found.similarity, found.squared_distance, found.angle) == pytest.approx(golden, rel=1e-9)
    a, b = ((s - s.mean(0)) / np.linalg.norm(s - s.mean(0)) for s in (x, y))
    rotation, _ = orthogonal_procrustes(a, b)
    assert found.squared_distance == pytest.approx(np.linalg.norm(a @ rotation - b) ** 2, rel=1e-12)


@pytest.mark.parametrize(("n", "d", "e"), [(50, 8, 3), (6, 40, 30), (6, 3, 30)])
def test_procrustes_of_other_widths_is_that_of_padded_features(n: int, d: int, e: int) -> None:
    x, y = unrelated(n, d, e)
    padded = [np.pad(a, ((0, 0), (0, max(d, e) - a.shape[1]))) for a in (x, y)]
    assert procrustes(x, y).similarity == pytest.approx(procrustes(*padded).similarity, abs=1e-12)


def test_held_out_procrustes_is_not_fooled_by_width() -> None:
    x, y = unrelated(200, 300, 300)
    held = procrustes_held_out(x, y)
    assert procrustes(x, y).similarity > 0.6 and held.fitted.similarity > 0.6
    # The inner product of unrelated unit vectors of 100 x 300 numbers: standard deviation 1 / sqrt(100 * 300).
    assert abs(held.mean.similarity) < 3 / math.sqrt(100 * 300)
    exact = procrustes_held_out(x[:, :20], 1e6 * (x[:, :20] @ turn(20)) + 5)
    assert (exact.first.similarity, exact.second.similarity) == pytest.approx((1, 1), abs=1e-9)


def test_held_out_procrustes_is_a_rotation_of_one_half_scored_on_the_other() -> None:
    x, y = pair()
    order = np.random.default_rng(7).permutation(100)
    a, b = order[:50], order[50:]
    rotation, _ = orthogonal_procrustes(x[b] - x[b].mean(0), y[b] - y[b].mean(0))
    left, right = x[a] - x[b].mean(0), y[a] - y[b].mean(0)
    expected = np.vdot(left @ rotation, right) / np.linalg.norm(left) / np.linalg.norm(right)
    assert procrustes_held_out(x, y, seed=7).first.similarity == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="no variance"):
        procrustes_held_out(np.repeat([[1.0], [2.0]], [99, 1], 0), x)


def test_procrustes_replicates_equal_brute_force_with_the_rotations_held_fixed() -> None:
    x, y = pair(60, 5)
    found, held = replicate_procrustes(x, 1e4 * y, seed=7), procrustes_held_out(x, y, seed=7)
    assert found.value == pytest.approx(held.mean.similarity, rel=1e-12)
    order = np.random.default_rng(7).permutation(60)
    a, b = order[:30], order[30:]
    for left_out, score, fit, other in ((a[3], a, b, held.second), (b[4], b, a, held.first)):
        means = x[fit].mean(0), y[fit].mean(0)
        rotation, _ = orthogonal_procrustes(x[fit] - means[0], y[fit] - means[1])
        kept = score[score != left_out]
        left, right = (x[kept] - means[0]) @ rotation, y[kept] - means[1]
        expected = np.vdot(left, right) / np.linalg.norm(left) / np.linalg.norm(right)
        assert found.without[left_out] == pytest.approx((expected + other.similarity) / 2, rel=1e-12)


def canonical(x: Array, y: Array) -> tuple[Array, Array]:
    """Squared correlations and x directions as generalised eigenvalues: Sxy Syy^-1 Syx w = r^2 Sxx w."""
    x, y = x - x.mean(0), y - y.mean(0)
    values, vectors = eigh(x.T @ y @ np.linalg.solve(y.T @ y, y.T @ x), x.T @ x)
    return values, x @ vectors


def test_cca_equals_generalised_eigenvalues() -> None:
    x, y = pair()
    values, directions = canonical(x, y)
    assert svcca(x, y, variance=1.0)[:] == (pytest.approx(np.sqrt(values).mean(), rel=1e-9), 10, 10)
    weights = np.abs(directions.T @ (x - x.mean(0))).sum(1)  # directions have length one: x^T Sxx x = 1
    assert pwcca(x, y) == pytest.approx(weights @ np.sqrt(values) / weights.sum(), rel=1e-9)  # solve and eigh


def test_svcca_keeps_the_directions_that_hold_the_variance() -> None:
    x, y = unrelated(500, 6, 6)
    strong = np.hstack([10 * x[:, :3], 1e-3 * y[:, :3]])
    assert svcca(strong, x, 0.99)[:] == (pytest.approx(1, abs=1e-9), 3, 6)
    assert svcca(strong, strong @ turn(6) + 1, 1.0).value == pytest.approx(1, abs=1e-9)
    assert svcca(np.hstack([x, x]), x, 1.0).kept_x == 6  # directions of rounding error are not directions


def test_cca_of_unrelated_data_has_the_mean_square_that_is_documented() -> None:
    squares = [(canonical(*unrelated(80, 5, 9, seed))[0]).mean() for seed in range(300)]
    # trace of a projection on 9 of 79 directions; three standard errors.
    assert np.mean(squares) == pytest.approx(9 / 79, abs=3 * np.std(squares) / math.sqrt(300))
    assert svcca(*unrelated(80, 5, 9), 1.0).value == pytest.approx(
        np.sqrt(canonical(*unrelated(80, 5, 9))[0]).mean(), rel=1e-9
    )
    with pytest.raises(ValueError, match="too few"):
        svcca(*unrelated(20, 30, 5), 1.0)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        svcca(*pair(), 1.5)


def test_rsa_golden_values_and_scipy() -> None:
    x, y = pair()
    assert rsa(x, y) == pytest.approx(0.472439673763, rel=1e-9)  # 12 digits
    assert rsa(x, y, "euclidean", "pearson") == pytest.approx(0.506585597751, rel=1e-9)
    for distance in ("correlation", "cosine", "euclidean"):
        a, b = pdist(x, distance), pdist(y, distance)
        assert rsa(x, y, distance, "spearman") == pytest.approx(spearmanr(a, b).statistic, rel=1e-9)
        assert rsa(x, y, distance, "pearson") == pytest.approx(pearsonr(a, b).statistic, rel=1e-9)
    np.testing.assert_allclose(rdm(x, "cosine"), squareform(pdist(x, "cosine")), atol=1e-14)


@pytest.mark.parametrize("distance", ["correlation", "cosine", "euclidean"])
def test_rsa_replicates_equal_brute_force(distance: str) -> None:
    x, y = pair(25, 4)
    found = replicate_rsa(x, y, distance)
    expected = [rsa(np.delete(x, i, 0), np.delete(y, i, 0), distance, "pearson") for i in range(25)]
    np.testing.assert_allclose(found.without, expected, atol=1e-12)  # float64 sums
    assert found.value == pytest.approx(rsa(x, y, distance, "pearson"), abs=1e-12)


def test_rsa_invariances_null_and_refusals() -> None:
    x, y = pair()
    assert rsa(x, 1e6 * x, "cosine") == pytest.approx(1, abs=1e-12)
    assert rsa(x, y @ turn(10) + 9, "euclidean") == pytest.approx(rsa(x, y, "euclidean"), abs=1e-12)
    null = [replicate_rsa(*unrelated(60, 8, 8, seed)).value for seed in range(200)]
    assert abs(np.mean(null)) < 3 * np.std(null) / math.sqrt(200)
    with pytest.raises(ValueError, match="equally far"):
        rsa(np.eye(8), x[:8], "euclidean")
    with pytest.raises(ValueError, match="one of correlation"):
        rsa(x, y, "manhattan")
    with pytest.raises(ValueError, match="one of spearman"):
        rsa(x, y, "cosine", "kendall")
    with pytest.raises(ValueError, match="n >= 4"):
        replicate_rsa(x[:3], y[:3])


def test_unaligned_closed_form_and_what_a_rotation_does_to_it() -> None:
    moved = unaligned([[3.0, 0], [0, 2]], [[3.0, 3], [0, 1]])
    np.testing.assert_allclose(moved, [[0.5**0.5, 1], [math.pi / 4, 0], [1, 0.5]], atol=1e-15)
    x, _ = pair()
    assert unaligned(x, x @ turn(10)).relative_error.mean() > 0.5  # which CKA and Procrustes do not see
    tiny = unaligned(1e200 * x, 1e200 * (x + 1e-10 * np.roll(x, 1, axis=1)))
    expected = 1e-10 * np.linalg.norm(np.roll(x, 1, axis=1), axis=1) / np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(tiny.relative_error, expected, rtol=1e-4)  # 1e-16 of rounding in 1e-10
    assert (tiny.angle <= tiny.relative_error * 1.0001).all() and tiny.angle.min() > 0
    mean = replicate_mean(moved.relative_error).student
    assert (mean.value, mean.error) == pytest.approx((0.75, 0.25))
    with pytest.raises(ValueError, match="do not correspond"):
        unaligned(x, x[:, :5])


def test_ridge_penalty_is_that_of_generalised_cross_validation_written_out() -> None:
    x, y = pair(40, 12)
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.linalg.eigvalsh(x.T @ x).mean()

    def gcv(penalty: float) -> float:
        hat = x @ np.linalg.solve(x.T @ x + penalty * scale * np.eye(12), x.T) + 1 / 40
        return float(np.linalg.norm(y - hat @ y) ** 2 / np.trace(np.eye(40) - hat) ** 2)

    weights, chosen = fit_ridge(x, y)
    assert chosen == min(PENALTIES, key=gcv)
    reference = Ridge(alpha=chosen * scale, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(weights, reference, atol=1e-12)


def test_linear_map_of_linear_unrelated_and_curved_targets() -> None:
    x, noise = unrelated(600, 20, 30)
    exact = linear_map(1e6 * x, x @ noise[:20] + 3)
    assert exact.r2.value == pytest.approx(1, abs=1e-9)
    assert -0.05 < linear_map(x, noise).r2.value < 0.02
    wide = linear_map(*unrelated(60, 300, 10))  # more units than images: a fit without penalty would be perfect
    assert -0.2 < wide.r2.value < 0.05
    assert linear_map(x, np.square(x)).r2.value < 0.05  # a function of x, but not a linear one
    half = linear_map(x, x[:, :10] + noise[:, :10])
    assert half.r2.value == pytest.approx(0.5, abs=0.05)  # share of variance 1 / (1 + 1), 6,000 numbers
    assert half.r2.without[0] == pytest.approx(half.r2.value, abs=0.01)
    with pytest.raises(ValueError, match="in 9 folds"):
        linear_map(x[:10], noise[:10], folds=9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_low_precision_is_computed_in_float64(dtype: type) -> None:
    x, y = (a.astype(dtype) for a in pair())
    exact = [a.astype(np.float64) for a in (x, y)]
    for measure in (pwcca, rsa, lambda a, b: procrustes(a, b).similarity, lambda a, b: linear_map(a, b).r2.value):
        assert measure(x, y) == measure(*exact)


def drawn(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    spectrum = np.arange(1, 9) ** -0.5
    x = rng.standard_normal((n, 8)) * spectrum
    return x, x + 0.5 * rng.standard_normal((n, 8)) * spectrum[::-1]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["rsa, pearson", "linear map", "rsa, spearman, groups"])
def test_intervals_cover(name: str) -> None:
    statistic = {
        "rsa, pearson": replicate_rsa,
        "linear map": lambda x, y: linear_map(x, y).r2,
        "rsa, spearman, groups": lambda x, y: replicate_by_groups(lambda i: rsa(x[i], y[i]), len(x)),
    }[name]
    rng, repeats = np.random.default_rng(5), 150 if "groups" in name else 600
    intervals = [statistic(*drawn(rng, 120)).estimate(Scale("correlation", -1, 1)) for _ in range(repeats)]
    truth = np.mean([one.value for one in intervals])  # the expectation at this n
    covered = np.mean([one.low <= truth <= one.high for one in intervals])
    assert covered == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / repeats) + 0.005)  # binomial, and the truth's
