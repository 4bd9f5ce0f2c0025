"""Subjects of attribution: a checkpoint, and a differentiable number that it gives to each image."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from PIL import Image

from visprobe.encoders import EMBEDDING
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.structure.geometry import View
from visprobe.encoders.tower import Captured, watched
from visprobe.errors import DataError


@dataclass(frozen=True)
class Graph:
    """Result of one forward pass, with its autograd graph.

    Attributes:
        scores: Score of each image, float32 of shape (images,).
        sites: Hidden states at each site that was asked for.
        pixels: Inputs that were forwarded; the floating-point ones require a gradient.
    """

    scores: torch.Tensor
    sites: Mapping[str, Captured]
    pixels: Pixels


class Subject(Protocol):
    """A checkpoint with a score to explain.

    Attributes:
        name: Name of the checkpoint.
        encoder: Encoder of the checkpoint: the tower that runs, its geometry and processor.
    """

    name: str
    encoder: VisionEncoder

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """Modules whose weights take part in the score."""

    def forward(self, images: Sequence[Image.Image], sites: Collection[str], first: int = 0) -> list[Graph]:
        """Forward images, in as few passes as the model allows; each pass runs the tower once.

        Args:
            images: RGB images of any sizes.
            sites: Names of the sites whose states are kept.
            first: Index of the first image among the images that the subject has targets for.

        Returns:
            Graphs that together hold all images, in order.
        """

    def score(self, pixels: Pixels, first: int = 0) -> torch.Tensor:
        """Score preprocessed images; float32 of shape (images,).

        Args:
            pixels: Output of the encoder's `preprocess`, perhaps modified; gradients flow back to it.
            first: Index of the first image among the images that the subject has targets for.
        """


Target = Callable[[list[torch.Tensor], int], torch.Tensor]
"""From the tokens of each image, (1, T, D), and the number of the first image, to scores of shape (images,)."""


class TowerSubject:
    """Subject of an encoder by itself: the score is a function of its tokens at one site.

    Args:
        encoder: Vision encoder.
        target: Function from tokens to scores.
        read: Site of the tokens: "consumed", "projected" or any other, or "embedding", the one token that the tower's
            own head makes of the whole image.
    """

    def __init__(self, encoder: VisionEncoder, target: Target, read: str = "consumed") -> None:
        self.name, self.encoder = encoder.name, encoder
        self._target = target
        self._read = encoder.consumed if read == "consumed" else read

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """Tower and projector."""
        return self.encoder.modules

    def forward(self, images: Sequence[Image.Image], sites: Collection[str], first: int = 0) -> list[Graph]:
        """Forward images, in as few passes as the model allows; see `Subject.forward`."""
        graphs, encoder = [], self.encoder
        for piece in encoder.geometry.pieces(encoder.preprocess(images)):
            with torch.enable_grad():
                graphs.append(self._run(requiring_gradients(self._moved(piece)), sites, first))
            first += len(piece)
        return graphs

    def score(self, pixels: Pixels, first: int = 0) -> torch.Tensor:
        """Score preprocessed images; see `Subject.score`."""
        parts = []
        for piece in self.encoder.geometry.pieces(pixels):
            parts.append(self._run(self._moved(piece), (), first).scores)
            first += len(piece)
        return torch.cat(parts)

    def _moved(self, pixels: Pixels) -> Pixels:
        return pixels.to(self.encoder.device, self.encoder.dtype)

    def _run(self, pixels: Pixels, sites: Collection[str], first: int) -> Graph:
        encoder, states = self.encoder, dict[str, torch.Tensor]()
        in_tower = {*encoder.reads(self._read), *(site for site in sites if site != self._read)}
        for site in in_tower:
            if encoder.reads(site) != (site,):  # another output of the connector
                raise not_reached(self, site)
        with watched(encoder.tower, encoder.family, in_tower, states.__setitem__):
            encoder.geometry.run(encoder.tower, pixels)
        held = {site: encoder.geometry.views(state, pixels, encoder.tower) for site, state in states.items()}
        # The embedding is one token per image, with no prefix token to drop.
        read = encoder.tokens(self._read, self._read == EMBEDDING, held, pixels)
        scores = self._target([one.float() for tokens, _ in read for one in torch.split(tokens, 1)], first)
        found = {site: captured(encoder, pixels, state) for site, state in states.items() if site in sites}
        if self._read in sites and self._read not in states:  # the projector's output
            grids = [grid for _, grid in read]
            found[self._read] = Captured(tuple(tokens for tokens, _ in read), partial(_one_by_one, grids=grids))
        return Graph(scores, found, pixels)


def not_reached(subject: Subject, site: str) -> DataError:
    """Return the error for a site that the score does not depend on."""
    return DataError(
        f"{subject.name}: the score does not depend on {site}",
        hint="Name a site before the one that the score is computed from.",
    )


@contextmanager
def in_float32(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Run `modules` in float32 inside the block; afterwards they have their own tensors back."""
    held = [
        (tensor, tensor.data)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point()
    ]
    try:
        # Assigning `.data` keeps the parameter objects, so that hooks and shared weights still hold.
        for tensor, data in held:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in held:
            tensor.data = data


def requiring_gradients(pixels: Pixels) -> Pixels:
    """Copy the inputs, floating-point ones as leaves that require gradients: frozen weights alone build no graph."""
    inputs = {
        name: tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in pixels.inputs.items()
    }
    return Pixels(inputs, pixels.grids, pixels.mosaics)


def captured(encoder: VisionEncoder, pixels: Pixels, state: torch.Tensor) -> Captured:
    """Wrap a hidden state of the tower with the function that turns it into patch tokens in raster order."""

    def views(tensors: Sequence[torch.Tensor]) -> list[View]:
        found = encoder.geometry.views(tensors[0], pixels, encoder.tower)
        patches = [(tokens[:, encoder.prefix_tokens :], grid) for tokens, grid in found]
        images = encoder.geometry.images(patches, pixels)
        return _one_by_one([tokens for tokens, _ in images], [grid for _, grid in images])

    return Captured((state,), views)


def _one_by_one(tensors: Sequence[torch.Tensor], grids: Sequence[Grid]) -> list[View]:
    return [(one, grid) for tokens, grid in zip(tensors, grids, strict=True) for one in torch.split(tokens, 1)]
