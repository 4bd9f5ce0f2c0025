"""Projectors of original LLaVA by `mm_projector_type`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torch.nn.functional import interpolate

from visprobe.encoders.pixels import Grid
from visprobe.encoders.structure.connector import (
    ACTIVATION,
    Connector,
    ConnectorOutput,
    Project,
    Projector,
    chain,
    side_by_side,
)
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry

_BRIDGED = re.compile(r"mlp(\d+)x_gelu(?:_\d+_\d+\+(\d+))?")
_RESIDUAL = re.compile(r"mlp(\d+)x_res(\d+)x_gelu")
_RESIDUAL_PARTS = {"pre_norm": "pre_norm", "proj.0": "linear_1", "proj.2": "linear_2"}
_POOLER_PARTS = {"conv_pool": "conv", "proj.1": "linear"}
_GELU = {ACTIVATION: "gelu"}
TYPES = "linear, mlpNx_gelu, mlpNx_gelu_IN_HID+K, mlpNx_resMx_gelu, pooler and identity"


@dataclass(frozen=True)
class ProjectorType:
    """Parsed `mm_projector_type`.

    Attributes:
        name: Type as written in config.json.
        linears: Linear layers of its chain; 0 where there is no chain.
        blocks: Residual blocks after the chain.
    """

    name: str
    linears: int = 0
    blocks: int = 0

    def canonical(self, saved: str) -> str:
        """Return the canonical name of the weight `saved`, relative to `model.mm_projector.`."""
        place, _, kind = saved.rpartition(".")
        if self.name == "pooler":
            return f"{_POOLER_PARTS.get(place, place)}.{kind}"
        number, _, part = place.partition(".")
        if not place:
            return f"linear_1.{kind}"
        if not number.isdigit():
            return saved
        # the saved `nn.Sequential` has a GELU between two linear layers: linear i stands at index 2 * (i - 1)
        index, last = int(number), 2 * self.linears - 2
        if part in _RESIDUAL_PARTS and index > last:
            return f"block_{index - last}.{_RESIDUAL_PARTS[part]}.{kind}"
        return f"linear_{index // 2 + 1}.{kind}" if index % 2 == 0 and index <= last and not part else saved


def projector_type(name: str) -> ProjectorType | None:
    """Parse the `mm_projector_type` `name`; None if it is unknown."""
    if name in ("identity", "pooler"):
        return ProjectorType(name)
    if name == "linear":
        return ProjectorType(name, linears=1)
    if found := _BRIDGED.fullmatch(name):
        return ProjectorType(name, linears=int(found[1]) + int(found[2] or 0))
    if found := _RESIDUAL.fullmatch(name):
        return ProjectorType(name, linears=int(found[1]), blocks=int(found[2]))
    return None


class ResidualBlock(nn.Module):
    """LayerNorm, then two linear layers with a GELU between them, added to the normalised tokens.

    Args:
        width: Width of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Transform tokens of shape (…, width)."""
        tokens = self.pre_norm(tokens)
        changed: torch.Tensor = self.linear_2(nn.functional.gelu(self.linear_1(tokens)))
        return tokens + changed


class ResidualProjector(Projector):
    """Chain of linear layers with GELU between them, then residual blocks.

    Args:
        widths: Input width of each linear layer and the output width of the last.
        blocks: Number of residual blocks.
    """

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__(widths, bias=True, activation="gelu")
        self.blocks = blocks
        for number in range(1, blocks + 1):
            self.add_module(f"block_{number}", ResidualBlock(widths[-1]))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Project tokens of shape (B, T, `widths[0]`) to (B, T, `widths[-1]`)."""
        tokens = super().forward(tokens)
        for number in range(1, self.blocks + 1):
            tokens = self.get_submodule(f"block_{number}")(tokens)
        return tokens


class Pooler(nn.Module):
    """Convolution that merges each 2x2 square of tokens, then GELU and a linear layer.

    Args:
        before: Width of the tokens that come from the tower.
        after: Width of the language model.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel_size=2, stride=2)
        self.linear = nn.Linear(after, after)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Pool tokens (B, rows x columns, before) to (B, rows // 2 x columns // 2, after)."""
        pooled = self.conv(_as_image(tokens, grid)).flatten(2).transpose(1, 2)
        projected: torch.Tensor = self.linear(nn.functional.gelu(pooled))
        return projected


def original_connector(
    kind: ProjectorType, entries: Mapping[str, TensorEntry], *, tower_width: int, reads: tuple[str, ...]
) -> Connector:
    """Make the connector of type `kind` whose weights are those of `entries`.

    Args:
        kind: Parsed `mm_projector_type`.
        entries: Weights by canonical name.
        tower_width: Width of the tokens that come from the tower.
        reads: Sites that it reads; their tokens are concatenated.

    Raises:
        CheckpointError: If tensors are missing, unexpected, or do not fit each other, the type or the tower.
    """
    if kind.linears and not kind.blocks:
        connector = chain(entries, activation="gelu", tower_width=tower_width, reads=reads)
        if sum(name.endswith(".weight") for name in entries) != kind.linears:
            raise _misfit(kind, f"{len(entries)} tensors", f"{kind.linears} linear layers")
        return replace(connector, kind=kind.name)
    first = "linear_1.weight" if kind.linears else "conv.weight"
    before, shape = tower_width * len(reads), entries[first].shape if first in entries else ()
    if len(shape) < 2 or shape[1] != before:
        raise _misfit(kind, f"{first} of shape {list(shape)}", f"tokens of width {before}")
    after = shape[0]
    if kind.linears:
        make = partial(ResidualProjector, (before, *[after] * kind.linears), kind.blocks)
        return Connector(kind.name, make, (ConnectorOutput("projected", reads, after, side_by_side),), _GELU)
    return Connector(
        kind.name, partial(Pooler, before, after), (ConnectorOutput("projected", reads, after, _pooled),), _GELU
    )


def resampled(connector: Connector, side: int) -> Connector:
    """Put a bilinear resampling of the tokens to a grid of `side` x `side`, in float32, before `connector`."""
    taps = tuple(replace(tap, project=_after_resampling(tap.project, side)) for tap in connector.taps)
    return replace(connector, taps=taps, settings={**connector.settings, "resampled": f"to {side}x{side}"})


def _after_resampling(project: Project, side: int) -> Project:
    def run(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
        images = [interpolate(_as_image(t, grid).float(), (side, side), mode="bilinear") for t in tokens]
        return project(module, [i.flatten(2).transpose(1, 2).to(tokens[0].dtype) for i in images], (side, side))

    return run


def _as_image(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)


def _pooled(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    projected: torch.Tensor = module(torch.cat(list(tokens), dim=-1), grid)
    return projected


def _misfit(kind: ProjectorType, found: str, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"the projector holds {found}, and {kind.name} after this tower means {wanted}",
        hint="Check that config.json belongs to these weights, and tower and projector to the same checkpoint.",
    )
