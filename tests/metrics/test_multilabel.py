"""Average precision, ROC area and F1 of labels against scikit-learn, with ties and labels that never hold."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from visprobe.metrics.classifiers.multilabel import auroc, average_precision, f1


def test_they_are_scikit_learns_label_by_label_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, truth = np.round(rng.standard_normal((60, 7)), 1), rng.random((60, 7)) < 0.3
    for ours, theirs in ((average_precision, average_precision_score), (auroc, roc_auc_score)):
        expected = [theirs(t, s) for t, s in zip(truth.T, scores.T, strict=True)]
        np.testing.assert_allclose(ours(scores, truth), expected, atol=1e-12)  # float64 sums of 60 terms
    expected = [f1_score(t, s > 0) for t, s in zip(truth.T, scores.T, strict=True)]
    np.testing.assert_allclose(f1(scores, truth), expected, atol=1e-12)


def test_a_label_that_never_or_always_holds_is_not_defined() -> None:
    scores, truth = np.arange(12.0).reshape(6, 2), np.zeros((6, 2), dtype=bool)
    truth[:, 1] = True
    np.testing.assert_array_equal(average_precision(scores, truth), [np.nan, 1.0])
    np.testing.assert_array_equal(auroc(scores, truth), [np.nan, np.nan])
    assert np.isnan(f1(scores, truth)[0])
    with pytest.raises(ValueError, match="does not fit"):
        f1(scores, truth[:5])
