"""What the measures of drift cost, against other ways to compute them and against the forward passes they follow.

- all pairs: CKA of 12 x 12 sites, 1,024 images, 768 units, in float64. visprobe centres one Gram matrix per site and
  takes one product. torch_cka makes the second Gram matrix and three products of matrices for every pair;
  thingsvision makes and centres both Gram matrices anew for each of three HSICs of every pair. Both ways are restated
  here, on all images as one batch, with the number format of visprobe, so that all three must agree; how far apart
  they are is printed.
- streaming: CKA from batches of 256 images, 256 units, that are made when asked for. Peak is what numpy holds at once.
- in all: analysis drift of a base, two descendants and two baselines on 5,000 images, at every site of a tower of the
  demo's shape with random weights, against the bare forward passes of these five encoders. Decoding images and
  writing features are in neither.

Seconds are those of the processor, on one core.

Run: python benchmarks/drift.py [--images 5000] [--sites 12]
"""

import argparse
import os
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported: one core for every way

import numpy as np
import torch
from ratios import ratio

from visprobe.metrics.similarity.cka_map import cka_map, unit_grams
from visprobe.metrics.similarity.streaming_cka import cka_sums

N, D = 1024, 768


def sites_of_two(count):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((N, 64))
    return [
        [images @ rng.standard_normal((64, D)) + depth * rng.standard_normal((N, D)) for depth in range(count)]
        for _ in range(2)
    ]


def visprobe(left, right):
    return cka_map(unit_grams(left), unit_grams(right))


def per_pair_products(left, right):
    """As torch_cka: the unbiased HSIC in three terms, the first as the trace of a product of Gram matrices."""

    def gram(x):
        return torch.from_numpy(x) @ torch.from_numpy(x).T

    def hsic(k, m):
        ones = torch.ones(N, 1, dtype=k.dtype)
        total = torch.trace(k @ m) + (ones.T @ k @ ones @ ones.T @ m @ ones) / ((N - 1) * (N - 2))
        return (total - 2 * (ones.T @ k @ m @ ones) / (N - 2)).item() / (N * (N - 3))

    values = np.empty((len(left), len(right)))
    for i, x in enumerate(left):
        k = gram(x).fill_diagonal_(0)
        own = hsic(k, k)
        for j, y in enumerate(right):
            m = gram(y).fill_diagonal_(0)
            values[i, j] = hsic(k, m) / (own * hsic(m, m)) ** 0.5
    return values


def per_hsic_grams(left, right):
    """As thingsvision: every HSIC makes and U-centres both Gram matrices."""

    def centred(x):
        k = x @ x.T
        np.fill_diagonal(k, 0)
        means = k.sum(0) / (N - 2)
        means -= means.sum() / (2 * (N - 1))
        k = k - means[:, None] - means[None, :]
        np.fill_diagonal(k, 0)
        return k

    def hsic(x, y):
        return float(np.sum(centred(x) * centred(y)))

    return np.array([[hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5 for y in right] for x in left])


def timed(work, *arguments, repeats=3):
    """The least of some times, and what the work gave."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = work(*arguments)
        seconds.append(time.process_time() - start)
    return min(seconds), result


def all_pairs(count):
    left, right = sites_of_two(count)
    ways = {"visprobe": visprobe, "torch_cka's way": per_pair_products, "thingsvision's way": per_hsic_grams}
    found = {name: timed(way, left, right, repeats=3 if name == "visprobe" else 1) for name, way in ways.items()}
    own, value = found["visprobe"]
    for name, (seconds, values) in found.items():
        apart = np.abs(values - value).max()
        if name != "visprobe":
            ratio(f"CKA of all pairs of sites, {name} / visprobe", seconds / own)
        yield (
            f"all pairs, {count} x {count} sites",
            name,
            f"{seconds:.2f} s",
            f"x {seconds / own:.1f}, apart {apart:.0e}",
        )


def streaming():
    def batches(n, width=256, size=256):
        for start in range(0, n, size):
            x = np.random.default_rng(start).standard_normal((size, width))
            yield x, x + np.random.default_rng(start + 1).standard_normal((size, width))

    for n in (4096, 16384):
        tracemalloc.start()
        start = time.process_time()
        cka_sums(batches(n)).cka()
        seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        yield "streaming CKA", f"{n:,} images", f"{seconds:.2f} s", f"peak {peak / 1e6:.1f} MB"


def in_all(count, folder):
    """Seconds of the forward passes and of the analysis on what they gave."""
    from visprobe.analyses.drift.drift import representation_drift
    from visprobe.demo.small_llava import build_model, build_processor
    from visprobe.encoders import load_encoder
    from visprobe.encoders.checkpoint.quiet import quiet
    from visprobe.features.feature_set import FeatureSet

    processor = build_processor()
    with quiet():
        build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    base = load_encoder(folder)
    encoders = [base, moved(base, "sft", 1), moved(base, "dpo", 2), base.untrained(0), base.rounded(torch.bfloat16)]
    side, names = base.config.image_size, [site.name for site in base.sites]
    pictures = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    pixels = [base.preprocess(chunk) for chunk in chunks(pictures, side)]
    bare, _ = timed(lambda: [one.forward(p, ["consumed"], mean) for one in encoders for p in pixels], repeats=2)
    sets = [
        FeatureSet(
            one.name, "noise", tuple(map(str, range(count))), None, None,
            joined([one.forward(p, names, mean) for p in pixels]), one.consumed, baseline=one.baseline,
        )
        for one in encoders
    ]  # fmt: skip
    drift, _ = timed(representation_drift, sets[0], sets[1:3], sets[3:], repeats=2)
    what = f"drift, {count:,} images, {len(names)} sites"
    ratio("drift / the forward passes of its encoders", drift / bare)
    yield what, "5 x forward passes", f"{bare:.2f} s", ""
    yield what, "analysis", f"{drift:.2f} s", f"{100 * drift / bare:.1f} % of the forward passes"


def mean(tokens):
    return tokens.mean(dim=1)


def moved(base, name, seed):
    draw = torch.Generator().manual_seed(seed)
    weights = {k: w + 0.02 * w.std(correction=0) * torch.randn(w.shape, generator=draw)
               for k, w in base.weights().items()}  # fmt: skip
    return base.with_weights(name, weights, base.provenance)


def chunks(pictures, side, size=64):
    from PIL import Image

    for start in range(0, len(pictures), size):
        yield [Image.fromarray(one).resize((side, side)) for one in pictures[start : start + size]]


def joined(parts):
    return {site: torch.cat([part[site] for part in parts]).numpy() for site in parts[0]}


def main():
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--sites", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for line in (*all_pairs(arguments.sites), *streaming(), *in_all(arguments.images, folder)):
            print("{:<32} {:<22} {:>10}   {}".format(*line), flush=True)


if __name__ == "__main__":
    main()
