"""What a map must beat: a bias to the middle of the picture, and the same method on a model of random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from visprobe.encoders.pixels import Grid

_VARIANCE, _ANISOTROPY = 0.22, 0.45  # of Clarke & Tatler, over ten sets of fixations


def centre_map(grid: Grid) -> torch.Tensor:
    """Where people look at pictures whatever these show: a Gaussian around the middle, flatter than wide.

    Across, where the picture reaches from -1 to 1, its variance is 0.22; down, in the same units, 0.45 of that.

    Args:
        grid: Rows and columns of square patches.

    Returns:
        Positive map of sum 1, float32 of shape (rows, columns): the density in the middle of each patch.

    Source:
        Clarke & Tatler 2014, "Deriving an appropriate baseline for describing fixation behaviour".
    """
    rows, columns = grid
    down, across = ((2 * torch.arange(n, dtype=torch.float64) + 1 - n) / columns for n in (rows, columns))
    exponent = (down**2 / _ANISOTROPY)[:, None] + (across**2)[None]
    density = torch.exp(-exponent / (2 * _VARIANCE))
    return (density / density.sum()).float()


class HasModules(Protocol):
    """A `Subject` of any kind, or a `VisionEncoder`."""

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """All modules whose weights take part."""


@contextmanager
def randomised(subject: HasModules, seed: int) -> Iterator[None]:
    """Let a model run with random weights inside the block: the model parameter randomisation test.

    Every floating-point parameter of all its modules is drawn anew from a normal distribution of its own mean and
    standard deviation, in its own shape and dtype; those of one value only, such as a bias of zeros, stay as they
    are, and so do buffers. Afterwards the weights are the very tensors that were there before.

    `VisionEncoder.untrained` differs: it is another encoder, of the weights with which transformers begins training,
    without what training did to their scale. Here means and spreads of all tensors stay, so that activations remain
    of the order that the model had, and a language model behind the tower is random as well.

    Args:
        subject: A subject of attribution, or an encoder. Others that share its weights are random as well, as long as
            the block lasts.
        seed: The same seed gives the same weights, bit for bit.

    Source:
        Adebayo et al. 2018 (1810.03292), model parameter randomization test, all layers at once.
        Differs from source: initial values are not drawn from the initialiser but at each tensor's mean and spread.
    """
    generator = torch.Generator().manual_seed(seed)
    held: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        # A tower may be there by itself and inside the whole model: each parameter is drawn once.
        for parameter in dict.fromkeys(p for module in subject.modules for p in module.parameters()):
            if parameter.is_floating_point():
                held.append((parameter, parameter.data))
                parameter.data = _redrawn(parameter.data, generator)
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


def _redrawn(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    spread, mean = torch.std_mean(weights.float().cpu(), correction=0)
    if not spread > 0:
        return weights
    drawn = torch.randn(weights.shape, generator=generator) * spread + mean
    return drawn.to(weights)
