"""Regions on the patches of a map: a mask of the picture as the share of each patch that it fills."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visprobe.attribution.methods.input_maps import patches_of
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.pixels import Grid
from visprobe.errors import DataError

Region = NDArray[np.float64]


def on_patches(
    mask: NDArray[np.bool_], grid: Grid, encoder: VisionEncoder | None = None, *, size: tuple[int, int] | None = None
) -> Region:
    """Compute the share of each patch that a mask fills.

    Args:
        mask: Mask of the object, bool of the picture's shape (H, W).
        grid: Rows and columns of the map; a grid coarser than the tower's averages its patches.
        encoder: Encoder whose processor is applied to the mask as to the picture, with all resizing, cropping, padding
            and tiling. Without it, the whole picture is taken to fill the grid.
        size: Width and height of the picture, checked against the mask.

    Returns:
        Shares in [0, 1], float64 of shape (rows, columns). Exact without an encoder; with one, the mask is resampled
        like a picture, so that its edges are soft.

    Raises:
        DataError: If the mask is empty or not of the picture's size, or the processor crops all of it away.
    """
    _check(mask, size)
    shares = mask.astype(np.float64) if encoder is None else _shown(mask, encoder)
    region = _cells(grid[0], shares.shape[0]) @ shares @ _cells(grid[1], shares.shape[1]).T
    if not region.any():
        raise DataError("no patch shows the region: the image processor crops it away", hint="Leave this region out.")
    return np.clip(region, 0, 1)  # sums of shares round


def _check(mask: NDArray[np.bool_], size: tuple[int, int] | None) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise DataError(
            f"a mask is bool of shape (height, width), this one is {mask.dtype} of shape {mask.shape}",
            hint="Compare a map of classes with the class that is meant: mask == 3.",
        )
    if size is not None and mask.shape != size[::-1]:
        raise DataError(
            f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels, its picture {size[0]}x{size[1]}",
            hint="Give the mask of this picture, in its full size.",
        )
    if not mask.any():
        raise DataError("the region holds no pixel", hint="Leave this region out, or give the mask of what is shown.")


def _shown(mask: NDArray[np.bool_], encoder: VisionEncoder) -> Region:
    return patch_means(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB"), encoder)


def patch_means(picture: Image.Image, encoder: VisionEncoder) -> Region:
    """Compute the mean grey value of a picture in each patch of the tower: 0 (black) to 1 (white).

    Args:
        picture: Grey picture in RGB.
        encoder: Encoder whose processor is applied.

    Returns:
        float64 of shape (rows, columns); 0 for patches of padding alone.
    """
    shown = encoder.preprocess([picture])
    patches = patches_of(encoder, shown).cpu().flatten()
    (name,) = [name for name, tensor in shown.inputs.items() if tensor.is_floating_point()]
    # The processor normalises channels and may pad: black and white pictures show the range of each input element.
    black, white = (
        encoder.preprocess([Image.new("RGB", picture.size, (grey,) * 3)]).inputs[name].double().flatten()
        for grey in (0, 255)
    )
    span = white - black
    image = span > 0.5 * span.max()  # padding has no range: it is the same for black and white
    share = torch.where(image, (shown.inputs[name].double().flatten() - black) / torch.where(image, span, 1), 0)
    inside = patches >= 0
    rows, columns = shown.grids[0]
    sums = patches[inside].bincount(share.clamp(0, 1)[inside], minlength=rows * columns)
    found: Region = (sums / patches[inside].bincount(minlength=rows * columns)).reshape(rows, columns).numpy()
    return found


def _cells(cells: int, parts: int) -> NDArray[np.float64]:
    """Return the share of each of `cells` equal intervals of a line that each of `parts` equal intervals fills."""
    # In units of 1 / (cells x parts) all edges are integers, so nothing rounds.
    cell, part = np.arange(cells)[:, None] * parts, np.arange(parts)[None] * cells
    common = np.minimum(cell + parts, part + cells) - np.maximum(cell, part)
    shares: NDArray[np.float64] = np.clip(common, 0, None) / parts
    return shares
