"""Maps of many images under several checkpoints and controls, with the regions where the answers lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from visprobe.attribution.evidence.focus import Floats
from visprobe.attribution.methods.by_name import Maps
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError

CENTRE = "centre"


@dataclass(frozen=True)
class Attributions:
    """Maps that are scored and stored together.

    Attributes:
        names: Checkpoints, the base first.
        controls: Names of controls: "centre", the centre bias, which needs no maps, and names in `maps`, such as
            "randomised".
        maps: Maps of every image by checkpoint or control; a control may have fewer methods and sites.
        regions: For each picture, the share of each patch that the answer's region fills, float of shape (rows,
            columns) of the finest map, or None.
        images: Name of the image of each picture; several questions about one image repeat it, and so do copies.
        ids: Id of each picture; empty if ids and names of images are the same.
    """

    names: tuple[str, ...]
    controls: tuple[str, ...]
    maps: Mapping[str, Maps]
    regions: Sequence[Floats | None]
    images: Sequence[str]
    ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse maps that cannot be compared.

        Raises:
            DataError: If names repeat, maps are missing or not finite, or the grid of an image differs between
                checkpoints for a method and site.
        """
        every = (*self.names, *self.controls)
        if not self.names or len(set(every)) != len(every):
            raise DataError(f"checkpoints and controls {every} do not have a name each", hint="Rename them.")
        if absent := set(every) - {CENTRE} - self.maps.keys():
            raise DataError(f"{min(absent)} has no maps", hint="Make the maps of all checkpoints and controls.")
        if len(self.regions) != len(self.images):
            raise DataError(
                f"{len(self.images)} images, and {len(self.regions)} regions", hint="Give each image one, or None."
            )
        if len(self.ids) not in (0, len(self.images)):
            raise DataError(f"{len(self.images)} images, and {len(self.ids)} names", hint="Give each picture one.")
        base = self.maps[self.names[0]]
        for name in (name for name in every if name in self.maps):
            own = self.maps[name]
            if own.keys() - base.keys() or (name in self.names and base.keys() - own.keys()):
                raise DataError(
                    f"{name} and {self.names[0]} have maps of different methods or sites",
                    hint="Compare checkpoints that descend from one base, with the same methods.",
                )
            for key in own:
                self._check(name, key)

    def _check(self, name: str, key: tuple[str, str]) -> None:
        own, base, at = self.maps[name][key], self.maps[self.names[0]][key], "@".join(key)
        if len(own) != len(self.images):
            raise DataError(f"{name} has {len(own)} maps of {len(self.images)} images", hint="Make all of them.")
        for image, one, other in zip(self.images, own, base, strict=True):
            if one.grid != other.grid:
                raise DataError(
                    f"{at} of {image}: {name} has {one.grid} patches, {self.names[0]} {other.grid}",
                    hint="Compare checkpoints that show the picture to their towers in the same size.",
                )
            if not torch.isfinite(one.values).all():
                raise DataError(f"{at} of {image} under {name} is not finite", hint="Run it in float32.")

    def region(self, image: int, grid: Grid) -> Floats | None:
        """Return the region of an image on the patches of a map, float64 of shape `grid`, or None.

        Raises:
            DataError: If the region's own grid does not divide into these patches.
        """
        region = self.regions[image]
        if region is None:
            return None
        array, (rows, columns) = np.asarray(region, np.float64), grid
        if array.ndim != 2 or array.shape[0] % rows or array.shape[1] % columns:
            raise DataError(
                f"the region of {self.images[image]} has the shape {array.shape}, its map {grid}",
                hint="Lay the region on the patches of the map: attribution.regions.on_patches.",
            )
        shares: Floats = array.reshape(rows, array.shape[0] // rows, columns, -1).mean((1, 3))
        return shares
