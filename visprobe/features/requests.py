"""Requests of analyses to an encoder: a site, and how an image's tokens there become one row.

"block_12" is the mean over patch tokens; "block_12:cls" the class token; "heads_12" the mean of the attention
heads' outputs side by side; "block_12:norms" the norm of every patch token; "block_12:tokens" all patch tokens;
"block_12:quarters" the mean over each quarter of a square grid, row by row. The last three need images of
one grid. "block_12:drawn" is 32 of the patch tokens, whatever their number.

"embedding" is what the tower's own class returns for the whole image: attention pooling of SigLIP, the normalised class
token of CLIP and DINO, the pooler of ViT; for a two-tower checkpoint of CLIP after its visual projection. It takes no
reduction. Only encoders with `VisionEncoder.embeds`, or with a borrowed head, have it: many multimodal checkpoints
drop the pooling head, and a missing head is never initialised at random. It is no site, and need not be on the path of
the MLLM's loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from visprobe.encoders import EMBEDDING
from visprobe.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder

Reduce = Callable[[torch.Tensor], torch.Tensor]
DRAWN = 32  # patch tokens of "drawn"; an image with fewer repeats some


def read_sites(encoder: VisionEncoder) -> list[str]:
    """Return the site that the MLLM reads, and the projector's output if there is a projector."""
    return [encoder.consumed, "projected"] if encoder.has_projector else [encoder.consumed]


def _mean(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.mean(dim=1)


def _first(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[:, 0]


def _norms(tokens: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = tokens.norm(dim=-1)
    return norms


def _tokens(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.half()  # thousands of numbers per image, of which only differences are used


def _drawn(tokens: torch.Tensor) -> torch.Tensor:
    # Places depend on the number of tokens alone: every checkpoint gets the same patches of an image.
    count = tokens.shape[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    places = order.repeat(math.ceil(DRAWN / count))[:DRAWN].sort().values
    return tokens[:, places.to(tokens.device)].half()


def _quarters(tokens: torch.Tensor) -> torch.Tensor:
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1] or side < 2:
        raise UsageError(
            f"{tokens.shape[1]} tokens lie in no square grid: there are no quarters to take",
            hint="Leave this analysis out for this encoder.",
        )
    grid = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    # In an odd grid the middle row and column belong to both of their sides.
    return torch.nn.functional.adaptive_avg_pool2d(grid, 2).flatten(2).transpose(1, 2)


REDUCTIONS: dict[str, Reduce] = {
    "cls": _first, "norms": _norms, "tokens": _tokens, "quarters": _quarters, "drawn": _drawn,
}  # fmt: skip


def resolved(encoder: VisionEncoder, requests: Iterable[str]) -> list[str]:
    """Return the requests with "consumed" replaced by the encoder's own site, each once.

    Raises:
        CheckpointError: If the encoder has no such site, or no embedding.
        UsageError: If tokens are asked of an encoder whose images have grids of their own.
    """
    known = {EMBEDDING, *(site.name for site in encoder.sites), *encoder.head_sites}
    found = list(dict.fromkeys(_named(encoder, request) for request in requests))
    if EMBEDDING in found and not (encoder.embeds or encoder.head):
        raise CheckpointError(
            f"{encoder.name} gives no embedding of a whole image: its checkpoint holds no pooling head",
            hint="Many multimodal checkpoints drop it. Pool the tokens of a site, or take a checkpoint that has it.",
        )
    if unknown := [request for request in found if site_of(request) not in known]:
        raise CheckpointError(
            f"{encoder.name} has no site {', '.join(unknown)}",
            hint=f"It has {', '.join(site.name for site in encoder.sites)}.",
        )
    if encoder.grid is None and any(request.endswith((":norms", ":tokens", ":quarters")) for request in found):
        raise UsageError(
            f"{encoder.name} gives each image its own number of tokens: they cannot be compared one by one",
            hint="Leave this analysis out for towers of native resolution.",
        )
    return found


def site_of(request: str) -> str:
    """Return the site of a request."""
    return request.partition(":")[0]


def forwarded(request: str) -> tuple[str, Reduce]:
    """Return the site and the reduction of a request, as `VisionEncoder.reduced` takes them."""
    site, _, reduction = request.partition(":")
    return (f"{site}:cls" if reduction == "cls" else site), REDUCTIONS.get(reduction, _mean)


def to_array(rows: torch.Tensor) -> NDArray[np.floating]:
    """Convert rows of a request to the stored dtype: tokens float16, all else float32."""
    kept: NDArray[np.floating] = (rows if rows.dtype == torch.float16 else rows.float()).cpu().numpy()
    return kept


def _named(encoder: VisionEncoder, request: str) -> str:
    site, colon, reduction = request.partition(":")
    if colon and site == EMBEDDING:
        raise UsageError(f"{request}: an embedding is one token and takes no reduction", hint=f"Ask for {EMBEDDING}.")
    if colon and reduction not in REDUCTIONS:
        raise UsageError(f"{request} asks for the unknown {reduction}", hint=f"Known: {', '.join(REDUCTIONS)}.")
    return f"{encoder.consumed if site == 'consumed' else site}{colon}{reduction}"
