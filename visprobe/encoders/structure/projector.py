"""Plain projector: linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from transformers.activations import ACT2FN

from visprobe.encoders.structure.connector import Connector, Tap, side_by_side, token_by_token
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry

ACTIVATION = "projector_hidden_act"  # the name of the field in transformers


class Projector(nn.Module):
    """Chain `linear_1`, activation, `linear_2`, activation, … `linear_n`; the last layer has no activation.

    Args:
        widths: Input width of each layer and the output width of the last.
        bias: True for layers with a bias.
        activation: Name of the activation in transformers.
    """

    def __init__(self, widths: tuple[int, ...], *, bias: bool, activation: str) -> None:
        super().__init__()
        self.count = len(widths) - 1
        for number in range(1, self.count + 1):
            self.add_module(f"linear_{number}", nn.Linear(widths[number - 1], widths[number], bias=bias))
        self.act = ACT2FN[activation]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project tokens of shape (B, T, `widths[0]`) to (B, T, `widths[-1]`)."""
        for number in range(1, self.count + 1):
            tokens = self.get_submodule(f"linear_{number}")(tokens if number == 1 else self.act(tokens))
        return tokens


def chain(
    entries: Mapping[str, TensorEntry], *, activation: str, tower_width: int, reads: tuple[str, ...]
) -> Connector:
    """Make the connector whose weights are those of `entries`.

    Args:
        entries: `linear_1.weight` of shape (out, in), `linear_1.bias` (out), … without gaps.
        activation: Name of the activation in transformers.
        tower_width: Width of the tokens that come from the tower.
        reads: Sites that it reads; their tokens are concatenated.

    Raises:
        CheckpointError: If tensors are missing, unexpected, or do not fit each other or the tower, or the activation
            is unknown.
    """
    count = sum(name.endswith(".weight") for name in entries)
    bias = "linear_1.bias" in entries
    kinds = ("weight", "bias") if bias else ("weight",)
    expected = {f"linear_{n}.{kind}" for n in range(1, count + 1) for kind in kinds}
    if (
        not entries
        or set(entries) != expected
        or any(len(entries[f"linear_{n}.weight"].shape) != 2 for n in range(1, count + 1))
    ):
        raise CheckpointError(
            f"the projector is not a chain of linear layers: it holds {', '.join(sorted(entries)) or 'no tensors'}",
            hint="Check that the configuration belongs to these weights and that the checkpoint is complete.",
        )
    shapes = [entries[f"linear_{n}.weight"].shape for n in range(1, count + 1)]
    widths = (shapes[0][1], *(shape[0] for shape in shapes))
    if widths[0] != tower_width * len(reads) or any(shape[1] != widths[n] for n, shape in enumerate(shapes)):
        raise CheckpointError(
            f"projector layers of shapes {', '.join(str(list(shape)) for shape in shapes)} do not follow a tower of "
            f"width {tower_width}",
            hint="Check that tower and projector come from the same checkpoint.",
        )
    if activation not in ACT2FN:
        raise CheckpointError(f"the projector's activation {activation!r} is unknown", hint="Check config.json.")
    make = partial(Projector, widths, bias=bias, activation=activation)
    kind = "linear" if count == 1 else f"mlp{count}x_{activation}"
    project = token_by_token if len(reads) == 1 else side_by_side
    return Connector(kind, make, (Tap("projected", reads, widths[-1], project),), {ACTIVATION: activation})
