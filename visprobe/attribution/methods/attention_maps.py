"""Maps over patches from attention probabilities: rollout, and attention weighted by its gradient.

A row of the product of all blocks' attention says how much each input token reaches one output token. A site is read as
a mean of rows, so one row vector is multiplied through the blocks, from the last to the first, and no product of two
matrices is needed. It has one number per token, in the order of the blocks' tokens; the tower's geometry brings it to
raster order like a hidden state of width 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from visprobe.attribution.map import Map
from visprobe.attribution.methods.trace import finite
from visprobe.attribution.targets.subject import Graph, Subject, not_reached
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.tower import Captured
from visprobe.errors import UsageError

ATTENTION_MAPS = ("rollout", "gradient-attention")
_NAME = "visprobe_recorded"
Gradient = torch.Tensor | None
Records = list[list[torch.Tensor]]
"""For each block the attention probabilities (B, heads, queries, keys) of each of its windows, in the tokens' order."""


def attention_maps(
    subject: Subject, images: Sequence[Image.Image], methods: Sequence[str], sites: Sequence[str], first: int = 0
) -> dict[tuple[str, str], list[Map]]:
    """Compute maps from the attention of the blocks up to each site.

    "rollout" multiplies, over blocks, half the mean attention of all heads plus half the identity (the residual path).
    It does not depend on the score. The map is the row of the class token if the tower has one, else the mean row of
    the patch tokens.

    "gradient-attention" accumulates R = R + mean over heads of max(0, gradient x attention) R, from the identity on.
    The map is the mean row of the patch tokens that the score reads, i.e. whose attention has a gradient in the last
    block; if there are none (a score of the class token), it is the row of the class token.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images.
        methods: Names in `ATTENTION_MAPS`.
        sites: Names of sites; for an output of the connector, the last block that it reads is used.
        first: Index of the first image among the subject's targets.

    Returns:
        One non-negative map per image by method and site, registers and class token left out.

    Raises:
        DataError: If the score does not depend on a site's attention.
        NotFinite: If a gradient is not finite.
        UsageError: If a site lies before the first block, or the tower does not compute its attention through
            transformers' interface.

    Source:
        Abnar & Zuidema 2020 (2005.00928), section 3; Chefer et al. 2021 (2103.15679), equations 5 and 6.
    """
    encoder = subject.encoder
    ends = {site: _blocks(encoder, site) for site in sites}
    names = {site: f"block_{end:02d}" for site, end in ends.items()}
    found: dict[tuple[str, str], list[Map]] = {(method, site): [] for method in methods for site in sites}
    with recorded(encoder) as runs:
        graphs = subject.forward(images, sorted(set(names.values())), first)
    for graph, run in zip(graphs, _checked(encoder, runs, len(graphs)), strict=True):
        scores = graph.scores.detach().float().cpu().tolist()
        gradients = _gradients(subject, graph, run[: max(ends.values())]) if "gradient-attention" in methods else []
        for method, site in found:
            state, blocks = graph.sites[names[site]], slice(0, ends[site])
            if method == "rollout":
                values = _rollout(encoder, graph, state, run[blocks])
            else:
                values = _gradient_attention(subject, site, graph, state, run[blocks], gradients[blocks])
            found[method, site] += [Map(one, score, method, site) for one, score in zip(values, scores, strict=True)]
    return found


@contextmanager
def recorded(encoder: VisionEncoder) -> Iterator[list[Records]]:
    """Compute attention of the tower of `encoder` explicitly inside the block, and record its probabilities.

    Yields:
        A list that gets one entry for each forward pass of the tower.
    """
    runs: list[Records] = []
    tower, number = encoder.tower, 0
    blocks = [block for path, _ in encoder.family.blocks for block in tower.get_submodule(path).children()]

    def enter(block: int) -> None:
        nonlocal number
        number = block
        if block == 0:
            runs.append([[] for _ in blocks])

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shared = query.shape[1] // key.shape[1]  # heads that read the same keys and values
        key, value = (part.repeat_interleave(shared, dim=1) for part in (key, value))
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            logits = logits + attention_mask
        probabilities = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        runs[-1][number].append(probabilities)
        return (probabilities @ value).transpose(1, 2).contiguous(), probabilities

    with ExitStack() as stack:
        for place, block in enumerate(blocks):
            stack.enter_context(block.register_forward_pre_hook(lambda *_, place=place: enter(place)))
        stack.enter_context(_attention(tower, attend))
        yield runs


@contextmanager
def _attention(tower: torch.nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Use `function` as the attention of `tower` inside the block."""
    # Transformers looks the function up by the name in a module's config; blocks may share one config object.
    configs = {id(c): c for module in tower.modules() if (c := getattr(module, "config", None)) is not None}
    before = [(config, config._attn_implementation) for config in configs.values()]
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, eager_mask)
    ALL_ATTENTION_FUNCTIONS[_NAME] = function
    try:
        for config, _ in before:
            config._attn_implementation = _NAME
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
        del ALL_ATTENTION_FUNCTIONS[_NAME]


def _checked(encoder: VisionEncoder, runs: list[Records], graphs: int) -> list[Records]:
    if len(runs) != graphs or not all(all(run) for run in runs):
        raise UsageError(
            f"{encoder.name}: {type(encoder.tower).__name__} does not compute its attention where it can be recorded",
            hint="Leave out rollout and gradient-attention; the other methods work for every tower.",
        )
    return runs


def _blocks(encoder: VisionEncoder, site: str) -> int:
    """Return the number of blocks before `site`."""
    depth = encoder.family.depth(encoder.config)
    end = max(depth if read == "final_norm" else int(read.removeprefix("block_")) for read in encoder.reads(site))
    if end == 0:
        raise UsageError(
            f"{encoder.name}: there is no attention before {site}", hint="Name a site after the first block."
        )
    return end


def _gradients(subject: Subject, graph: Graph, run: Records) -> list[list[Gradient]]:
    every = [record for block in run for record in block]
    found = iter(torch.autograd.grad(graph.scores.sum(), every, allow_unused=True))
    gradients: list[list[Gradient]] = [[next(found) for _ in block] for block in run]
    for number, block in enumerate(gradients, start=1):
        for gradient in block:
            if gradient is not None:
                finite(subject, f"the gradient at the attention of block_{number:02d}", gradient)
    return gradients


def _rollout(encoder: VisionEncoder, graph: Graph, state: Captured, run: Records) -> list[torch.Tensor]:
    row = _class_row(encoder, graph, state) if encoder.family.has_cls else _mean_row(state)
    for block in reversed(run):
        row = (row + _through(row, [record.detach().float().mean(dim=1) for record in block])) / 2
    return _maps(state, row)


def _gradient_attention(
    subject: Subject, site: str, graph: Graph, state: Captured, run: Records, gradients: Sequence[Sequence[Gradient]]
) -> list[torch.Tensor]:
    if any(gradient is None for block in gradients for gradient in block):
        raise not_reached(subject, f"the attention before {site}")
    read = torch.cat([gradient.ne(0).any(dim=3).any(dim=1) for gradient in gradients[-1] if gradient is not None], 1)
    row = _mean_row(state)
    row = row * read.reshape(row.shape)
    # Share of patch tokens that are read: the division below makes the row a mean over these tokens alone.
    shares = [float(values.sum()) for values in _maps(state, row)]
    if not any(shares) and subject.encoder.family.has_cls:
        row = _class_row(subject.encoder, graph, state)
    for records, own in zip(reversed(run), reversed(gradients), strict=True):
        row = row + _through(row, [_weighted(*pair) for pair in zip(records, own, strict=True)])
    return [values / (share or 1.0) for values, share in zip(_maps(state, row), shares, strict=True)]


def _weighted(probabilities: torch.Tensor, gradient: Gradient) -> torch.Tensor:
    assert gradient is not None  # checked for all of them at once
    return (gradient.float() * probabilities.detach().float()).clamp(min=0).mean(dim=1)


def _through(row: torch.Tensor, attention: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply the row vector `row` by the attention of one block, given as (B, queries, keys) windows."""
    parts = torch.split(row.reshape(len(attention[0]), -1), [window.shape[1] for window in attention], dim=1)
    through = [(part[:, None] @ window)[:, 0] for part, window in zip(parts, attention, strict=True)]
    return torch.cat(through, dim=1).reshape(row.shape)


def _mean_row(state: Captured) -> torch.Tensor:
    """Return the weight of each token of a state in the mean patch token of its image, in the state's shape."""
    return _adjoint(state, lambda row: sum(tokens.mean() for tokens, _ in state.views([row])))


def _class_row(encoder: VisionEncoder, graph: Graph, state: Captured) -> torch.Tensor:
    """Return the weight of each token in the class token of its image, or in the mean over its tiles' class tokens."""
    pixels = graph.pixels

    def total(row: torch.Tensor) -> Any:
        tokens = [tokens[:, 0] for tokens, _ in encoder.geometry.views(row, pixels, encoder.tower)]
        return torch.cat(tokens).mean() * len(pixels)

    return _adjoint(state, total)


def _adjoint(state: Captured, total: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    """Return the weight of each token of a state in `total`, a linear function of one number per token."""
    # The gradient of a linear function is its weights, in the tokens' own order: no geometry has to be inverted.
    (leaf,) = state.leaves
    row = torch.zeros(*leaf.shape[:-1], 1, device=leaf.device, requires_grad=True)
    with torch.enable_grad():
        (weights,) = torch.autograd.grad(total(row), row)
    return weights[..., 0]


def _maps(state: Captured, row: torch.Tensor) -> list[torch.Tensor]:
    """Arrange one number per token of a state as the map of each image."""
    return [tokens[0, :, 0].reshape(grid).cpu() for tokens, grid in state.views([row[..., None]])]
