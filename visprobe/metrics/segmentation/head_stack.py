"""Segmentation heads that differ only in their learning rate, trained side by side on the same batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

Target = Literal["classes", "pixels"]
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]

_DECAY = 0.01


class Kind(NamedTuple):
    """Form, target and learning rate of a head.

    Attributes:
        hidden: Width of the hidden layer; 0 for a linear head.
        target: "classes": for each class, if the patch holds it (binary cross-entropy); "pixels": the share
            of the patch's pixels in each class (cross-entropy, a patch weighing as many as it has counted pixels).
        rate: Learning rate after warm-up; it falls to a tenth.
    """

    hidden: int
    target: Target
    rate: float


class Stack:
    """Heads of one form and target, each with its own rate; all begin with the same weights.

    Args:
        kinds: Kinds that differ only in their rates.
        width: Number of features.
        classes: Number of outputs.
        draw: Generator of the initial weights.
        device: Device of the weights.
    """

    def __init__(
        self, kinds: Sequence[Kind], width: int, classes: int, draw: torch.Generator, device: torch.device
    ) -> None:
        self.kinds, self.target = tuple(kinds), kinds[0].target
        drawn = [tensor for layer in _fresh(width, kinds[0].hidden, classes, draw) for tensor in layer]
        self._tensors = [
            tensor.to(device).expand(len(kinds), *tensor.shape).contiguous().requires_grad_() for tensor in drawn
        ]
        self._rates = torch.tensor([kind.rate for kind in kinds], device=device)
        self._optimiser = torch.optim.AdamW(self._tensors, lr=1.0, weight_decay=_DECAY)

    def step(self, x: torch.Tensor, counts: torch.Tensor, held: torch.Tensor, schedule: float) -> None:
        """Take one step of AdamW of every head at its own rate.

        Args:
            x: Standardised features, float32, shape (..., d).
            counts: Pixels of each class in each patch, shape (..., classes).
            held: Bool of the same shape: True where the patch holds the class.
            schedule: Factor on all rates.
        """
        before = [tensor.detach().clone() for tensor in self._tensors]
        self._optimiser.zero_grad()
        logits = _side_by_side(self._tensors, x.flatten(0, -2))
        of_each = losses(logits, self.target, counts.flatten(0, -2), held.flatten(0, -2))
        of_each.sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        with torch.no_grad():  # AdamW's step is linear in the rate: taken at 1, then scaled for each head
            for tensor, old in zip(self._tensors, before, strict=True):
                rates = (self._rates * schedule).view(-1, *[1] * (tensor.dim() - 1))
                tensor.copy_(old + rates * (tensor - old))

    def each(self) -> Mapping[Kind, Layers]:
        """Return copies of the layers of every head."""
        own = [[tensor[number].detach().clone() for tensor in self._tensors] for number in range(len(self.kinds))]
        return {
            kind: tuple(zip(tensors[::2], tensors[1::2], strict=True))
            for kind, tensors in zip(self.kinds, own, strict=True)
        }


def forward(layers: Layers, x: torch.Tensor) -> torch.Tensor:
    """Return the logits of one head, shape (..., classes), for standardised features of shape (..., d)."""
    for number, (weight, offset) in enumerate(layers):
        if number:
            x = torch.ops.aten.gelu(x)
        x = x @ weight + offset
    return x


def losses(logits: torch.Tensor, target: Target, counts: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Compute the loss of each of k heads, shape (k,), in nats.

    Args:
        logits: Shape (n, k, classes).
        target: Loss, as in `Kind`.
        counts: Pixels of each class in each patch, shape (n, classes).
        held: Bool of shape (n, classes): True where the patch holds the class.
    """
    if target == "pixels":
        log_shares = torch.log_softmax(logits, -1)
        return -(counts[:, None] * log_shares).sum((0, 2)) / counts.sum().clamp(min=1)
    of = held.any(-1)  # patches of ignored pixels alone teach nothing
    shown, truth = logits[of], held[of].to(logits.dtype)[:, None]
    each = torch.logaddexp(shown, torch.zeros_like(shown)) - truth * shown
    return each.sum((0, 2)) / max(truth.numel(), 1)


def _side_by_side(tensors: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return the logits of all heads, shape (n, k, classes), for features of shape (n, d)."""
    if len(tensors) > 2:
        unbound = [tensor.unbind() for tensor in tensors]
        return torch.stack([forward(((a, b), (c, d)), x) for a, b, c, d in zip(*unbound, strict=True)], 1)
    [weight, offset] = tensors
    heads, width, out = weight.shape
    # For linear heads one matrix product is three times as fast as one per head.
    return (x @ weight.transpose(0, 1).reshape(width, heads * out)).view(len(x), heads, out) + offset


def _fresh(width: int, hidden: int, classes: int, draw: torch.Generator) -> Layers:
    """Draw weights uniformly within 1 / sqrt(inputs), torch's default for linear layers."""

    def drawn(before: int, *shape: int) -> torch.Tensor:
        return (torch.rand(shape, generator=draw) * 2 - 1) / math.sqrt(before)

    sizes = [width, hidden, classes] if hidden else [width, classes]
    return tuple((drawn(before, before, after), drawn(before, after)) for before, after in pairwise(sizes))
