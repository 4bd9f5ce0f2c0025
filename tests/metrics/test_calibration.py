"""Calibration by hand, against scikit-learn and with planted over-confidence; draws of few labels."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from visprobe.metrics.classifiers.calibration import brier_scores, calibration_error, log_losses, probabilities
from visprobe.metrics.classifiers.label_draws import control_labels, label_draws
from visprobe.metrics.intervals.estimate import FRACTION


def test_calibration_error_by_hand() -> None:
    # Two bins of two: chances .5 .6 with one right, .8 .9 with both: (|1.1 - 1| + |1.7 - 2|) / 4.
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    assert calibration_error(chances, np.array([0, 1, 1, 1]), bins=2).value == pytest.approx(0.1, abs=1e-15)
    sure = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    perfect = calibration_error(sure, np.array([0, 1, 2, 0, 1, 2]), bins=3).estimate(FRACTION)
    assert (perfect.value, perfect.low, perfect.high) == (0, 0, 0)
    assert calibration_error(sure, np.array([1, 2, 0, 1, 2, 0]), bins=3).value == 1


def test_a_calibrated_classifier_is_near_zero_and_planted_over_confidence_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 10))
    chances = probabilities(logits)
    labels = (rng.random((20_000, 1)) > chances.cumsum(1)).sum(1)  # drawn from the chances themselves
    honest = calibration_error(chances, labels)
    assert honest.value < np.sqrt(15 / 20_000) / 2  # the bound stated in the docstring
    bold = probabilities(2 * logits)
    truth = float((bold.max(1) - (bold.argmax(1) == labels)).mean())  # every bin is over-confident
    found = calibration_error(bold, labels).estimate(FRACTION, level=0.999)
    assert found.low <= truth <= found.high
    assert found.value == pytest.approx(truth, abs=1e-3)  # bins may only add to the mean where signs differ
    change = (calibration_error(bold, labels) - honest).estimate(FRACTION.of_differences)
    assert change.low > 0


def test_equal_chances_are_cut_without_regard_to_the_order_of_the_images() -> None:
    labels = np.repeat([0, 1], 500)  # sorted by class: bins in this order would seem all wrong or all right
    chances = np.tile([0.5, 0.5], (1000, 1))
    assert calibration_error(chances, labels, bins=10).value < 0.1  # each bin of 100: 3 points of noise on average


def test_brier_and_log_loss_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.arange(60) % 4)
    logits = 3 * rng.standard_normal((60, 4))
    chances = probabilities(logits)
    expected = brier_score_loss(labels, chances, labels=[0, 1, 2, 3], scale_by_half=False)
    assert brier_scores(chances, labels).mean() == pytest.approx(expected, rel=1e-12)
    assert log_losses(logits, labels).mean() == pytest.approx(log_loss(labels, chances), rel=1e-12)
    two = logits[:, :1]
    np.testing.assert_allclose(probabilities(two)[:, 1], 1 / (1 + np.exp(-two[:, 0])), rtol=1e-14)
    np.testing.assert_array_equal(brier_scores(np.eye(2), np.array([0, 0])), [0, 2])
    np.testing.assert_array_equal(log_losses(np.array([[0.0, 1000.0]]), np.array([0])), [1000])


def test_predictions_that_are_none_are_refused() -> None:
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="logits"):
        brier_scores(np.full((4, 2), 3.0), labels)
    with pytest.raises(ValueError, match="do not fit"):
        log_losses(np.ones((4, 1)), labels + 1)
    with pytest.raises(ValueError, match="3 bins"):
        calibration_error(np.full((4, 2), 0.5), labels, bins=3)


def test_draws_are_balanced_nested_and_the_same_each_time() -> None:
    labels = np.random.default_rng(2).permutation(np.arange(600) % 10)
    draws = label_draws(labels, seeds=3)
    for size, sets in draws.items():
        assert all(np.bincount(labels[ids]).tolist() == [size] * 10 for ids in sets)
    for small, large in zip(draws[1], draws[50], strict=True):
        assert set(small) < set(large)
    assert len({tuple(ids) for ids in draws[5]}) == 3
    np.testing.assert_array_equal(label_draws(labels, [10], seeds=2)[10][1], draws[10][1])
    with pytest.raises(ValueError, match="61 images per class"):
        label_draws(labels, [61])
    with pytest.raises(ValueError, match="1 or more"):
        label_draws(labels, [0])


def test_control_labels_keep_the_counts_and_nothing_else() -> None:
    labels = np.repeat(np.arange(10), 100)
    control = control_labels(labels)
    assert np.bincount(control).tolist() == [100] * 10
    assert abs((control == labels).mean() - 0.1) < 0.03  # three standard errors of 1,000 draws at 1/10
    np.testing.assert_array_equal(control_labels(labels), control)
    assert (control_labels(labels, 1) != control).any()
