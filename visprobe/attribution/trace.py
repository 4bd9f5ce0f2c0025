"""Activations and gradients of the tokens of each image, in raster order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from visprobe.attribution.subject import Subject
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError


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


def trace(subject: Subject, images: Sequence[Image.Image], sites: Sequence[str]) -> dict[str, list[Trace]]:
    """Activations and gradients of every image at every site, from one forward and one backward pass.

    Args:
        subject: A checkpoint with a question asked of it.
        images: RGB images.
        sites: Names of sites.

    Returns:
        For each site one trace per image, in order.

    Raises:
        DataError: If the score does not depend on a site, or a gradient is not finite.
    """
    traces: dict[str, list[Trace]] = {site: [] for site in sites}
    for graph in subject.forward(images, sites):
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
        raise DataError(
            f"{subject.name}: the score does not depend on {site}",
            hint="Name a site before the one that the score is computed from.",
        )
    if not torch.isfinite(gradient).all():
        raise DataError(
            f"{subject.name}: the gradient at {site} is not finite in {gradient.dtype}",
            hint="Run it in float32: --dtype float32.",
        )
    return gradient
