"""Heads from frozen patch features to classes: linear or two-layer, by AdamW, the epoch chosen on other images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.metrics.jackknife import Indices
from visprobe.metrics.segmentation import held_classes

Floats = NDArray[np.float32]
Target = Literal["classes", "pixels"]
# From numbers of images to their features, (b, patches, d), and pixels per class of each patch, (b, patches, classes).
Batch = Callable[[Indices], tuple[Floats, Floats]]

HIDDEN = 1024
RATES = {0: (1e-2, 1e-1), HIDDEN: (1e-3,)}  # a linear head of few steps needs more; the other is the published one
ROUNDS = 5  # epochs, where there are images enough
LEAST_STEPS = 300
BATCH = 32
_WARM_UP = 0.16  # the published 500 of 3,125 steps
_DECAY = 0.01


class Kind(NamedTuple):
    """What a head is and how it is trained.

    Attributes:
        hidden: Width of the hidden layer; 0 for a linear head.
        target: "classes": every class by itself, whether the patch holds it (binary cross-entropy); "pixels": the share
            of the patch's pixels in each class (cross-entropy, a patch weighing as many as it has counted pixels).
        rate: Learning rate after warm-up; it falls to a tenth.
    """

    hidden: int
    target: Target
    rate: float


class Head(NamedTuple):
    """A trained head: features are standardised, then go through one or two layers.

    Attributes:
        kind: What it is.
        mean: Shape (d,).
        deviation: Shape (d,).
        layers: Weights (in, out) and offsets (out,) of each layer, float32.
    """

    kind: Kind
    mean: Floats
    deviation: Floats
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]


class Selected(NamedTuple):
    """The head of least loss on the images kept back, and the round (1 to `ROUNDS`) after which it was had."""

    head: Head
    round: int
    loss: float


def head_logits(head: Head, features: Floats) -> Floats:
    """Logits of `head`, float32 of shape (..., classes), of features of shape (..., d)."""
    device = head.layers[0][0].device
    with torch.inference_mode():
        logits: Floats = _forward(head.layers, _standard(features, head.mean, head.deviation, device)).cpu().numpy()
    return logits


def select_heads(
    batch: Batch,
    fit: Indices,
    held: Indices,
    kinds: Sequence[Kind],
    *,
    background: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> dict[tuple[int, Target], Selected]:
    """Train heads of all `kinds` and keep, for each form and target, the rate and round of least loss on other images.

    Args:
        batch: Gives features and labels of images by their numbers.
        fit: Images that are trained on.
        held: Images that rate and round are chosen on.
        kinds: What to train; all from one pass over the batches.
        background: As `held_classes`.
        seed: Of the initial weights and of the order of the images.
        device: Where to train; by default the CPU.
    """
    best: dict[tuple[int, Target], Selected] = {}
    for number, heads in enumerate(train_heads(batch, fit, kinds, background=background, seed=seed, device=device), 1):
        for head, loss in zip(heads, _losses(heads, batch, held, background), strict=True):
            key = (head.kind.hidden, head.kind.target)
            if key not in best or loss < best[key].loss:
                best[key] = Selected(head, number, loss)
    return best


def train_heads(
    batch: Batch,
    images: Indices,
    kinds: Sequence[Kind],
    *,
    background: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[list[Head]]:
    """Train heads of all `kinds` on `images` and give them after each of `ROUNDS` equal parts of the training.

    Args:
        batch: As `select_heads`.
        images: Images that are trained on.
        kinds: What to train.
        background: As `held_classes`.
        seed: Of the initial weights and of the order of the images.
        device: Where to train; by default the CPU.

    Source:
        The head of "RL makes MLLMs see better than SFT" (2510.16333), appendix E.5: AdamW, 1e-3 to 1e-4 by a cosine,
        weight decay 0.01, 5 epochs of batches of 32 images.
    Differs from source:
        Float32; features are standardised; warm-up is 16 % of the steps; at least 300 steps.
    """
    device = device or torch.device("cpu")
    mean, deviation, classes = _moments(batch, images)
    draw = torch.Generator().manual_seed(seed)
    layers = [_fresh(len(mean), kind.hidden, classes, draw, device) for kind in kinds]
    optimisers = [torch.optim.AdamW([t for layer in one for t in layer], weight_decay=_DECAY) for one in layers]
    steps = step_count(len(images))
    for step, chosen in enumerate(_orders(images, steps, np.random.default_rng(seed)), 1):
        features, counts = batch(chosen)
        x, labels = _standard(features, mean, deviation, device), torch.from_numpy(counts).to(device)
        held = torch.from_numpy(held_classes(counts, background)).to(device)
        for kind, own, optimiser in zip(kinds, layers, optimisers, strict=True):
            optimiser.param_groups[0]["lr"] = kind.rate * _schedule(step, steps)
            optimiser.zero_grad()
            _loss(_forward(own, x), kind.target, labels, held).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        if step * ROUNDS // steps > (step - 1) * ROUNDS // steps:
            yield [Head(k, mean, deviation, _copied(own)) for k, own in zip(kinds, layers, strict=True)]


def step_count(images: int) -> int:
    """How many steps `train_heads` takes on so many images."""
    return max(ROUNDS * math.ceil(images / BATCH), LEAST_STEPS)


def _losses(heads: Sequence[Head], batch: Batch, images: Indices, background: int | None) -> list[float]:
    sums, weights = [0.0] * len(heads), 0
    for start in range(0, len(images), BATCH):
        chosen = images[start : start + BATCH]
        features, counts = batch(chosen)
        labels, held = torch.from_numpy(counts), torch.from_numpy(held_classes(counts, background))
        for number, head in enumerate(heads):
            logits = torch.from_numpy(head_logits(head, features))
            sums[number] += float(_loss(logits, head.kind.target, labels, held)) * len(chosen)
        weights += len(chosen)
    return [total / weights for total in sums]


def _loss(logits: torch.Tensor, target: Target, counts: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    if target == "pixels":
        return -(counts * torch.log_softmax(logits, -1)).sum() / counts.sum().clamp(min=1)
    of = held.any(-1)  # patches of ignored pixels alone teach nothing
    shown, truth = logits[of], held[of].to(logits.dtype)
    losses = torch.logaddexp(shown, torch.zeros_like(shown)) - truth * shown
    return losses.sum() / max(losses.numel(), 1)


def _forward(layers: Sequence[tuple[torch.Tensor, torch.Tensor]], x: torch.Tensor) -> torch.Tensor:
    for number, (weight, offset) in enumerate(layers):
        if number:
            x = torch.ops.aten.gelu(x)
        x = x @ weight + offset
    return x


def _standard(features: Floats, mean: Floats, deviation: Floats, device: torch.device) -> torch.Tensor:
    return torch.from_numpy((features - mean) / deviation).to(device)


def _moments(batch: Batch, images: Indices) -> tuple[Floats, Floats, int]:
    """Mean and standard deviation of every feature over the patches of `images`, and the number of classes."""
    first, counts = batch(images[:1])
    shift = first[0].mean(0, dtype=np.float64)  # large means would cancel the squares
    n, total, squares = 0, np.zeros(len(shift)), np.zeros(len(shift))
    for start in range(0, len(images), BATCH):
        features = batch(images[start : start + BATCH])[0]
        flat = features.reshape(-1, len(shift)) - shift
        n, total, squares = n + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
    deviation = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0))
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0), deviation, 1)  # what does not vary stays 0
    return (total / n + shift).astype(np.float32), deviation.astype(np.float32), counts.shape[-1]


def _fresh(
    width: int, hidden: int, classes: int, draw: torch.Generator, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Uniform within one over the square root of the inputs, as linear layers of torch begin."""
    sizes = [width, hidden, classes] if hidden else [width, classes]
    layers = []
    for before, after in pairwise(sizes):
        drawn = [
            (torch.rand(shape, generator=draw) * 2 - 1) / math.sqrt(before) for shape in ((before, after), (after,))
        ]
        weight, offset = (tensor.to(device).requires_grad_() for tensor in drawn)
        layers.append((weight, offset))
    return tuple(layers)


def _copied(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    return tuple((weight.detach().clone(), offset.detach().clone()) for weight, offset in layers)


def _orders(images: Indices, steps: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Batches of all images in a new random order each time, as often as needed."""
    given = 0
    while True:
        order = rng.permutation(images)
        for start in range(0, len(order), BATCH):
            yield order[start : start + BATCH]
            given += 1
            if given == steps:
                return


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(_WARM_UP * steps))
    if step <= warm:
        return step / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
