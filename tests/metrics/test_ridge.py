"""Ridge regression against scikit-learn, cross-validation by its definition, and planted weights."""

import numpy as np
import pytest
import sklearn.linear_model

from visprobe.metrics.classifiers.ridge import ridge


@pytest.mark.parametrize(("n", "d"), [(120, 15), (30, 60)])
def test_it_is_scikit_learns_at_the_penalty_that_cross_validation_prefers(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.5 + 3).astype(np.float32)
    y = x[:, :4] @ rng.standard_normal((4, 2)) + 0.5 * rng.standard_normal((n, 2))
    penalties = [0.01, 0.1, 1.0, 10.0, 100.0]
    fit = ridge(x, y, penalties)
    for penalty, error in zip(penalties, fit.errors, strict=True):
        reference = sklearn.linear_model.Ridge(alpha=penalty).fit(x.astype(float), y)
        centred = x.astype(float) - x.astype(float).mean(0)
        hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(d), centred.T) + 1 / n
        residual = y - reference.predict(x.astype(float))
        # Two ways to the same sums in float64, with condition numbers of up to 1e5.
        assert error == pytest.approx(np.mean(residual**2) / (1 - np.trace(hat) / n) ** 2, rel=1e-8)
        if penalty == fit.penalty:
            np.testing.assert_allclose(fit.predict(x), reference.predict(x.astype(float)), rtol=1e-8)
    assert fit.errors[penalties.index(fit.penalty)] == min(fit.errors)


def test_planted_weights_are_found_and_noise_asks_for_the_largest_penalty() -> None:
    rng = np.random.default_rng(1)
    x, weights = rng.standard_normal((500, 6)), rng.standard_normal((3, 6))
    fit = ridge(x, x @ weights.T + 7, [1e-9, 1.0, 1e3])
    assert fit.penalty == 1e-9
    np.testing.assert_allclose(fit.weights, weights, atol=1e-9)  # the penalty's own bias is 1e-9 / 500
    np.testing.assert_allclose(fit.intercept, 7, atol=1e-9)
    assert ridge(x, rng.standard_normal((500, 3)), [1e-3, 1.0, 1e4]).penalty == 1e4


def test_what_cannot_be_fitted_is_refused() -> None:
    for wrong in ((np.ones((5, 2)), np.ones((4, 1)), [1.0]), (np.ones((5, 2)), np.ones((5, 1)), [0.0])):
        with pytest.raises(ValueError, match="rows of features"):
            ridge(*wrong)
