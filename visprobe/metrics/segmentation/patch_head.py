"""Heads from frozen patch features to classes: linear or two-layer, by AdamW, rate and epoch chosen on other images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.metrics.arrays import Indices
from visprobe.metrics.segmentation.head_stack import Kind, Layers, Stack, Target, forward, losses
from visprobe.metrics.segmentation.pixels import held_classes

Floats = NDArray[np.float32]
# From numbers of images to their features, (b, patches, d), and pixels per class of each patch, (b, patches, classes).
Batch = Callable[[Indices], tuple[Floats, Floats]]

HIDDEN = 1024
# Half decades, set on digit scenes (analyses/segment/card.md); a choice on their edge is said.
RATES = {0: (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0), HIDDEN: (3e-4, 1e-3, 3e-3, 1e-2)}
PUBLISHED_RATE = 1e-3  # of the two-layer head
ROUNDS = 5  # epochs, where there are images enough
LEAST_STEPS = 300
BATCH = 32
_WARM_UP = 0.16  # the published 500 of 3,125 steps
_FLAT = 0.01  # of the loss: where the neighbour inside is within this, the edge of what was tried does not matter


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
    layers: Layers


class Selected(NamedTuple):
    """The head of least loss on the images kept back.

    Attributes:
        head: With its rate.
        round: After which of the rounds (1 to `ROUNDS`) it was had.
        loss: Its loss on the images kept back.
        edges: Whether what was chosen is the "smallest rate", "largest rate", "first round" or "last round" of those
            tried, and the loss one step inside is more than 1 % higher: beyond, a better head may lie.
    """

    head: Head
    round: int
    loss: float
    edges: tuple[str, ...]


def head_logits(head: Head, features: Floats) -> Floats:
    """Logits of `head`, float32 of shape (..., classes), of features of shape (..., d)."""
    device = head.layers[0][0].device
    with torch.inference_mode():
        logits: Floats = forward(head.layers, _standard(features, head.mean, head.deviation, device)).cpu().numpy()
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
    least_steps: int | None = None,
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
        least_steps: As `step_count`.
    """
    best: dict[tuple[int, Target], tuple[float, int, Head]] = {}
    known: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    rounds = train_heads(batch, fit, kinds, background=background, seed=seed, device=device, least_steps=least_steps)
    for number, heads in enumerate(rounds, 1):
        for head, loss in zip(heads, _losses(heads, batch, held, background), strict=True):
            known[head.kind].append(loss)
            key = (head.kind.hidden, head.kind.target)
            if key not in best or loss < best[key][0]:
                best[key] = (loss, number, head)
    return {key: Selected(head, number, loss, _edges(known, head.kind)) for key, (loss, number, head) in best.items()}


def _edges(known: Mapping[Kind, Sequence[float]], chosen: Kind) -> tuple[str, ...]:
    """Where the least loss lies on the edge of the rates or rounds tried, and falls towards it."""
    by_rate = {kind.rate: min(own) for kind, own in known.items() if kind[:2] == chosen[:2]}
    lines = {"smallest rate": [by_rate[rate] for rate in sorted(by_rate)], "first round": known[chosen]}
    lines |= {"largest rate": lines["smallest rate"][::-1], "last round": known[chosen][::-1]}
    least = min(known[chosen])
    return tuple(
        name for name, line in lines.items() if line[0] == least and len(line) > 1 and line[1] > (1 + _FLAT) * least
    )


def train_heads(
    batch: Batch,
    images: Indices,
    kinds: Sequence[Kind],
    *,
    background: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    least_steps: int | None = None,
) -> Iterator[list[Head]]:
    """Train heads of all `kinds` on `images` and give them after each of `ROUNDS` equal parts of the training.

    Args:
        batch: As `select_heads`.
        images: Images that are trained on.
        kinds: What to train; those that differ in their rate alone begin with the same weights.
        background: As `held_classes`.
        seed: Of the initial weights and of the order of the images.
        device: Where to train; by default the CPU.
        least_steps: As `step_count`.

    Source:
        The head of "RL makes MLLMs see better than SFT" (2510.16333), appendix E.5: AdamW, 1e-3 to 1e-4 by a cosine,
        weight decay 0.01, 5 epochs of batches of 32 images.
    Differs from source:
        Float32; features are standardised; warm-up is 16 % of the steps; at least 300 steps.
    """
    device = device or torch.device("cpu")
    mean, deviation, classes = _moments(batch, images)
    draw = torch.Generator().manual_seed(seed)
    alike = dict.fromkeys((kind.hidden, kind.target) for kind in kinds)
    stacks = [Stack([kind for kind in kinds if kind[:2] == key], len(mean), classes, draw, device) for key in alike]
    steps = step_count(len(images), least_steps)
    for step, chosen in enumerate(_orders(images, steps, np.random.default_rng(seed)), 1):
        features, counts = batch(chosen)
        x, labels = _standard(features, mean, deviation, device), torch.from_numpy(counts).to(device)
        held = torch.from_numpy(held_classes(counts, background)).to(device)
        for stack in stacks:
            stack.step(x, labels, held, _schedule(step, steps))
        if step * ROUNDS // steps > (step - 1) * ROUNDS // steps:
            layers = {kind: own for stack in stacks for kind, own in stack.each().items()}
            yield [Head(kind, mean, deviation, layers[kind]) for kind in kinds]


def step_count(images: int, least: int | None = None) -> int:
    """How many steps `train_heads` takes: five epochs of so many images, at least `least` (by default 300)."""
    return max(ROUNDS * math.ceil(images / BATCH), least or LEAST_STEPS, ROUNDS)


def _losses(heads: Sequence[Head], batch: Batch, images: Indices, background: int | None) -> list[float]:
    """Loss of each of `heads`, of one training, on `images`."""
    sums, first = torch.zeros(len(heads), dtype=torch.float64), heads[0]
    device = first.layers[0][0].device
    for start in range(0, len(images), BATCH):
        chosen = images[start : start + BATCH]
        features, counts = batch(chosen)
        x = _standard(features, first.mean, first.deviation, device).flatten(0, -2)
        labels = torch.from_numpy(counts).to(device).flatten(0, -2)
        held = torch.from_numpy(held_classes(counts, background)).to(device).flatten(0, -2)
        with torch.inference_mode():
            for number, head in enumerate(heads):
                own = losses(forward(head.layers, x)[:, None], head.kind.target, labels, held)
                sums[number] += float(own) * len(chosen)
    return [float(total) / len(images) for total in sums]


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
