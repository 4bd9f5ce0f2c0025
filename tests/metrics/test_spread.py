"""Ranks, token-norm tails, uniformity: golden values, closed forms, brute force, coverage."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

from visprobe.metrics.geometry.effective_rank import (
    effective_rank,
    participation_ratio,
    rankme,
    replicate_effective_rank,
    replicate_rankme,
)
from visprobe.metrics.geometry.token_norms import tail_share, tail_threshold
from visprobe.metrics.geometry.uniformity import uniformity
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import Replicated, replicate_by_groups

Array = NDArray[np.float64]


def published() -> Array:
    return np.random.RandomState(1337).randn(100, 10)  # the seed of Kornblith's published notebook


def test_rank_golden_values() -> None:
    x = published()
    assert participation_ratio(x).value == pytest.approx(9.150791356338, rel=1e-9)  # 13 digits
    assert effective_rank(x) == pytest.approx(9.875502967635, rel=1e-9)
    assert effective_rank(x, eigenvalues=True) == pytest.approx(9.536129891117, rel=1e-9)
    assert rankme(x - x.mean(0)) == pytest.approx(effective_rank(x), rel=1e-5)  # 1e-7 is added to ten shares


def spectrum(values: list[float], n: int = 64) -> Array:
    """Centred features of shape (n, len(values)) with these singular values."""
    raw = np.random.default_rng(0).standard_normal((n, len(values)))
    u = np.linalg.qr(raw - raw.mean(0))[0]
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((len(values),) * 2))[0]
    return u * values @ turn


def test_ranks_of_known_spectra() -> None:
    flat = spectrum([2, 2, 2, 2, 0, 0])
    for rank in (effective_rank(flat), participation_ratio(flat).value):
        assert rank == pytest.approx(4, rel=1e-9)
    two = spectrum([3, 1])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(two) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert participation_ratio(two).value == pytest.approx((9 + 1) ** 2 / (81 + 1), rel=1e-12)


def test_ranks_do_not_see_scale_offset_or_rotation_but_rankme_sees_the_offset() -> None:
    x = published()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    moved = 1e-6 * (x @ turn + 4)
    assert effective_rank(moved) == pytest.approx(effective_rank(x), rel=1e-9)
    assert participation_ratio(moved).value == pytest.approx(participation_ratio(x).value, rel=1e-9)
    assert rankme(1e6 * x) == pytest.approx(rankme(x), rel=1e-12)
    assert rankme(x + 100) < 2 < rankme(x)
    assert effective_rank(x.astype(np.float16)) == effective_rank(x.astype(np.float16).astype(np.float64))


@pytest.mark.parametrize(("n", "d"), [(90, 12), (60, 80)])
def test_ranks_without_groups_equal_those_of_the_images_left(n: int, d: int) -> None:
    x = np.random.default_rng(2).standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 3
    entropy = replicate_by_groups(lambda rows: effective_rank(x[rows]), n, seed=3)
    uncentred = replicate_by_groups(lambda rows: rankme(x[rows]), n, seed=3)
    for found, expected in ((replicate_effective_rank(x, seed=3), entropy), (replicate_rankme(x, seed=3), uncentred)):
        assert found.value == pytest.approx(expected.value, rel=1e-12)
        # The squares that eigenvalues are cost half the digits of the smallest of a hundred directions.
        np.testing.assert_allclose(found.without, expected.without, rtol=1e-9)
    with pytest.raises(ValueError, match="too few"):
        replicate_rankme(x[:30])


@pytest.mark.thorough
@pytest.mark.parametrize("replicate", [replicate_effective_rank, replicate_rankme])
@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_of_ranks_cover(replicate: Callable[[Array], Replicated], heavy: bool) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        radius = np.exp(0.5 * rng.standard_normal((300, 1))) if heavy else 1.0
        x = rng.standard_normal((300, 32)) * np.arange(1, 33) ** -0.5 * radius + 1
        found.append(replicate(x).estimate(Scale("directions")))
    truth = np.mean([one.value for one in found])  # the expectation at this n, known to a 20th of the interval
    assert 0.95 - 3 * 0.011 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.995  # error 1.1 points


@pytest.mark.parametrize(("n", "d"), [(30, 8), (12, 40)])
def test_participation_ratio_replicates_equal_brute_force(n: int, d: int) -> None:
    x = np.random.default_rng(0).standard_normal((n, d)) + 3
    expected = [participation_ratio(np.delete(x, i, 0)).value for i in range(n)]
    np.testing.assert_allclose(participation_ratio(x).without, expected, rtol=1e-10)  # float64 sums
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert participation_ratio(x).value == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-10)


def test_token_norm_tail_finds_planted_registers() -> None:
    norms = np.random.default_rng(0).normal(50, 2, (200, 256))
    threshold = tail_threshold(norms)
    assert threshold == pytest.approx(50 + 10 * 2 * 0.6745, rel=0.02)  # median and MAD of 51,200 normal numbers
    assert tail_share(norms, threshold).value == 0
    norms[::2, :8] += 100  # 8 of 256 tokens of every other image
    share = tail_share(norms, threshold)
    assert share.value == 8 / 512
    # Whole images differ, tokens within one do not: half the images at 8 / 256.
    assert share.student.error == pytest.approx(8 / 256 * 0.5 / math.sqrt(199), rel=1e-9)
    with pytest.raises(ValueError, match="negative"):
        tail_threshold(norms - 100)
    with pytest.raises(ValueError, match="n >= 2"):
        tail_share(norms[:1], 60)


def test_uniformity_is_the_published_code_and_its_replicates_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visprobe.metrics.geometry.uniformity._CHUNK", 7)
    x = published()[:40]

    def expected(rows: Array) -> float:
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return float(np.log(np.exp(-2 * pdist(units, "sqeuclidean")).mean()))

    found = uniformity(x)
    assert found.value == pytest.approx(expected(x), abs=1e-12)
    np.testing.assert_allclose(found.without, [expected(np.delete(x, i, 0)) for i in range(40)], atol=1e-12)


def test_uniformity_ends() -> None:
    assert uniformity(np.outer(np.arange(1, 9), [1.0, 2.0])).value == pytest.approx(0, abs=1e-12)
    wide = uniformity(np.random.default_rng(0).standard_normal((500, 2000))).value
    # |u - v|^2 is 2 in expectation, its variance 4 / d: the mean of the exponential adds t^2 * 2 / d.
    assert wide == pytest.approx(-4 + 4 * 2 / 2000, abs=1e-3)


def one_image() -> Array:
    features = np.zeros((10, 3))
    features[0] = 1
    return features


def test_what_has_no_spread_is_refused() -> None:
    for features, words in [(np.ones((9, 2)), "no variance"), (np.ones((1, 2)), "n >= ")]:
        for measure in (effective_rank, participation_ratio):
            with pytest.raises(ValueError, match=words):
                measure(features)
    with pytest.raises(ValueError, match="single image"):
        participation_ratio(one_image())
    with pytest.raises(ValueError, match="no rank"):
        rankme(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="image 1 are all zero"):
        uniformity(one_image())


def test_intervals_cover() -> None:
    rng, scale = np.random.default_rng(0), np.arange(1, 9) ** -0.5
    truth = float((scale**2).sum() ** 2 / (scale**4).sum())
    ratios, uniform = [], []
    for _ in range(800):
        x = rng.standard_normal((1000, 8)) * scale
        ratios.append(participation_ratio(x).estimate(Scale("directions")))
        uniform.append(uniformity(x[:100]).estimate(Scale("log potential")))
    mean = np.mean([one.value for one in uniform])
    # 800 draws: standard error 0.8 points, three of them.
    assert np.mean([one.low <= truth <= one.high for one in ratios]) == pytest.approx(0.95, abs=0.024)
    assert np.mean([one.low <= mean <= one.high for one in uniform]) == pytest.approx(0.95, abs=0.024)
