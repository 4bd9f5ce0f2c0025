"""Whole tiny models beside what was read of them: the questions that every family must answer alike."""

import json

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

from visprobe.encoders.checkpoint.quiet import quiet


def write_model(folder, model, renamed=lambda name: name, processor=None, change=lambda config: None):
    """Write `model` with its tensors under other names, and its configuration after `change`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {renamed(name): tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


def from_pretrained(cls, folder):
    with quiet():
        return getattr(transformers, cls).from_pretrained(folder).eval().requires_grad_(False)


def parts(tower, connector):
    """Weights of a model's tower and connector by canonical name."""
    return {**tower.state_dict(), **{f"projector.{name}": tensor for name, tensor in connector.state_dict().items()}}


def same_weights(encoder, expected):
    """Whether the encoder holds exactly the weights `expected`, to the bit."""
    weights = encoder.weights()
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in expected)


def noise(*sizes, seed=0):
    """An image of noise for each (height, width)."""
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def bright_patch(size, patch, row, column):
    """A grey image with one white patch."""
    pixels = np.full((*size, 3), 128, dtype=np.uint8)
    pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 255
    return Image.fromarray(pixels)


def answering_token(encoder, size, patch, row, column, site="block_00"):
    """Row and column of the token at `site` that one white patch changes most."""
    grey = Image.new("RGB", size[::-1], (128, 128, 128))
    (rows, columns) = encoder.grid
    tokens = encoder([grey, bright_patch(size, patch, row, column)])[site]
    side = round((rows * columns / tokens.shape[1]) ** 0.5)
    return divmod(int((tokens[1] - tokens[0]).norm(dim=-1).argmax()), columns // side)
