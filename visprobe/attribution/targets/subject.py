"""What is explained: one checkpoint, and a number that it gives to each image, with the graph kept behind it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from PIL import Image

from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Grid, Pixels
from visprobe.encoders.structure.geometry import View
from visprobe.encoders.watch import EMBEDDING, Captured, watched
from visprobe.errors import DataError


@dataclass(frozen=True)
class Graph:
    """One forward pass, still differentiable.

    Attributes:
        scores: The number asked for, float32 of shape (images,).
        sites: What was computed at each site that was asked for.
        pixels: The inputs that were forwarded; the floating-point ones require a gradient.
    """

    scores: torch.Tensor
    sites: Mapping[str, Captured]
    pixels: Pixels


class Subject(Protocol):
    """A checkpoint with a question asked of it.

    Attributes:
        name: Name of the checkpoint.
        encoder: Its encoder: the tower that runs, its geometry and processor.
    """

    name: str
    encoder: VisionEncoder

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """All modules whose weights take part."""

    def forward(self, images: Sequence[Image.Image], sites: Collection[str], first: int = 0) -> list[Graph]:
        """Forward images, in as few passes as the model allows; each pass runs the tower once.

        Args:
            images: RGB images of any sizes.
            sites: Names of the sites whose states are kept.
            first: Which of the question's images the first one is, where each has a target of its own.

        Returns:
            Graphs that together hold all images, in order.
        """

    def score(self, pixels: Pixels, first: int = 0) -> torch.Tensor:
        """The number asked for, of images that are pixels already; float32 of shape (images,).

        Args:
            pixels: What `preprocess` of the encoder makes, perhaps changed since; where one of them requires a
                gradient, the score has it.
            first: Which of the question's images the first one is, where each has a target of its own.
        """


Target = Callable[[list[torch.Tensor], int], torch.Tensor]
"""From the tokens of each image, (1, T, D), and the number of the first image, to scores of shape (images,)."""


class TowerSubject:
    """An encoder by itself: the number is a function of its tokens where the language model reads them.

    Args:
        encoder: The encoder.
        target: From tokens to the number.
        read: Site of these tokens: "consumed", "projected" or any other, or "embedding", the one token that the tower's
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
        """As `Subject`."""
        graphs, encoder = [], self.encoder
        for piece in encoder.geometry.pieces(encoder.preprocess(images)):
            with torch.enable_grad():
                graphs.append(self._run(requiring_gradients(self._moved(piece)), sites, first))
            first += len(piece)
        return graphs

    def score(self, pixels: Pixels, first: int = 0) -> torch.Tensor:
        """As `Subject`."""
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
        # The embedding of the whole image is one token, and none of them is a prefix.
        read = encoder.tokens(self._read, self._read == EMBEDDING, held, pixels)
        scores = self._target([one.float() for tokens, _ in read for one in torch.split(tokens, 1)], first)
        found = {site: captured(encoder, pixels, state) for site, state in states.items() if site in sites}
        if self._read in sites and self._read not in states:  # the projector's output
            grids = [grid for _, grid in read]
            found[self._read] = Captured(tuple(tokens for tokens, _ in read), partial(_one_by_one, grids=grids))
        return Graph(scores, found, pixels)


def not_reached(subject: Subject, site: str) -> DataError:
    """The error for a site that the score does not depend on."""
    return DataError(
        f"{subject.name}: the score does not depend on {site}",
        hint="Name a site before the one that the score is computed from.",
    )


@contextmanager
def in_float32(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Let `modules` run in float32 inside the block, with the weights that they have now."""
    held = [
        (tensor, tensor.data)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.is_floating_point()
    ]
    try:
        for tensor, data in held:
            tensor.data = data.float()
        yield
    finally:
        for tensor, data in held:
            tensor.data = data


def requiring_gradients(pixels: Pixels) -> Pixels:
    """The same inputs, the floating-point ones as leaves of a new graph: frozen weights alone would make none."""
    inputs = {
        name: tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in pixels.inputs.items()
    }
    return Pixels(inputs, pixels.grids, pixels.mosaics)


def captured(encoder: VisionEncoder, pixels: Pixels, state: torch.Tensor) -> Captured:
    """A hidden state of the encoder's tower, as its geometry says how it becomes tokens."""

    def views(tensors: Sequence[torch.Tensor]) -> list[View]:
        found = encoder.geometry.views(tensors[0], pixels, encoder.tower)
        patches = [(tokens[:, encoder.prefix_tokens :], grid) for tokens, grid in found]
        images = encoder.geometry.images(patches, pixels)
        return _one_by_one([tokens for tokens, _ in images], [grid for _, grid in images])

    return Captured((state,), views)


def _one_by_one(tensors: Sequence[torch.Tensor], grids: Sequence[Grid]) -> list[View]:
    return [(one, grid) for tokens, grid in zip(tensors, grids, strict=True) for one in torch.split(tokens, 1)]
