import math

import numpy as np
import pytest
from numpy.typing import NDArray

from visprobe.metrics.intervals.estimate import CKA, Estimate
from visprobe.metrics.similarity import cka
from visprobe.metrics.similarity.cka import debiased_cka, replicate_cka, represent

Array = NDArray[np.float64]


def ends_of(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def kornblith_pair() -> tuple[Array, Array]:
    legacy = np.random.RandomState(1337)  # the seed and generator of Kornblith's published notebook
    x = legacy.randn(100, 10)
    return x, legacy.randn(100, 10) + x


def song_cka(x: Array, y: Array) -> float:
    """Three-term unbiased HSIC of Song et al. 2012 on uncentred Gram matrices, written out."""

    def hsic(k: Array, m: Array) -> float:
        n, ones = len(k), np.ones(len(k))
        total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return float((total - 2 * (ones @ k @ m @ ones) / (n - 2)) / (n * (n - 3)))

    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def u_centred_cka(x: Array, y: Array) -> float:
    """Szekely & Rizzo 2014: inner products of U-centred Gram matrices."""

    def u_centre(k: Array) -> Array:
        n = len(k)
        np.fill_diagonal(k, 0)
        rows = k.sum(0) / (n - 2)
        centred = k - rows[:, None] - rows[None, :] + k.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(centred, 0)
        return centred

    k, m = u_centre(x @ x.T), u_centre(y @ y.T)
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


def related(n: int, d: int, e: int, noise: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5
    return x, x @ rng.standard_normal((d, e)) / math.sqrt(d) + noise * rng.standard_normal((n, e)) / math.sqrt(e)


def test_golden_values_of_the_published_notebook() -> None:
    x, y = kornblith_pair()
    assert debiased_cka(x, y).value == pytest.approx(0.513456489506, rel=1e-9)  # the notebook prints 12 digits
    # The notebook's HSIC is on features without our rescaling to mean squared norm 1.
    scale = np.prod([np.linalg.norm(a - a.mean(0)) ** 2 / len(a) for a in (x, y)])
    cross = debiased_cka(x, y).value * math.sqrt(represent(x).own_hsic.value * represent(y).own_hsic.value)
    assert cross * scale * 100 * 97 == pytest.approx(95990.7711343, rel=1e-9)  # 12 digits


@pytest.mark.parametrize(("n", "d", "e"), [(5, 3, 2), (60, 7, 19), (200, 32, 32), (30, 90, 50), (30, 90, 8)])
def test_feature_form_gram_form_and_both_textbook_forms_agree(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    value = debiased_cka(x, y).value
    # float64 sums of n * d products; the two textbook forms differ from each other by as much.
    assert value == pytest.approx(song_cka(x, y), abs=1e-10)
    assert value == pytest.approx(u_centred_cka(x, y), abs=1e-10)


@pytest.mark.parametrize(("n", "d", "e"), [(6, 3, 2), (40, 6, 11), (25, 60, 30)])
def test_closed_form_replicates_equal_brute_force(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    without = [song_cka(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(n)]
    replicates = replicate_cka(represent(x), represent(y)).without
    np.testing.assert_allclose(replicates, without, atol=1e-10)  # float64 rounding, as above


def test_jackknife_is_the_textbook_formula() -> None:
    x, y = kornblith_pair()
    statistic = replicate_cka(represent(x), represent(y))
    pseudo = 100 * statistic.value - 99 * statistic.without
    student, interval = statistic.student, statistic.estimate(CKA)
    # Equal in exact arithmetic: the standard error is that of the mean of the pseudo-values.
    assert student.error == pytest.approx(pseudo.std(ddof=1) / 10, rel=1e-10)
    assert interval.high - interval.value == pytest.approx(1.9842169516 * student.error, rel=1e-9)  # t(99)


def test_identical_features_give_exactly_one() -> None:
    x, _ = kornblith_pair()
    result = debiased_cka(x, x)
    assert (result.value, result.low, result.high) == pytest.approx((1, 1, 1), abs=1e-12)  # float64 rounding


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_scale_translation_and_rotation_do_not_matter(scale: float) -> None:
    x, y = related(80, 12, 12)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    expected, moved = debiased_cka(x, y), debiased_cka(scale * x, (y @ rotation + 3.0) / scale)
    # The translation costs three digits of sixteen.
    assert ends_of(moved) == pytest.approx(ends_of(expected), abs=1e-11)


def test_a_common_offset_in_float32_does_no_harm() -> None:
    x, y = (a.astype(np.float32) for a in related(200, 64, 64))
    plain, shifted = debiased_cka(x, y).value, debiased_cka(x + np.float32(100), y + np.float32(100)).value
    # At 100 float32 is spaced 8e-6, features are about 0.1: relative noise 1e-4 / sqrt(12), averaged over 200 x 64.
    assert shifted == pytest.approx(plain, abs=1e-5)


def test_permuted_rows_destroy_the_score() -> None:
    x, y = related(300, 16, 16, noise=0.3)
    order = np.random.default_rng(0).permutation(300)
    whole, broken = debiased_cka(x, y), debiased_cka(x, y[order])
    assert whole.value > 0.5
    assert abs(broken.value) < 0.05
    assert ends_of(debiased_cka(x[order], y[order])) == pytest.approx(
        ends_of(whole), abs=1e-10
    )  # same set, other order of sums


@pytest.mark.sample(1)
@pytest.mark.parametrize(("n", "d"), [(50, 20), (40, 200)])
def test_unrelated_features_average_zero(n: int, d: int) -> None:
    rng = np.random.default_rng(3)
    values = [debiased_cka(rng.standard_normal((n, d)), rng.standard_normal((n, d))).value for _ in range(200)]
    # Three standard errors: a fixed seed, so the 0.3 % of unlucky seeds cannot flicker.
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(200)


def population(noise: float, spectrum: Array) -> float:
    """CKA of x = z * spectrum and y = x + noise * e * spectrum reversed, for unit-variance independent z, e."""
    own_x, own_y = spectrum**2, spectrum**2 + noise**2 * spectrum[::-1] ** 2
    return float((own_x**2).sum() / math.sqrt((own_x**2).sum() * (own_y**2).sum()))


def coverage(noise: float, repeats: int, heavy: bool = False) -> float:
    rng = np.random.default_rng(1)
    spectrum = np.arange(1, 33) ** -0.5
    hits = 0
    for _ in range(repeats):
        # A log-normal radius shared by all units of an image, with mean square 1: heavy tails, same covariance.
        radius = np.exp(0.5 * rng.standard_normal((200, 1)) - 0.5 * 0.5) if heavy else 1.0
        x = rng.standard_normal((200, 32)) * radius * spectrum
        y = x + noise * rng.standard_normal((200, 32)) * spectrum[::-1]
        result = debiased_cka(x, y)
        hits += result.low <= population(noise, spectrum) <= result.high
    return hits / repeats


@pytest.mark.sample(1)
@pytest.mark.parametrize("noise", [0.01, 0.3, 1.0])  # true CKA 0.99998, 0.98, 0.66
def test_interval_covers_the_truth(noise: float) -> None:
    # 2000 draws: standard error 0.5 points, three of them.
    assert 0.935 <= coverage(noise, 2000) <= 0.965


@pytest.mark.thorough
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.1, 0.3, 0.6, 1.0])
def test_interval_covers_the_truth_in_the_long_run(noise: float) -> None:
    assert 0.935 <= coverage(noise, 3000) <= 0.965  # standard error 0.4 points
    assert 0.90 <= coverage(noise, 3000, heavy=True) <= 0.965  # the jackknife is known to be short on heavy tails


def test_difference_of_two_descendants_uses_the_same_images() -> None:
    x, near = related(150, 16, 16, noise=0.2, seed=4)
    far = near + 0.05 * np.random.default_rng(5).standard_normal(near.shape)
    base = represent(x)
    first, second = (replicate_cka(base, represent(a)) for a in (near, far))
    difference = first - second
    paired = difference.estimate(CKA.of_differences)
    assert paired.value == pytest.approx(first.value - second.value, abs=1e-15)  # one subtraction
    independent = math.hypot(first.student.error, second.student.error)
    assert difference.student.error < 0.5 * independent
    assert paired.low < paired.value < paired.high


def test_difference_of_a_statistic_with_itself_is_exactly_zero() -> None:
    x, y = related(30, 5, 5)
    statistic = replicate_cka(represent(x), represent(y))
    nothing = statistic - statistic
    assert nothing.student.error == 0
    assert nothing.estimate(CKA) == Estimate(0.0, 0.0, 0.0, 30, "CKA", "delete-one jackknife 95 %")


def one_outlier() -> Array:
    features = np.zeros((10, 3))
    features[0] = 1
    return features


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones((4, 3)), "n >= 5"),
        (np.ones(10), "shape"),
        (np.full((10, 3), 0.1), "no variance"),
        (np.zeros((10, 3)), "no variance"),
        (np.where(np.arange(30).reshape(10, 3) == 4, np.nan, 1.0), "NaN"),
        (one_outlier(), "single image"),
    ],
)
def test_features_without_a_defined_cka_are_refused(features: Array, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        debiased_cka(features, features)


def test_unequal_numbers_of_images_are_refused() -> None:
    x, _ = kornblith_pair()
    with pytest.raises(ValueError, match="100 images against 99"):
        debiased_cka(x, x[1:])


@pytest.mark.parametrize("scale", [1.0, 1e-160, 1e150])
def test_blocks_give_what_the_whole_gives(monkeypatch, scale):
    draws = np.random.default_rng(7)
    x, y = (scale * (draws.standard_normal((90, width)) + 5) for width in (12, 7))
    whole = replicate_cka(represent(x), represent(y))
    monkeypatch.setattr(cka, "_BLOCK", 16)
    parts = replicate_cka(represent(x), represent(y))
    # The same sums in another order.
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    np.testing.assert_allclose(parts.without, whole.without, rtol=1e-11)
    for wrong, message in ((np.full((40, 3), 0.1), "no variance"), (np.where(np.eye(40, 3), np.nan, 1), "NaN")):
        with pytest.raises(ValueError, match=message):
            represent(wrong)
