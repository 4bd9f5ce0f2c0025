"""What it costs that features are compared with their hashes before they are believed.

A run finds all features of one small encoder in the store and reads them; once as it is and once without the
comparison. They are the tokens at all sites, some 50 kB per image, as much as the means of a real tower at all of its
sites. Images lie in memory and nothing is forwarded, so the share of the hashes is as large as it can be: a run that
reads a disk or computes anything has a smaller one.

Run: python benchmarks/store.py [--images 4000] [--repeats 5]
"""

import argparse
import tempfile
import time
from pathlib import Path
from unittest import mock

from ratios import ratio

from visprobe.data.open import open_images
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders import load_encoder
from visprobe.features.extract import extract
from visprobe.features.store import FeatureStore


class InMemory:
    """The files of an image set, read once."""

    def __init__(self, images):
        self.name, self.items, self.classes = images.name, images.items, images.classes
        self._files = [images.read(index) for index in range(len(images.items))]

    def read(self, index):
        """The encoded image file of `items[index]`."""
        return self._files[index]


def all_tokens(encoder):
    return [f"{site.name}:tokens" for site in encoder.sites]


def found(encoder, images, folder):
    """Seconds to find and read the features of `images` in the store at `folder`, and their bytes."""
    began = time.perf_counter()
    [features] = extract([encoder], images, all_tokens, store=FeatureStore(folder)).features
    nbytes = sum(features.sites[site].nbytes for site in features.sites)
    return time.perf_counter() - began, nbytes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, processor = Path(scratch) / "checkpoint", build_processor()
        build_model(processor, seed=0).save_pretrained(checkpoint)
        processor.save_pretrained(checkpoint)
        encoder, images = load_encoder(checkpoint), InMemory(open_images("digits", limit=asked.images).query)
        found(encoder, images, Path(scratch) / "store")
        compared, believed = [], []
        for _ in range(asked.repeats):
            compared.append(found(encoder, images, Path(scratch) / "store"))
            with (
                mock.patch.object(FeatureStore, "_hash", lambda store, key, name: None),
                mock.patch("visprobe.features.store.noted_hashes", lambda metadata: {}),
            ):
                believed.append(found(encoder, images, Path(scratch) / "store"))
    (with_hashes, nbytes), (without, _) = min(compared), min(believed)
    print(
        f"{len(images.items)} images, {nbytes / 1e6:.0f} MB of features: {with_hashes:.2f} s, {without:.2f} s without"
    )
    ratio("finding all features in the store: hashes compared / not", with_hashes / without)


if __name__ == "__main__":
    main()
