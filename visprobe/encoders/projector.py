"""The projector between tower and language model: linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from transformers.activations import ACT2FN

from visprobe.errors import CheckpointError


class Projector(nn.Module):
    """`linear_1`, activation, `linear_2`, activation, … `linear_n`; the last layer has no activation.

    Args:
        widths: Input width of each layer and the output width of the last.
        bias: Whether the layers have a bias.
        activation: Name of the activation in transformers.
    """

    def __init__(self, widths: tuple[int, ...], *, bias: bool, activation: str) -> None:
        super().__init__()
        self.widths, self.bias, self.activation = widths, bias, activation
        self.count = len(widths) - 1
        for number in range(1, self.count + 1):
            self.add_module(f"linear_{number}", nn.Linear(widths[number - 1], widths[number], bias=bias))
        self.act = ACT2FN[activation]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project tokens of shape (B, T, `widths[0]`) to (B, T, `widths[-1]`)."""
        for number in range(1, self.count + 1):
            tokens = self.get_submodule(f"linear_{number}")(tokens if number == 1 else self.act(tokens))
        return tokens

    def fresh(self) -> Projector:
        """A projector of the same shape with weights as transformers draws them: N(0, 0.02²), zero bias."""
        other = Projector(self.widths, bias=self.bias, activation=self.activation)
        for name, parameter in other.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=0.02)
        return other


def build_projector(tensors: Mapping[str, torch.Tensor], *, activation: str, tower_width: int) -> Projector:
    """The projector whose weights are `tensors`, in their widest dtype.

    Args:
        tensors: `linear_1.weight` (out, in), `linear_1.bias` (out), … without gaps.
        activation: Name of the activation in transformers.
        tower_width: Width of the tokens that come from the tower.

    Raises:
        CheckpointError: If tensors are missing, unexpected, or do not fit each other or the tower, or the activation
            is unknown.
    """
    count = sum(name.endswith(".weight") for name in tensors)
    bias = "linear_1.bias" in tensors
    kinds = ("weight", "bias") if bias else ("weight",)
    expected = {f"linear_{n}.{kind}" for n in range(1, count + 1) for kind in kinds}
    if not tensors or set(tensors) != expected or any(tensors[n].dim() != 2 for n in tensors if n.endswith("weight")):
        raise CheckpointError(
            f"the projector is not a chain of linear layers: it holds {', '.join(sorted(tensors)) or 'no tensors'}",
            hint="Supported projectors are linear, mlpNx_gelu and identity.",
        )
    weights = [tensors[f"linear_{n}.weight"] for n in range(1, count + 1)]
    widths = (weights[0].shape[1], *(weight.shape[0] for weight in weights))
    if widths[0] != tower_width or any(w.shape[1] != widths[n] for n, w in enumerate(weights)):
        shapes = ", ".join(str(list(weight.shape)) for weight in weights)
        raise CheckpointError(
            f"projector layers of shapes {shapes} do not follow a tower of width {tower_width}",
            hint="Check that tower and projector come from the same checkpoint.",
        )
    if activation not in ACT2FN:
        raise CheckpointError(f"the projector's activation {activation!r} is unknown", hint="Check config.json.")
    dtype = widest(tensors)
    with torch.device("meta"):
        projector = Projector(widths, bias=bias, activation=activation)
    projector.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    return projector


def widest(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The narrowest dtype that holds every tensor of `tensors` exactly."""
    dtypes = [tensor.dtype for tensor in tensors.values()]
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result
