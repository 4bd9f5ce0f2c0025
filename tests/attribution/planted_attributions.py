"""Attributions made of arrays, without a model."""

import numpy as np
import torch

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.map import Map

KEY = ("gradcam", "block_02")


def planted(arrays, regions=None, images=None, controls=(), key=KEY):
    """From each name's maps (n, rows, columns) at one site; names that are not controls are checkpoints."""
    count = len(next(iter(arrays.values())))
    made = {
        name: {key: [Map(torch.tensor(one, dtype=torch.float32), float(n), *key) for n, one in enumerate(values)]}
        for name, values in arrays.items()
    }
    names = tuple(name for name in arrays if name not in controls)
    return Attributions(names, controls, made, regions or (None,) * count, images or [f"{n}.png" for n in range(count)])


def noise(count, seed, side=4):
    return np.random.default_rng(seed).standard_normal((count, side, side))
