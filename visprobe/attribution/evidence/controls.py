"""Controls that a map must beat: a bias to the centre of the picture, and the same method on random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from visprobe.encoders.pixels import Grid

_VARIANCE, _ANISOTROPY = 0.22, 0.45  # of Clarke & Tatler, over ten sets of fixations


def centre_map(grid: Grid) -> torch.Tensor:
    """Return the centre bias of human fixations: a Gaussian around the middle, wider than high.

    In units of half the picture's width, its variance is 0.22 across and 0.45 x 0.22 down.

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
    """Protocol of `Subject` and `VisionEncoder` for `randomised`."""

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """Modules whose weights take part."""


@contextmanager
def randomised(subject: HasModules, seed: int) -> Iterator[None]:
    """Run a model with random weights inside the block: the model parameter randomisation test.

    Every floating-point parameter of all modules is drawn from a normal distribution of its own mean and standard
    deviation, in its own shape and dtype. Constant ones, such as a bias of zeros, stay as they are, and so do buffers.
    Afterwards the parameters have their original tensors back.

    `VisionEncoder.untrained` differs: it is a separate encoder, freshly initialised by transformers. Here the mean and
    spread of every tensor are kept, so that activations stay of the same order, and a language model behind the tower
    is random as well.

    Args:
        subject: Subject of attribution, or encoder. Other objects that share its weights are random as well inside the
            block.
        seed: Seed of the weights; the same seed gives the same weights, bit for bit.

    Source:
        Adebayo et al. 2018 (1810.03292), model parameter randomization test, all layers at once.
        Differs from source: initial values are not drawn from the initialiser but at each tensor's mean and spread.
    """
    generator = torch.Generator().manual_seed(seed)
    held: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        # A tower may be listed by itself and inside the whole model: each parameter is drawn once.
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
