"""Neighbour search, mutual kNN, CKNNA and TwoNN against brute force, scikit-learn, golden values and nulls."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from visprobe.metrics.classifiers import neighbours
from visprobe.metrics.classifiers.neighbours import first_within, nearest
from visprobe.metrics.geometry.intrinsic_dimension import two_nn
from visprobe.metrics.intervals.estimate import FRACTION, Scale
from visprobe.metrics.intervals.half_sampling import half_splits
from visprobe.metrics.similarity.neighbour_overlap import cknna, mutual_knn

Array = NDArray[np.float64]


def pair(n: int = 100, d: int = 10, seed: int = 1337) -> tuple[Array, Array]:
    legacy = np.random.RandomState(seed)  # the default is that of Kornblith's published notebook
    x = legacy.randn(n, d)
    return x, legacy.randn(n, d) + x


@pytest.mark.parametrize("backend", ["numpy", "faiss"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_search_finds_the_ids_of_scikit_learn(backend: str, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(neighbours, "_CHUNK", 70)
    x = pair(300, 24)[0].astype(dtype)
    reference = NearestNeighbors(n_neighbors=9, metric="cosine", algorithm="brute").fit(x.astype(np.float64))
    np.testing.assert_array_equal(nearest(x, 8, backend), reference.kneighbors(return_distance=False)[:, :8])


def test_faiss_and_numpy_agree_on_duplicates_and_differences_below_float32() -> None:
    pytest.importorskip("faiss")
    x = np.repeat(pair(12, 6)[0], 30, axis=0)  # 30 ties for every image, more than are asked of faiss
    x[::2] *= 1 + 1e-9
    near = np.ones((60, 4)) + 1e-9 * pair(60, 4)[0]  # float32 sees one direction only
    for features in (x, near):
        np.testing.assert_array_equal(nearest(features, 5, "faiss"), nearest(features, 5, "numpy"))
    # Of equal directions the smaller index comes first, and never the image itself.
    assert nearest(x, 5)[:2].tolist() == [[1, 2, 3, 4, 5], [0, 2, 3, 4, 5]]


def test_neighbours_within_a_subset_are_those_of_a_search_in_it() -> None:
    x = pair(80, 5)[0]
    lists, images = nearest(x, 79), np.arange(0, 80, 2)
    within = np.take_along_axis(lists[images], first_within(lists, images, 6), 1)
    np.testing.assert_array_equal(within, images[nearest(x[images], 6)])
    with pytest.raises(ValueError, match="do not hold"):
        first_within(lists[:, :5], images, 5)


def test_mutual_knn_golden_value_and_brute_force() -> None:
    x, y = pair()
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    lists = [[set(np.argsort(-(u @ u[i]))[1:11]) for i in range(100)] for u in unit]
    expected = [len(a & b) / 10 for a, b in zip(*lists, strict=True)]
    assert mutual_knn(x, y, 10).value == pytest.approx(0.279, rel=1e-12)  # a share of 1,000
    assert np.mean(expected) == pytest.approx(0.279, rel=1e-12)


def shared(left: NDArray[np.intp], right: NDArray[np.intp]) -> float:
    """Mean share of common entries in the rows of two lists of neighbours."""
    return float(np.mean([len({*a} & {*b}) / len(a) for a, b in zip(left, right, strict=True)]))


def test_halves_of_the_images_count_seven_neighbours_for_ten() -> None:
    x, y = pair(80, 8)
    rng = np.random.default_rng(2)
    for found in mutual_knn(x, y, 10, splits=5, seed=2).differences:
        halves = (np.sort(ids) for ids in np.split(rng.permutation(80), 2))
        first, second = (shared(nearest(x[ids], 7), nearest(y[ids], 7)) for ids in halves)
        assert found == pytest.approx((first - second) / 2, abs=1e-15)  # means of counts


def test_mutual_knn_ends_null_and_invariance() -> None:
    x, y = pair(400, 12)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0]
    equal = mutual_knn(x, x).estimate(FRACTION)
    assert (equal.value, equal.low, equal.high) == (1, 1, 1)
    assert mutual_knn(1e-6 * x, y @ turn).value == pytest.approx(mutual_knn(x, y).value, abs=1e-12)
    null = mutual_knn(x, y[::-1]).estimate(FRACTION, level=0.999)  # a fixed seed; 1 in 1000 would miss
    assert null.low < 10 / 399 < null.high
    same = (mutual_knn(x, y) - mutual_knn(x, y)).student
    assert (same.value, same.error) == (0, 0)


@pytest.mark.parametrize("k", [3, 10, 99])
def test_cknna_is_the_printed_formula(k: int) -> None:
    x, y = pair()
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y)]
    kernels = [u @ u.T for u in unit]
    masks = []
    for kernel in kernels:
        ranked = np.argsort(-np.where(np.eye(100), -np.inf, kernel), axis=1)[:, :k]
        mask = np.zeros((100, 100))
        np.put_along_axis(mask, ranked, 1, axis=1)
        masks.append(mask)
    a, b = (kernel - kernel.mean(1, keepdims=True) for kernel in kernels)
    own = (masks[0] * a * a).sum() * (masks[1] * b * b).sum()
    assert cknna(x, y, k) == pytest.approx((masks[0] * masks[1] * a * b).sum() / math.sqrt(own), rel=1e-12)


def test_cknna_of_equal_and_of_unrelated_features() -> None:
    x, y = pair(400, 12)
    assert cknna(x, 5 * x) == pytest.approx(1, abs=1e-12)
    assert cknna(x, y[::-1]) < 0.1 < cknna(x, y)
    with pytest.raises(ValueError, match="one direction"):
        cknna(np.ones((20, 3)), y[:20], 5)


def test_two_nn_golden_values() -> None:
    found = two_nn(pair()[0])
    assert found.value == pytest.approx(8.243116236532, rel=1e-9)  # 13 digits
    assert found.value * 100 / 99 == pytest.approx(8.326380036901, rel=1e-9)


def test_two_nn_of_flat_sheets_duplicates_offset_and_low_precision() -> None:
    rng = np.random.default_rng(0)
    flat = rng.random((1500, 2)) @ rng.standard_normal((2, 40))
    found = two_nn(flat)
    interval = found.estimate(Scale("dimensions", low=0))
    assert interval.low <= 2 <= interval.high
    again = two_nn(np.concatenate([1e-5 * flat, 1e-5 * flat[:100]]))
    assert again.n == 1500  # and 100 copies
    assert again.value == pytest.approx(found.value, rel=1e-9)
    assert two_nn(flat + 1e4).value == pytest.approx(found.value, rel=1e-6)  # the offset costs 5 digits of distances
    with pytest.raises(ValueError, match="six distinct images, got 2"):
        two_nn(np.repeat(np.eye(2), 5, axis=0))
    with pytest.raises(ValueError, match="equally far"):
        two_nn(np.eye(12))


def test_two_nn_of_equal_geometry_differs_by_nothing() -> None:
    x = pair(200, 6)[0]
    one, other = two_nn(x), two_nn(-3 * x[:, ::-1] + 1)
    # The same halves of the same images, whatever order their features sort in; rounding of distances.
    np.testing.assert_allclose((one - other).differences, 0, atol=1e-9)


def torus(rng: np.random.Generator, n: int, d: int) -> Array:
    """A flat manifold of dimension d without an edge, on which TwoNN has no bias from the edge."""
    angles = rng.random((n, d)) * 2 * math.pi
    return np.hstack([np.cos(angles), np.sin(angles)])


@pytest.mark.thorough
def test_intervals_from_halves_cover() -> None:
    rng = np.random.default_rng(3)
    overlap, dimension = [], []
    for seed in range(400):
        x = rng.standard_normal((300, 8)) * np.arange(1, 9) ** -0.5
        y = x + 0.5 * rng.standard_normal((300, 8)) * np.arange(8, 0, -1) ** -0.5
        overlap.append(mutual_knn(x, y, 10, seed=seed).estimate(FRACTION))
        dimension.append(two_nn(torus(rng, 300, 2)).estimate(Scale("dimensions", low=0)))
    truth = np.mean([one.value for one in overlap])  # the expectation at this n, known to a 20th of the interval
    shares = [np.mean([one.low <= truth <= one.high for one in overlap])]
    shares.append(np.mean([one.low <= 2 <= one.high for one in dimension]))
    assert min(shares) >= 0.95 - 3 * 0.011  # 400 draws: standard error 1.1 points
    assert max(shares) <= 0.995


def test_halves_of_a_mean_have_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    halved = half_splits(lambda ids: float(values[ids].mean()), 1000, splits=400)
    # 400 splits of a linear statistic: the error is known to 1 / sqrt(2 * 400) = 3.5 %; three of these.
    assert halved.student.error == pytest.approx(values.std(ddof=1) / math.sqrt(1000), rel=0.106)
    with pytest.raises(ValueError, match="two splits"):
        half_splits(len, 100, splits=1)
    with pytest.raises(ValueError, match="in 400 splits against"):
        _ = halved - half_splits(len, 100)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.ones(10), "shape"),
        (np.ones((5, 3)), "n >= 6"),
        (np.zeros((10, 3)), "image 0 are all zero"),
        (np.full((10, 3), np.inf), "infinity"),
    ],
)
def test_a_search_refuses_what_has_no_neighbours(features: Array, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nearest(features, 5)
    with pytest.raises(ValueError, match="99"):
        cknna(np.ones((99, 2)), np.ones((98, 2)))
    with pytest.raises(ValueError, match="half of 20 images"):
        mutual_knn(np.ones((20, 2)), np.ones((20, 2)), 10)
