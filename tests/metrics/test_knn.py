"""Votes of neighbours against scikit-learn, by hand, and on noise."""

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from visprobe.metrics.classifiers import neighbours
from visprobe.metrics.classifiers.knn import knn_classes, knn_classes_leaving_one_out
from visprobe.metrics.classifiers.neighbours import nearest_scored
from visprobe.metrics.intervals.proportions import wilson

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def clusters(n: int, d: int, classes: int, seed: int) -> tuple[Array, Labels]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    means = np.random.default_rng(99).standard_normal((classes, d))
    return means[labels] + 2 * rng.standard_normal((n, d)), labels


def reference(x: Array, labels: Labels, k: int) -> KNeighborsClassifier:
    def weight(distance: Array) -> Array:
        votes: Array = np.exp((1 - distance) / 0.07)
        return votes

    return KNeighborsClassifier(k, weights=weight, metric="cosine", algorithm="brute").fit(x, labels)


@pytest.mark.parametrize("backend", ["numpy", "faiss"])
def test_votes_are_those_of_scikit_learn(backend: Literal["numpy", "faiss"], monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "faiss":
        pytest.importorskip("faiss")
    for bound in ("_SCORES", "_GATHERED"):
        monkeypatch.setattr(neighbours, bound, 20_000)
    support, labels = clusters(400, 16, 7, 0)
    query = clusters(150, 16, 7, 1)[0].astype(np.float32)
    found = knn_classes(query, support, labels, (1, 5, 20, 100), backend=backend)
    for k, classes in found.items():
        np.testing.assert_array_equal(classes, reference(support, labels, k).predict(query.astype(np.float64)))
    ids, similar = nearest_scored(query, 5, backend, support)
    exact = query.astype(float) / np.linalg.norm(query.astype(float), axis=1, keepdims=True)
    cosines = exact @ (support / np.linalg.norm(support, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(ids, np.argsort(-cosines, axis=1)[:, :5])
    np.testing.assert_allclose(similar, np.take_along_axis(cosines, ids, 1), atol=1e-14)  # rounded to 14 digits


def test_leaving_one_out_is_a_search_among_the_others() -> None:
    x, labels = clusters(80, 6, 4, 2)
    found = knn_classes_leaving_one_out(x, labels, (3, 10))
    for k, classes in found.items():
        for i in range(len(x)):
            rest = reference(np.delete(x, i, 0), np.delete(labels, i), k)
            assert classes[i] == rest.predict(x[i : i + 1])[0]


def test_a_vote_by_hand_and_ties_to_the_smaller_class() -> None:
    angles = np.radians([0.0, 30.0, 30.0, -30.0])
    support = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    query = np.array([[1.0, 0.0]])
    # exp(1 / 0.07) for one against 2 exp(0.866 / 0.07) for two: the nearest wins until the temperature is high.
    assert knn_classes(query, support, np.array([2, 1, 1, 0]), [3])[3].tolist() == [2]
    assert knn_classes(query, support, np.array([2, 1, 1, 0]), [3], temperature=1.0)[3].tolist() == [1]
    assert knn_classes(query, support[1:], np.array([1, 2, 0]), [3])[3].tolist() == [0]
    assert knn_classes(query, support[1:], np.array([1, 2, 0]), [1])[1].tolist() == [1]
    assert knn_classes(query, support, np.array([2, 1, 1, 0]), [4], temperature=1e-4)[4].tolist() == [2]
    collapsed = np.ones((12, 5))
    assert set(knn_classes_leaving_one_out(collapsed, np.tile(np.arange(3), 4), [11])[11].tolist()) == {0, 1}


def test_noise_is_at_chance_and_the_ceiling_is_reached() -> None:
    rng = np.random.default_rng(0)
    labels, noise = np.repeat(np.arange(20), 50), rng.standard_normal((1000, 64))
    for classes in knn_classes_leaving_one_out(noise, labels, (10, 200)).values():
        low, high = wilson(int((classes == labels).sum()), 1000, level=0.999)  # a fixed seed; 1 in 1000 would miss
        assert low <= 1 / 20 <= high
    clear = knn_classes_leaving_one_out(20 * np.eye(64)[labels] + noise, labels, (10, 20))
    assert all((classes == labels).all() for classes in clear.values())


def test_what_has_no_votes_is_refused() -> None:
    x, labels = clusters(20, 4, 2, 0)
    with pytest.raises(ValueError, match="labels"):
        knn_classes(x, x, labels[:5], [3])
    with pytest.raises(ValueError, match="temperature"):
        knn_classes(x, x, labels, [3], temperature=0.0)
    with pytest.raises(ValueError, match="n >= 21"):
        knn_classes(x, x, labels, [21])
    with pytest.raises(ValueError, match="n >= 21"):
        knn_classes_leaving_one_out(x, labels, [20])
    with pytest.raises(ValueError, match="width"):
        knn_classes(x[:, :3], x, labels, [3])
