"""Activations and gradients of the tokens of each image, in raster order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from visprobe.attribution.targets.subject import Subject, not_reached
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError


class NotFinite(DataError):
    """A number that the dtype in which the model runs cannot hold."""


@dataclass(frozen=True)
class Trace:
    """One image at one site.

    Attributes:
        activations: Patch tokens in raster order, float32 of shape (T, D), on the CPU.
        gradients: Derivative of the image's score by them, the same shape.
        grid: Rows and columns of the patches.
        score: The number that was asked for.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    grid: Grid
    score: float


def trace(
    subject: Subject, images: Sequence[Image.Image], sites: Sequence[str], first: int = 0
) -> dict[str, list[Trace]]:
    """Activations and gradients of every image at every site, from one forward and one backward pass.

    Args:
        subject: A checkpoint with a question asked of it.
        images: RGB images.
        sites: Names of sites.
        first: Which of the question's images the first one is.

    Returns:
        For each site one trace per image, in order.

    Raises:
        DataError: If the score does not depend on a site.
        NotFinite: If a gradient is not finite.
    """
    traces: dict[str, list[Trace]] = {site: [] for site in sites}
    for graph in subject.forward(images, sites, first):
        leaves = [leaf for site in sites for leaf in graph.sites[site].leaves]
        # Images do not see each other, so the gradient of the sum holds that of every image's own score.
        gradients = list(torch.autograd.grad(graph.scores.sum(), leaves, allow_unused=True))
        scores = graph.scores.detach().float().cpu().tolist()
        for site in sites:
            found = graph.sites[site]
            own = [gradients.pop(0) for _ in found.leaves]
            checked = [_checked(subject, site, gradient) for gradient in own]
            seen = zip(found.views([leaf.detach() for leaf in found.leaves]), found.views(checked), strict=True)
            for ((activation, grid), (gradient, _)), score in zip(seen, scores, strict=True):
                traces[site].append(Trace(_row(activation), _row(gradient), grid, score))
    return traces


def _row(tokens: torch.Tensor) -> torch.Tensor:
    return tokens[0].detach().float().cpu()


def _checked(subject: Subject, site: str, gradient: torch.Tensor | None) -> torch.Tensor:
    if gradient is None:
        raise not_reached(subject, site)
    return finite(subject, f"the gradient at {site}", gradient)


def finite(subject: Subject, what: str, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` if it has finite values only.

    Raises:
        NotFinite: If it has others.
    """
    if not torch.isfinite(tensor).all():
        raise NotFinite(
            f"{subject.name}: {what} is not finite in {str(subject.encoder.dtype).removeprefix('torch.')}",
            hint="Run it in float32: --dtype float32.",
        )
    return tensor
