"""Activations and gradients of the patch tokens of each image, in raster order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from visprobe.attribution.targets.subject import Subject, not_reached
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError


class NotFinite(DataError):
    """Error for a number that overflows the dtype in which the model runs."""


@dataclass(frozen=True)
class Trace:
    """Activations and gradients of one image at one site.

    Attributes:
        activations: Patch tokens in raster order, float32 of shape (T, D), on the CPU.
        gradients: Gradient of the image's score with respect to them, the same shape.
        grid: Rows and columns of patches.
        score: Score of the image.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    grid: Grid
    score: float


def trace(
    subject: Subject, images: Sequence[Image.Image], sites: Sequence[str], first: int = 0
) -> dict[str, list[Trace]]:
    """Compute activations and gradients of every image at every site, from one forward and one backward pass.

    Args:
        subject: Checkpoint with a score to explain.
        images: RGB images.
        sites: Names of sites.
        first: Index of the first image among the subject's targets.

    Returns:
        One trace per image by the name of the site, in order.

    Raises:
        DataError: If the score does not depend on a site.
        NotFinite: If a gradient is not finite.
    """
    traces: dict[str, list[Trace]] = {site: [] for site in sites}
    for graph in subject.forward(images, sites, first):
        leaves = [leaf for site in sites for leaf in graph.sites[site].leaves]
        # Images do not interact, so the gradient of the summed scores is that of each image's own score.
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
    """Return `tensor`; refuse values that are not finite.

    Raises:
        NotFinite: If there is one.
    """
    if not torch.isfinite(tensor).all():
        raise NotFinite(
            f"{subject.name}: {what} is not finite in {str(subject.encoder.dtype).removeprefix('torch.')}",
            hint="Run it in float32: --dtype float32.",
        )
    return tensor
