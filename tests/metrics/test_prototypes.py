import numpy as np
import pytest
from numpy.typing import NDArray

from visprobe.metrics.classifiers import prototypes
from visprobe.metrics.classifiers.prototypes import ranks_from_support, ranks_leaving_one_out
from visprobe.metrics.intervals.proportions import wilson

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def clusters(classes: int, each: int, d: int, spread: float, seed: int = 0) -> tuple[Array, Labels]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    means = np.random.default_rng(99).standard_normal((classes, d))
    order = rng.permutation(len(labels))
    return (means[labels] + spread * rng.standard_normal((len(labels), d)))[order], labels[order]


def brute_force_rank(row: Array, label: int, rest: Array, rest_labels: Labels) -> int:
    scores = [float(unit(row) @ unit(unit(rest[rest_labels == c]).mean(0))) for c in range(int(rest_labels.max()) + 1)]
    return sum(score > scores[label] for score in scores)


@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0])
def test_leave_one_out_closed_form_equals_brute_force(spread: float) -> None:
    features, labels = clusters(7, 5, 12, spread)
    expected = [
        brute_force_rank(features[i], int(labels[i]), np.delete(features, i, 0), np.delete(labels, i))
        for i in range(len(labels))
    ]
    assert ranks_leaving_one_out(features, labels).tolist() == expected


def test_disjoint_support_equals_brute_force_for_any_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    query, labels = clusters(6, 4, 10, 3.0, seed=1)
    support, support_labels = clusters(6, 5, 10, 3.0, seed=2)
    expected = [brute_force_rank(q, int(c), support, support_labels) for q, c in zip(query, labels, strict=True)]
    for chunk in (1, 7, 4096):
        monkeypatch.setattr(prototypes, "_CHUNK", chunk)
        assert ranks_from_support(query, labels, support, support_labels).tolist() == expected


def test_separable_classes_are_all_right() -> None:
    features, labels = clusters(20, 6, 64, 0.05)
    assert not ranks_leaving_one_out(features, labels).any()
    assert not ranks_from_support(features, labels, *clusters(20, 3, 64, 0.05, seed=5)).any()


def leaky_ranks(features: Array, labels: Labels) -> Labels:
    """The published script's protocol: prototypes hold the images they are tried on."""
    rows = unit(features)
    means = np.stack([rows[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
    scores = rows @ means.T
    return (scores > scores[np.arange(len(labels)), labels][:, None]).sum(1)


def test_gaussian_noise_scores_chance_and_only_the_leaky_protocol_beats_it() -> None:
    rng = np.random.default_rng(0)
    labels, noise = np.repeat(np.arange(200), 20), rng.standard_normal((4000, 512))
    honest = {
        "leave-one-out": ranks_leaving_one_out(noise, labels),
        "disjoint": ranks_from_support(noise, labels, rng.standard_normal((4000, 512)), labels),
    }
    for ranks in honest.values():
        low, high = wilson(int((ranks < 1).sum()), 4000, level=0.999)  # a fixed seed; 1 in 1000 seeds would miss
        assert low <= 1 / 200 <= high
    assert (leaky_ranks(noise, labels) < 1).mean() > 0.5


def test_shuffled_labels_score_chance() -> None:
    features, labels = clusters(10, 100, 32, 0.5)
    shuffled = np.random.default_rng(1).permutation(labels)
    assert (ranks_leaving_one_out(features, labels) < 1).mean() > 0.95
    low, high = wilson(int((ranks_leaving_one_out(features, shuffled) < 1).sum()), 1000, level=0.999)
    assert low <= 0.1 <= high


@pytest.mark.parametrize("features", [np.ones((12, 5), np.float32), np.zeros((12, 5)), np.full((12, 5), 0.1)])
def test_a_collapsed_encoder_scores_exactly_chance(features: Array) -> None:
    labels = np.tile(np.arange(4), 3)
    # All classes tie, and the smaller index wins: class 0 is right, class 1 is second, and so on.
    assert ranks_leaving_one_out(features, labels).tolist() == labels.tolist()
    assert ranks_from_support(features, labels, features, labels).tolist() == labels.tolist()


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e-200, 1e200])
def test_scale_does_not_matter(scale: float) -> None:
    features, labels = clusters(5, 6, 8, 2.0)
    np.testing.assert_array_equal(
        ranks_leaving_one_out(features, labels), ranks_leaving_one_out(features * scale, labels)
    )


def test_order_of_images_does_not_matter() -> None:
    features, labels = clusters(5, 6, 8, 2.0)
    order = np.random.default_rng(3).permutation(len(labels))
    expected = ranks_leaving_one_out(features, labels)[order]
    np.testing.assert_array_equal(ranks_leaving_one_out(features[order], labels[order]), expected)


def test_classes_without_enough_images_are_refused() -> None:
    features, labels = np.eye(5), np.array([0, 0, 1, 1, 2])
    with pytest.raises(ValueError, match="two images"):
        ranks_leaving_one_out(features, labels)
    with pytest.raises(ValueError, match="no prototype"):
        ranks_from_support(features, labels, features[:4], labels[:4])
    with pytest.raises(ValueError, match="every class"):
        ranks_from_support(features, labels, features[:2], np.array([0, 2]))
