"""Heads from frozen patch features to classes, trained by AdamW, with rate and epoch chosen on held-out images."""

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
# Maps image indices to their features, (b, patches, d), and pixels per class of each patch, (b, patches, classes).
Batch = Callable[[Indices], tuple[Floats, Floats]]

HIDDEN = 1024
# Half decades, set on digit scenes (analyses/segment/card.md); `Selected.edges` tells when a choice is on their edge.
RATES = {0: (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0), HIDDEN: (3e-4, 1e-3, 3e-3, 1e-2)}
PUBLISHED_RATE = 1e-3  # learning rate of the published two-layer head
ROUNDS = 5  # epochs, where there are images enough
LEAST_STEPS = 300
BATCH = 32
_WARM_UP = 0.16  # the published 500 of 3,125 steps
_FLAT = 0.01  # relative loss: an edge does not matter if the neighbour inside is within this


class Head(NamedTuple):
    """Trained head: features are standardised, then go through one or two layers.

    Attributes:
        kind: Form, target and rate.
        mean: Mean of each feature, float32 of shape (d,).
        deviation: Standard deviation of each feature, float32 of shape (d,).
        layers: Weights (in, out) and offsets (out,) of each layer, float32.
    """

    kind: Kind
    mean: Floats
    deviation: Floats
    layers: Layers


class Selected(NamedTuple):
    """Head with the least loss on held-out images.

    Attributes:
        head: The head.
        round: Round, 1 to `ROUNDS`, after which it was taken.
        loss: Its loss on held-out images, in nats.
        edges: Any of "smallest rate", "largest rate", "first round" and "last round" that the choice is, out of those
            tried, and the loss one step inside is more than 1 % higher: beyond, a better head may lie.
    """

    head: Head
    round: int
    loss: float
    edges: tuple[str, ...]


def head_logits(head: Head, features: Floats) -> Floats:
    """Return the logits of `head`, float32 of shape (..., classes), for features of shape (..., d)."""
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
    """Train heads of all `kinds` and keep, for each form and target, the one of least held-out loss.

    Args:
        batch: Returns features and labels of images by their indices.
        fit: Indices of the training images.
        held: Indices of the held-out images that rate and round are chosen on.
        kinds: Heads to train; all from one pass over the batches.
        background: Class that counts only in patches that hold no other.
        seed: Seed of the initial weights and of the order of the images.
        device: Device to train on; by default the CPU.
        least_steps: Least number of steps; by default 300.

    Returns:
        The chosen head for each (hidden width, target).
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
    """Return the edges of the rates or rounds tried that the least loss lies on and falls towards."""
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
    """Train heads of all `kinds` on `images`, yielding them after each of `ROUNDS` equal parts of the training.

    Args:
        batch: Returns features and labels of images by their indices.
        images: Indices of the training images.
        kinds: Heads to train; those that differ only in their rate begin with the same weights.
        background: Class that counts only in patches that hold no other.
        seed: Seed of the initial weights and of the order of the images.
        device: Device to train on; by default the CPU.
        least_steps: Least number of steps; by default 300.

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
    """Return the number of steps of `train_heads`: five epochs over `images` images, at least `least` (default 300)."""
    return max(ROUNDS * math.ceil(images / BATCH), least or LEAST_STEPS, ROUNDS)


def _losses(heads: Sequence[Head], batch: Batch, images: Indices, background: int | None) -> list[float]:
    """Return the loss of each of `heads`, all of one training, on `images`."""
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
    """Return mean and standard deviation of every feature over the patches of `images`, and the number of classes."""
    first, counts = batch(images[:1])
    shift = first[0].mean(0, dtype=np.float64)  # against cancellation where means are large
    n, total, squares = 0, np.zeros(len(shift)), np.zeros(len(shift))
    for start in range(0, len(images), BATCH):
        features = batch(images[start : start + BATCH])[0]
        flat = features.reshape(-1, len(shift)) - shift
        n, total, squares = n + len(flat), total + flat.sum(0), squares + (flat**2).sum(0)
    deviation = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0))
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0), deviation, 1)  # constant features become 0
    return (total / n + shift).astype(np.float32), deviation.astype(np.float32), counts.shape[-1]


def _orders(images: Indices, steps: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Yield batches in a new random order for each epoch, `steps` batches in all."""
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
