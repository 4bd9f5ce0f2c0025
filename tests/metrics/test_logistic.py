"""Logistic regression against scikit-learn's exact solver, its own gradient, planted truth and noise."""

import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from visprobe.metrics.classifiers import newton
from visprobe.metrics.classifiers.logistic import NotConverged, logistic_fits, logistic_path, multilabel_path, prepared
from visprobe.metrics.classifiers.select_c import AtBoundary, select_c, stratified_split
from visprobe.metrics.intervals.proportions import wilson

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def problem(n: int, d: int, classes: int, offset: float = 0.0, seed: int = 0) -> tuple[Array, Labels]:
    """Overlapping classes in features with a power-law spectrum and, where asked, a mean far from zero."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    scale = np.arange(1, d + 1) ** -0.5
    means = np.random.default_rng(99).standard_normal((classes, d))
    return (0.7 * means[labels] + rng.standard_normal((n, d))) * scale + offset, labels


def chances(logits: Array) -> Array:
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares


def digits() -> tuple[Array, Labels]:
    data = load_digits()
    return data.data, data.target.astype(np.int64)


@pytest.mark.parametrize(
    ("features", "labels"),
    [problem(300, 12, 5), problem(200, 8, 2), problem(60, 80, 6), problem(300, 12, 4, offset=20.0), digits()],
    ids=["five classes", "two classes", "more features than images", "far from zero", "handwritten digits"],
)
def test_chances_are_those_of_scikit_learn_all_along_the_path(features: Array, labels: Labels) -> None:
    cs = [1e-3, 0.1, 3.0]
    for c, fit in zip(cs, logistic_path(features, labels, cs, tolerance=1e-7), strict=True):
        # An exact Newton solver of another kind; lbfgs would stop at 1e-5.
        reference = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(features, labels)
        assert fit.converged
        # Chances are off by about the tolerance of 1e-7, times ten for the worst image.
        np.testing.assert_allclose(chances(fit.logits(features)), reference.predict_proba(features), atol=1e-6)
        assert fit.weights.shape == reference.coef_.shape
        assert abs((fit.classes(features) == labels).mean() - reference.score(features, labels)) <= 1e-3


@pytest.mark.parametrize("chunk", [7, 2048])
def test_the_gradient_of_the_objective_vanishes(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_CHUNK", chunk)
    x, labels = problem(150, 10, 4)
    for dtype in (np.float16, np.float32, np.float64):
        features = x.astype(dtype)
        features.setflags(write=False)  # as those of a feature store
        fit = logistic_path(features, labels, [1e-2, 1.0], tolerance=1e-9)[1]
        exact = features.astype(np.float64)
        wrong = chances(exact @ fit.weights.T + fit.intercept) - np.eye(4)[labels]
        np.testing.assert_allclose(wrong.T @ exact + fit.weights, 0, atol=1e-6)  # sums of 150 terms of size 1
        np.testing.assert_allclose(wrong.sum(0), 0, atol=1e-6)


def test_separable_classes_converge_at_any_c() -> None:
    features, labels = problem(200, 50, 4)
    cs = [10.0**power for power in range(-6, 6)]
    path = logistic_path(10 * features, labels, cs)
    assert all(fit.converged for fit in path)
    assert (path[-1].classes(10 * features) == labels).all()
    assert path[-1].loss < 1e-3 < path[0].loss < np.log(4)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_features_in_another_unit_give_the_same_chances_at_the_c_of_that_unit(scale: float) -> None:
    features, labels = problem(200, 10, 4)
    (fit,) = logistic_path(features, labels, [0.5], tolerance=1e-7)
    (other,) = logistic_path(features * scale, labels, [0.5 / scale**2], tolerance=1e-7)
    np.testing.assert_allclose(other.weights * scale, fit.weights, atol=1e-6)  # the tolerance over the least curvature
    np.testing.assert_array_equal(logistic_path(0 * features, labels, [1.0])[0].weights, 0)


def test_a_fit_that_stops_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_STEPS", 1)
    features, labels = problem(200, 10, 4)
    with pytest.warns(NotConverged, match="C = 100"):
        assert not logistic_path(features, labels, [100.0])[0].converged


def test_labels_are_fitted_apart_as_scikit_learn_fits_each() -> None:
    features, _ = problem(250, 12, 3)
    rng = np.random.default_rng(1)
    targets = features @ rng.standard_normal((12, 5)) + rng.standard_normal((250, 5)) > 1.0
    (fit,) = multilabel_path(features, targets, [0.5], tolerance=1e-7)
    for label, truth in enumerate(targets.T):
        reference = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-10).fit(features, truth)
        ours = 1 / (1 + np.exp(-fit.logits(features)[:, label]))
        np.testing.assert_allclose(ours, reference.predict_proba(features)[:, 1], atol=1e-6)  # as above
    with pytest.raises(ValueError, match="no row"):
        multilabel_path(features, targets & False, [0.5])


def test_c_is_chosen_inside_the_training_images_and_the_refit_has_all_of_them() -> None:
    features, labels = problem(400, 20, 4)
    cs = [1e-4, 1e-2, 1.0, 100.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AtBoundary)
        chosen = select_c(features, labels, cs, tolerance=1e-7)
    kept, out = stratified_split(labels, 0.2, 0)
    path = logistic_path(features[kept], labels[kept], cs)
    assert chosen.accuracies == tuple((fit.classes(features[out]) == labels[out]).mean() for fit in path)
    assert chosen.fit.c == cs[int(np.argmax(chosen.accuracies))]
    cold = logistic_path(features, labels, [chosen.fit.c], tolerance=1e-7)[0]
    np.testing.assert_allclose(chosen.fit.weights, cold.weights, atol=1e-5)  # the tolerance over the least curvature
    assert np.bincount(labels[out]).tolist() == [20] * 4
    with pytest.warns(AtBoundary, match="1e-06"):
        select_c(features, labels, [1e-6, 1e-5, 1e-4])


def test_noise_is_at_chance_and_the_ceiling_is_reached() -> None:
    rng = np.random.default_rng(0)
    labels, noise = np.repeat(np.arange(20), 30), rng.standard_normal((600, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AtBoundary)
        fit = select_c(noise, labels, [1e-3, 1e-1, 10.0]).fit
        clear = select_c(20 * np.eye(64)[labels] + noise, labels, [1e-3, 1e-1, 10.0]).fit
    fresh = rng.standard_normal((6000, 64))
    low, high = wilson(int((fit.classes(fresh) == np.arange(6000) % 20).sum()), 6000, level=0.999)
    assert low <= 1 / 20 <= high  # a fixed seed; 1 in 1000 would miss
    assert (clear.classes(20 * np.eye(64)[np.arange(6000) % 20] + fresh) == np.arange(6000) % 20).all()


def test_what_cannot_be_fitted_is_refused() -> None:
    features, labels = problem(40, 3, 4)
    for cs in ([], [0.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match="positive and rising"):
            logistic_path(features, labels, cs)
    for wrong in (labels[:-1], labels + 1, 0 * labels):
        with pytest.raises(ValueError, match="each with an image"):
            logistic_path(features, wrong, [1.0])
    with pytest.raises(ValueError, match="finite"):
        logistic_path(np.where(labels[:, None] == 1, np.nan, features), labels, [1.0])
    with pytest.raises(ValueError, match="two images"):
        stratified_split(np.array([0, 0, 1]), 0.2, 0)


def test_a_path_is_not_left_where_accuracy_stands_still_before_it_rises() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 100)
    features = 0.02 * np.eye(3)[labels] + 0.005 * rng.standard_normal((300, 3))
    features = np.hstack([3 * rng.standard_normal((300, 1)), features])  # what tells apart is small beside the rest
    cs = [10.0**power for power in range(-4, 7)]
    chosen = select_c(features, labels, cs, tolerance=1e-4)  # at 1e-3 an image on the border may fall either way
    assert max(chosen.accuracies) > 0.95 and chosen.fit.c > 10
    assert len(set(chosen.accuracies[:3])) == 1 and chosen.accuracies[0] < 0.6


def test_features_made_ready_once_serve_other_labels_and_the_first_rows_alone() -> None:
    for n, d in ((90, 6), (40, 70)):
        features, labels = problem(n, d, 3)
        path = prepared(features)
        assert path.variance == pytest.approx(features.var(0).mean())
        for labelled in (labels, labels[::-1].copy()):
            [ours] = logistic_fits(path, labelled, [0.3], 1e-7)
            [alone] = logistic_path(features, labelled, [0.3], 1e-7)
            np.testing.assert_array_equal(ours.weights, alone.weights)
        [part] = logistic_fits(path.first(n - 10), labels[: n - 10], [0.3], 1e-7)
        [alone] = logistic_path(features[: n - 10], labels[: n - 10], [0.3], 1e-7)
        np.testing.assert_allclose(part.weights, alone.weights, atol=1e-6)  # the tolerance over the least curvature
