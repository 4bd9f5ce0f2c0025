"""Probes by minibatches against the exact solution, on parts of a whole."""

import numpy as np

from visprobe.metrics.classifiers.logistic import logistic_path
from visprobe.metrics.classifiers.minibatch_logistic import minibatch_logistic
from visprobe.metrics.classifiers.select_c import stratified_split


def test_it_agrees_with_the_exact_solution_to_half_a_point() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(5), 160)
    means, scale = rng.standard_normal((5, 24)), np.arange(1, 25) ** -0.5

    def features(classes):
        return ((0.9 * means[classes] + rng.standard_normal((len(classes), 24))) * scale * 7 + 3).astype(np.float32)

    x, fresh = features(labels), features(np.tile(np.arange(5), 800))
    truth, unit = np.tile(np.arange(5), 800), x.var(0).mean()
    cs = [1e-3, 1e-2, 1e-1, 1.0]
    found = minibatch_logistic([x[:300], x[300:310], x[310:]], labels, cs, stratified_split(labels, 0.2, 0)[1])
    [exact] = logistic_path(x, labels, [found.c / unit])
    ours = ((fresh @ found.weights.T + found.intercept).argmax(1) == truth).mean()
    assert abs(ours - (exact.classes(fresh) == truth).mean()) <= 0.005
    assert ours > 0.7 and set(found.accuracies) >= {(found.c, found.rate)}
