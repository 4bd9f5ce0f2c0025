"""What `visprobe imagenet` costs, against the published protocol, the bare forward passes, and memory.

- speed: the same images and encoder through the published script's protocol, in our words: validation images six
  times and training images twice through decoding and tower (prototypes, their evaluation and the features of the
  probe, each once with and once without the projector), prototypes summed image by image in a Python loop, six cold
  fits of scikit-learn for each of the two sites. visprobe runs prototypes, neighbours and linear probes that its
  registry has, with and without its untrained baseline, from an empty feature store.
- rate: images per second of the whole pass (read, decode, preprocess, forward, pool, write) over those of the bare
  forward passes of batches that are pixels already.
- memory: prototypes and drift of a base, a descendant and an untrained baseline at four sites, on features of many
  images that lie in the store. Peak is resident memory above what the process held before the features were opened.
- noise: Gaussian features without classes, 50 of each of --classes for training and as many to test, 1152 units as in
  SigLIP So400m, through prototypes, neighbours and probe as `visprobe imagenet` makes them, and through the published
  prototypes, whose test images are their own training images. Chance is 1 / classes.

Seconds are of the processor but for rate. Images are noise as JPEG, 500x375, in folders by class; the encoder is a
SigLIP with random weights and a projector.

Run: python benchmarks/imagenet.py [speed|rate|memory|noise] [--images 200] [--width 256] [--blocks 6]
    [--classes 1000]
"""

import argparse
import math
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from PIL import Image
from ratios import ratio

from visprobe.analyses.accuracy.imagenet import prototype_accuracy
from visprobe.analyses.accuracy.knn import knn_accuracy
from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.core.registry import available
from visprobe.analyses.drift.drift import representation_drift
from visprobe.analyses.probes.probe import PROBE
from visprobe.data.open import open_images
from visprobe.encoders.baseline import Baseline
from visprobe.encoders.load import load_encoder
from visprobe.features.extract import extract
from visprobe.features.feature_set import FeatureSet
from visprobe.features.store import ChunkKey, FeatureStore, StoredSites
from visprobe.metrics.intervals.proportions import wilson
from visprobe.pipelines.measure import run_analyses
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.session import Session
from visprobe.pipelines.single import ASKED

CLASSES, SIDE, BATCH = 20, 224, 64
CS = (0.01, 0.03, 0.1, 0.316, 1.0, 3.16)


def make_images(folder, count):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(count):
            place = folder / split / f"class_{number % CLASSES:02d}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375)).save(place / f"{number:06d}.jpg", quality=90)


def make_checkpoint(folder, width, blocks):
    vision = transformers.SiglipVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks, num_attention_heads=width // 64,
        image_size=SIDE, patch_size=16,
    )  # fmt: skip
    text = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=64, num_hidden_layers=1, num_attention_heads=8, vocab_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(), image_token_index=7, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def published(encoder, data):
    """The published script: nothing is kept from one pass to the next."""
    from sklearn.linear_model import LogisticRegression

    def features(images, site):
        rows, labels = [], []
        for start in range(0, len(images.items), BATCH):
            some = range(start, min(start + BATCH, len(images.items)))
            pictures = [Image.open(images._folder / images.items[i].id).convert("RGB") for i in some]
            tokens = encoder.forward(encoder.preprocess(pictures), [site])[site]
            rows.append(torch.nn.functional.normalize(tokens.mean(1), dim=-1))
            labels += [images.items[i].label for i in some]
        return torch.cat(rows), np.array(labels)

    def prototypes(images, site):
        sums, counts = None, np.zeros(CLASSES)
        rows, labels = features(images, site)
        sums = torch.zeros(CLASSES, rows.shape[1])
        for row, label in zip(rows, labels, strict=True):  # image by image, as there
            sums[label] += row
            counts[label] += 1
        return sums / torch.tensor(counts, dtype=torch.float32)[:, None]

    for site in ("projected", encoder.consumed):
        weights = prototypes(data.query, site)
        rows, _ = features(data.query, site)
        (100 * rows @ weights.T).topk(5)
    for site in ("projected", encoder.consumed):
        (train, labels), (test, truth) = features(data.support, site), features(data.query, site)
        for c in CS:
            LogisticRegression(C=c, max_iter=1000).fit(train.numpy(), labels).score(test.numpy(), truth)


def visprobe(encoder, folder, *, baseline):
    with tempfile.TemporaryDirectory() as store:
        options = Options(store=Path(store), batch_size=BATCH)
        session = Session([encoder], [encoder.untrained(0)] if baseline else [], str(folder), options)
        found = available()
        run_analyses(session, [found[name] for name in ASKED if name in found])
        return session.measurement([]).forwarded


def seconds(function, *args, **named):
    start = time.perf_counter()
    function(*args, **named)
    return time.perf_counter() - start


def of_processor(function, *args, **named):
    start = time.process_time()
    function(*args, **named)
    return time.process_time() - start


def speed(folder, encoder):
    data = open_images(str(folder))
    print(f"images: {len(data.query.items)} val, {len(data.support.items)} train; {torch.get_num_threads()} threads")
    ways = {
        "visprobe": lambda: visprobe(encoder, folder, baseline=False),
        "published protocol": lambda: published(encoder, data),
        "visprobe with untrained baseline": lambda: visprobe(encoder, folder, baseline=True),
    }
    ways["visprobe"]()  # imports and caches of files, for all
    least = dict.fromkeys(ways, math.inf)
    for _ in range(2):
        for name, way in ways.items():
            taken = of_processor(way)
            least[name] = min(least[name], taken)
            print(f"{name}: {taken:.1f} s", flush=True)
    for name, taken in least.items():
        times = least["published protocol"] / taken
        print(f"{name}: {taken:.1f} s at best; the published protocol takes {times:.1f} times as long")
        if name != "published protocol":
            ratio(f"the published ImageNet protocol / {name}", times)


def rate(folder, encoder):
    images = open_images(str(folder)).query
    pictures = [Image.open(images._folder / item.id).convert("RGB") for item in images.items[:BATCH]]
    pixels = encoder.preprocess(pictures)
    shares = []
    for _ in range(3):
        bare = (
            seconds(lambda: [encoder.forward(pixels, ["consumed"], lambda t: t.mean(1)) for _ in range(4)]) / 4 / BATCH
        )
        with tempfile.TemporaryDirectory() as store:
            whole = seconds(
                extract, [encoder], images, lambda e: [s.name for s in e.sites], store=FeatureStore(Path(store)),
                batch_size=BATCH,
            )  # fmt: skip
        shares.append(bare / (whole / len(images.items)))
        print(f"bare {1 / bare:.1f} images/s, whole pass {len(images.items) / whole:.1f} images/s: {shares[-1]:.0%}")
    print(f"median {sorted(shares)[1]:.0%} of the bare rate, {torch.get_num_threads()} threads")


def memory(count, width):
    with tempfile.TemporaryDirectory() as folder:
        sets = [stored(FeatureStore(Path(folder)), name, count, width) for name in ("base", "sft", "untrained")]
        sets[2] = replace(sets[2], baseline=Baseline("untrained", "base"))
        before = peak()
        whole = len(sets[0].sites) * count * width * 4 * 3 / 2**30
        what = f"{count} images, {width} units, {len(sets[0].sites)} sites, 3 encoders"
        print(f"{what}: {whole:.2f} GiB of features", flush=True)
        taken = of_processor(prototype_accuracy, sets, None)
        above = f"above {before / 2**20:.2f}"
        print(f"prototypes: {taken:.0f} s, peak {(peak() - before) / 2**20:.2f} GiB {above}", flush=True)
        taken = of_processor(representation_drift, sets[0], sets[1:2], sets[2:])
        print(f"and drift: {taken:.0f} s, peak {(peak() - before) / 2**20:.2f} GiB {above}")


def stored(store, name, count, width):
    rng, keys = np.random.default_rng(len(name)), []
    centres = np.random.default_rng(0).standard_normal((CLASSES, width), dtype=np.float32)
    for start in range(0, count, 128):
        rows = min(128, count - start)
        key = ChunkKey(name, "", "", "", (str(start),))
        own = centres[np.arange(start, start + rows) % CLASSES]
        sites = ("block_00", "block_01", "block_02", "block_03")
        store.write(key, {s: own + rng.standard_normal((rows, width), dtype=np.float32) for s in sites})
        keys.append(key)
    labels = np.arange(count) % CLASSES
    classes = tuple(f"class_{number:02d}" for number in range(CLASSES))
    names = {f"block_{depth:02d}": f"block_{depth:02d}" for depth in range(4)}
    ids = tuple(map(str, range(count)))
    return FeatureSet(name, "val", ids, labels, classes, StoredSites(store, keys, names), "block_03", ids)


def noise(classes):
    def drawn(name, seed):
        rows = np.random.default_rng(seed).standard_normal((50 * classes, 1152), dtype=np.float32)
        ids, names = tuple(f"{name} {n}" for n in range(len(rows))), tuple(f"class_{n:04d}" for n in range(classes))
        return FeatureSet("noise", name, ids, np.repeat(np.arange(classes), 50), names, {"site": rows}, "elsewhere")

    test, train = drawn("val", 0), drawn("train", 1)
    low, high = wilson(len(test.item_ids) // classes, len(test.item_ids))
    print(f"chance {1 / classes:.2%}, of {len(test.item_ids):,} images within {low:.2%} .. {high:.2%}", flush=True)
    units = test.sites["site"] / np.linalg.norm(test.sites["site"], axis=1, keepdims=True)
    means = units.reshape(classes, 50, -1).mean(1)
    print(f"published prototypes {((units @ means.T).argmax(1) == test.labels).mean():.2%}", flush=True)
    inputs = Inputs(base=test, others=(), baselines=(), encoders=(SimpleNamespace(device="cpu"),), support=(train,))
    ways = {"prototypes": prototype_accuracy([test], [train]), "leave-one-out": prototype_accuracy([test], None)}
    for name, result in ways.items():
        show(name, result)
    show("neighbours", knn_accuracy([test], [train]))
    show("probe", PROBE.run(inputs))


def show(name, result):
    for row in result.rows:
        if row.measure in ("top1", "knn_20", "probe_top1"):
            print(f"{name} {row.measure} {row.estimate.value:.2%} [{row.estimate.low:.2%}, {row.estimate.high:.2%}]",
                  flush=True)  # fmt: skip


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="speed", choices=("speed", "rate", "memory", "noise"))
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--classes", type=int, default=1000)
    asked = parser.parse_args()
    if asked.part == "memory":
        memory(asked.images, asked.width)
        return
    if asked.part == "noise":
        noise(asked.classes)
        return
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name) / "images", asked.images)
        make_checkpoint(Path(name) / "model", asked.width, asked.blocks)
        encoder = load_encoder(Path(name) / "model")
        {"speed": speed, "rate": rate}[asked.part](Path(name) / "images", encoder)


if __name__ == "__main__":
    main()
