"""Logistic regression by AdamW on minibatches, for features that do not fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from visprobe.metrics.classifiers.logistic import Array, Labels
from visprobe.metrics.intervals.jackknife import Indices

Parts = Sequence[NDArray[np.floating]]
EPOCHS, BATCH = 30, 1024
RATES = (1e-3, 1e-2, 1e-1)
_STEPS = 300  # at least so many, of few images too


class Minibatched(NamedTuple):
    """A classifier by minibatches.

    Attributes:
        weights: Float64, shape (classes, d), for features as they were given.
        intercept: Float64, shape (classes,).
        c: Inverse strength of the penalty, chosen.
        rate: Learning rate, chosen.
        accuracies: On the held-out images, by (c, rate).
        boundary: Whether c is the first or last that was tried.
    """

    weights: Array
    intercept: Array
    c: float
    rate: float
    accuracies: dict[tuple[float, float], float]
    boundary: bool


class _Rows:
    """Rows of arrays that lie one after another, read when they are asked for; centred, of mean variance 1."""

    def __init__(self, parts: Parts, device: str) -> None:
        self.parts, self.device = parts, device
        self._starts = np.cumsum([0, *map(len, parts)])
        n, total, squares = self._starts[-1], np.float64(0), 0.0
        for part in parts:
            total = total + part.sum(0, dtype=np.float64)
        self.mean: Array = np.asarray(total / n)
        for part in parts:
            squares += float(np.square(part - self.mean).sum())
        self.unit = math.sqrt(squares / (n * len(self.mean))) or 1.0

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: Indices) -> Tensor:
        """Rows as float32, in the order asked for."""
        found = np.empty((len(rows), len(self.mean)), dtype=np.float32)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(part_of):
            own = part_of == part
            found[own] = (self.parts[part][rows[own] - self._starts[part]] - self.mean) / self.unit
        return torch.from_numpy(found).to(self.device)


def minibatch_logistic(
    parts: Parts, labels: Labels, cs: Sequence[float], held_out: Indices, seed: int = 0, device: str = "cpu"
) -> Minibatched:
    """Multinomial logistic regression, C and learning rate chosen on held-out training images, then fitted on all.

    The loss is that of `logistic_path`. All pairs of C and rate are trained at once, so that each row is read once per
    epoch; the rate falls along a cosine to zero.

    Args:
        parts: Arrays of features one after another, each (rows, d), views of files for instance.
        labels: Class of each row, int64 of shape (n,); every class occurs.
        cs: Inverse strengths of the penalty, rising, for features of a mean variance of 1.
        held_out: Rows to choose on.
        seed: Of the order of the rows.
        device: Where torch computes.

    Returns:
        The classifier that was best on the held-out rows, trained again with them; of equally good ones that of the
        smallest C.
    """
    rows = _Rows(parts, device)
    kept = np.setdiff1d(np.arange(len(rows)), held_out)
    heads, biases = _trained(rows, labels, kept, cs, RATES, seed)
    right = np.stack([_right(rows, labels, held_out, *one) for one in zip(heads, biases, strict=True)], 1)
    of_c, of_rate = divmod(int(np.argmax(right)), len(RATES))
    c, rate = cs[of_c], RATES[of_rate]
    [weight], [shift] = _trained(rows, labels, np.arange(len(rows)), [c], [rate], seed)
    weights = weight[0].T.double().cpu().numpy() / rows.unit
    intercept = shift[0, 0].double().cpu().numpy() - weights @ rows.mean
    found = {(a, b): float(right[i, j]) for i, a in enumerate(cs) for j, b in enumerate(RATES)}
    return Minibatched(weights, intercept, c, rate, found, c in (cs[0], cs[-1]))


def _trained(
    rows: _Rows, labels: Labels, kept: Indices, cs: Sequence[float], rates: Sequence[float], seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """For each rate the weights (cs, d, classes) and intercepts (cs, 1, classes) after all epochs."""
    outputs, n, rng = int(labels.max()) + 1, len(kept), np.random.default_rng(seed)
    empty = torch.zeros(len(cs), len(rows.mean) + 1, outputs, device=rows.device)
    heads = [empty.clone().requires_grad_() for _ in rates]  # the last row is the intercept
    # The penalty is in the loss: decoupled decay has another minimum.
    optimizer = AdamW([{"params": [head], "lr": rate} for head, rate in zip(heads, rates, strict=True)], weight_decay=0)
    penalty = torch.tensor([1 / (c * n) for c in cs], dtype=torch.float32, device=rows.device)[:, None, None]
    truth = torch.from_numpy(labels).to(rows.device)
    batches = math.ceil(n / min(BATCH, n))
    epochs = max(EPOCHS, math.ceil(_STEPS / batches))
    falling = LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / (epochs * batches))) / 2)
    for _ in range(epochs):
        for own in np.array_split(rng.permutation(kept), batches):
            x, y = rows.take(own), truth[torch.from_numpy(own).to(rows.device)]
            for head in heads:
                head.grad = _gradient(head.detach(), x, y, penalty)
            optimizer.step()
            falling.step()
    done = [head.detach() for head in heads]
    return [head[:, :-1] for head in done], [head[:, -1:] for head in done]


def _gradient(head: Tensor, x: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """Of the mean cross entropy plus penalty / 2 times the squared weights, for each penalty."""
    residual = torch.softmax(x @ head[:, :-1] + head[:, -1:], 2)
    residual[:, torch.arange(len(x)), y] -= 1
    residual /= len(x)
    return torch.cat([x.T @ residual + penalty * head[:, :-1], residual.sum(1, keepdim=True)], 1)


def _right(rows: _Rows, labels: Labels, images: Indices, weights: Tensor, biases: Tensor) -> Array:
    """Share of images that each head gets right, shape (heads,)."""
    right = np.zeros(len(weights))
    for start in range(0, len(images), BATCH):
        own = images[start : start + BATCH]
        found = (rows.take(own) @ weights + biases).argmax(2).cpu().numpy()
        right += (found == labels[own]).sum(1)
    shares: Array = right / len(images)
    return shares
