"""Connectors between a tower and the language model (the plain projector too), and the states that they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.pixels import Grid
from visprobe.encoders.settings import connector_settings
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import TensorEntry

Project = Callable[[nn.Module, Sequence[torch.Tensor], Grid], torch.Tensor]
Connect = Callable[[Any, Mapping[str, TensorEntry], tuple[str, ...]], "Connector"]
_ANY_GRID = (24, 24)  # for towers of native resolution: squares of 2, 3 and 4 patches fit into it


@dataclass(frozen=True)
class ConnectorOutput:
    """Output of the connector, which is a site of the encoder.

    Attributes:
        name: "projected", or "deepstack_1", … where a language model reads more than one.
        reads: Sites of the tower that it is made from.
        width: Width of its tokens.
        project: Maps the connector, patch tokens (B, T, D) of each site read, and their grid to tokens (B, T', width)
            in raster order.
    """

    name: str
    reads: tuple[str, ...]
    width: int
    project: Project


@dataclass(frozen=True)
class Connector:
    """Projector and everything else between tower and language model.

    Attributes:
        kind: Name for messages: "mlp2x_gelu", "Qwen2_5_VLPatchMerger".
        make: Returns a module with fresh weights; its parameter names are the canonical names of the weights.
        taps: Outputs.
        settings: Settings that the output depends on beside weights and configuration, by name.
        made_by: Function that made this connector of `config`, if one did.
        config: Configuration of the multimodal model that it was made of, if any.
    """

    kind: str
    make: Callable[[], nn.Module]
    taps: tuple[ConnectorOutput, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_by: Callable[[Any], Connector] | None = None
    config: Any = None

    def depends_on(self, width: int, grid: Grid | None) -> dict[str, Any]:
        """Return what the output depends on beside weights and the tower's configuration, by name, as plain JSON.

        The connector is made and run once more with a configuration that notes each field read, so none is forgotten.

        Args:
            width: Width of the tower's tokens.
            grid: Rows and columns of its patches, or None where they depend on the image.
        """
        made_by, shape = self.made_by, grid or _ANY_GRID
        if made_by is None:
            return dict(self.settings)
        read = connector_settings(self.config, lambda config: made_by(config).try_out(width, shape))
        return {**self.settings, **read}

    def try_out(self, width: int, grid: Grid) -> None:
        """Make the module and compute every output once, on the meta device.

        Args:
            width: Width of the tower's tokens.
            grid: Rows and columns of its patches.
        """
        with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad(), no_init_weights():
            module = self.make().eval()
            for tap in self.taps:
                tokens = [torch.empty(1, grid[0] * grid[1], width) for _ in tap.reads]
                tap.project(module, tokens, grid)

    def build(self, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """Build the module with the weights `tensors`, in their widest dtype.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape.
        """
        dtype = widest(tensors)
        with no_init_weights():  # drawing weights only to replace them takes seconds for a large merger
            module = self.make()
        try:
            module.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
        except RuntimeError as error:
            faults = " ".join(line.strip() for line in str(error).splitlines()[1:3])
            raise CheckpointError(
                f"the tensors do not make a {self.kind}: {faults}",
                hint="Check that config.json belongs to these weights and that the checkpoint is complete.",
            ) from error
        return module.eval().requires_grad_(False)

    def fresh(self) -> nn.Module:
        """Make the module as at the start of training: matrices from N(0, 0.02²), biases zero, norms at identity."""
        with torch.random.fork_rng(devices=[]):
            module = self.make()
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        return module


def token_by_token(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """Project with a module that reads one site and treats every token alike."""
    projected: torch.Tensor = module(tokens[0])
    return projected


def side_by_side(module: nn.Module, tokens: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """Project with a module that reads the tokens of several sites joined along their width."""
    projected: torch.Tensor = module(torch.cat(list(tokens), dim=-1))
    return projected


def of_class(
    cls: Callable[[Any], nn.Module],
    *,
    width: Callable[[Any], Any] = lambda config: config.text_config.hidden_size,
    project: Project = token_by_token,
) -> Connect:
    """Return a function that makes the connector that is one transformers class of a model's configuration.

    Args:
        cls: Class whose constructor takes the configuration.
        width: Maps the configuration to the width of its output; by default that of the language model.
        project: Maps module, tokens of each site read and grid to projected tokens, as `ConnectorOutput.project`.
    """

    def connect(config: Any, entries: Mapping[str, TensorEntry], reads: tuple[str, ...]) -> Connector:
        tap = ConnectorOutput("projected", reads, int(width(config)), project)
        return Connector(getattr(cls, "__name__", str(cls)), partial(cls, config), (tap,))

    return connect


def configured(made_by: Callable[[Any], Connector], config: Any) -> Connector:
    """Make the connector `made_by(config)`, whose settings are the fields of `config` that it reads.

    Args:
        made_by: Maps a configuration to the connector; called again when settings are asked for.
        config: Configuration of the multimodal model.
    """
    return replace(made_by(config), made_by=made_by, config=config)


def widest(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return the narrowest dtype that holds every tensor of `tensors` exactly."""
    dtypes = [tensor.dtype for tensor in tensors.values()]
    result = dtypes[0]
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result


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
    return Connector(kind, make, (ConnectorOutput("projected", reads, widths[-1], project),), {ACTIVATION: activation})
