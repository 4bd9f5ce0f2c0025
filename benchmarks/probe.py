"""How fast logistic regression runs over a path of six C, against six cold fits of scikit-learn.

Features are like those of an encoder: a power-law spectrum of variances (1 / index), turned at random, and a mean that
holds half of the squared length, as in CLIP; 200 classes with planted means. One run fits:

- visprobe: `logistic_path`, float32 features, default tolerance (1e-3) and, with --tight, 1e-6
- scikit-learn: `LogisticRegression(C=c, max_iter=1000)` for each C from zero, float64 features, with its default
  tolerance (1e-4), with which its accuracy may still be off; with --tight also with 1e-5 and 1e-7

The loss of every fit is taken anew in float64; `excess` is how far it lies above the lowest of all. Accuracy is on
5,000 other images. Seconds are of the processor, so that other work on the machine counts little; the ways take turns,
--repeats times over, and ratios are of neighbours: their median is shown.

Run: python benchmarks/probe.py [--n 20000] [--d 768] [--classes 200] [--length 14] [--tight] [--threads 1]
    [--repeats 1]
"""

import argparse
import json
import os
import resource
import time
import warnings

from ratios import ratio

CS = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)


def features(n, options, seed):
    import numpy as np

    rng, world = np.random.default_rng(seed), np.random.default_rng(9)
    d, classes = options.d, options.classes
    labels = rng.permutation(np.arange(n) % classes)
    deviation = np.arange(1, d + 1) ** -0.5
    deviation /= np.linalg.norm(deviation)
    means = options.signal * world.standard_normal((classes, d)) * deviation
    turn = np.linalg.qr(world.standard_normal((d, d)))[0]
    rows = (means[labels] + rng.standard_normal((n, d)) * deviation) @ turn + turn[0]
    return (options.length / 2**0.5 * rows).astype(np.float32), labels


def loss_of(weights, intercept, c, x, labels):
    import numpy as np
    from scipy.special import logsumexp

    logits = x.astype(np.float64) @ weights.T + intercept
    own = logits[np.arange(len(x)), labels]
    return float((logsumexp(logits, axis=1) - own).mean() + (weights**2).sum() / (2 * c * len(x)))


def ours(x, labels, tolerance):
    from visprobe.metrics.classifiers.logistic import logistic_path

    start = time.process_time()
    path = logistic_path(x, labels, CS, tolerance)
    assert all(fit.converged for fit in path)
    return time.process_time() - start, [(fit.weights, fit.intercept) for fit in path]


def scikit_learn(x, labels, tolerance):
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    x, seconds, fits = x.astype(np.float64), 0.0, []
    for c in CS:
        start = time.process_time()
        model = LogisticRegression(C=c, max_iter=1000, tol=tolerance).fit(x, labels)
        seconds += time.process_time() - start
        fits.append((model.coef_, model.intercept_))
    return seconds, fits


def run(options):
    import numpy as np

    x, labels = features(options.n, options, 1)
    test, truth = features(5000, options, 2)
    ways = {"visprobe, 1e-03": (ours, 1e-3)}
    if options.tight:
        ways["visprobe, 1e-06"] = (ours, 1e-6)
    for tolerance in (1e-4, 1e-5, 1e-7) if options.tight else (1e-4,):
        ways[f"scikit-learn, {tolerance:.0e}"] = (scikit_learn, tolerance)
    seconds, runs, peak = {name: [] for name in ways}, {}, None
    for _ in range(options.repeats):
        for name, (fit, tolerance) in ways.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                taken, runs[name] = fit(x, labels, tolerance)
            seconds[name].append(taken)
            print(f"{name}: {taken:.1f} s", flush=True)
            peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # after visprobe alone
    result = {"peak": peak, "features": x.nbytes, "fits": {}}
    losses = {
        name: [loss_of(*fit, c, x, labels) for c, fit in zip(CS, fits, strict=True)] for name, fits in runs.items()
    }
    least = np.min(list(losses.values()), axis=0)
    for name, fits in runs.items():
        accuracy = [float(((test @ w.T + b).argmax(1) == truth).mean()) for w, b in fits]
        excess = [float(e) for e in np.array(losses[name]) - least]
        times = float(np.median(np.array(seconds[name]) / seconds["visprobe, 1e-03"]))
        result["fits"][name] = {"seconds": seconds[name], "times": times, "accuracy": accuracy, "excess": excess}
    return result


def table(result):
    yield f"features {result['features'] / 1e6:.0f} MB, peak RSS after visprobe {result['peak'] / 1e6:.0f} MB"
    yield f"{'C':>31}" + "".join(f"{c:>10g}" for c in CS)
    for name, row in result["fits"].items():
        yield f"{name:22} accuracy" + "".join(f"{100 * one:10.2f}" for one in row["accuracy"])
        yield f"{'':24} excess" + "".join(f"{one:10.1e}" for one in row["excess"])
        taken = ", ".join(f"{one:.1f}" for one in row["seconds"])
        yield f"{'':23} seconds {taken}: {row['times']:.1f} times visprobe's at its default"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--length", type=float, default=14.0, help="root mean squared length of a feature")
    parser.add_argument("--signal", type=float, default=0.3, help="spread of class means over that within a class")
    parser.add_argument("--tight", action="store_true", help="also with small tolerances")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # read when numpy and torch are imported
    result = run(options)
    print(*table(result), sep="\n")
    print(json.dumps(result))
    for name, row in result["fits"].items():
        if not name.startswith("visprobe"):
            ratio(f"six fits by {name} / by visprobe", row["times"])


if __name__ == "__main__":
    main()
