"""Where an object lies on the patches of a map: a mask of the picture as the share of each patch that it fills."""

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
    """Share of each patch that a mask fills.

    Args:
        mask: Where the object is, bool of shape (H, W) of the picture.
        grid: Rows and columns of the map that is to be compared with it; a coarser one than the tower's averages.
        encoder: Whose processor shows the picture: the mask goes the same way as the picture, whatever is resized,
            cropped, padded or cut into tiles there. Without it the whole picture is taken to fill the grid.
        size: Width and height of the picture, to be checked against the mask.

    Returns:
        Shares in [0, 1], float64 of shape (rows, columns). Exact without an encoder; with one the mask is resampled
        as its processor resamples pictures, so that its edge is as soft as theirs.

    Raises:
        DataError: If the mask is of another size than the picture or holds nothing, or the processor crops away all
            that it holds.
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
    """Share of each of the tower's own patches, from what the processor makes of the mask as a picture."""
    return patch_means(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB"), encoder)


def patch_means(picture: Image.Image, encoder: VisionEncoder) -> Region:
    """What each patch of the tower shows of a picture on average: 0 (black) to 1 (white).

    Args:
        picture: A grey picture, as RGB.
        encoder: Whose processor shows it.

    Returns:
        float64 of shape (rows, columns); 0 for patches of nothing but padding.
    """
    shown = encoder.preprocess([picture])
    patches = patches_of(encoder, shown).cpu().flatten()
    (name,) = [name for name, tensor in shown.inputs.items() if tensor.is_floating_point()]
    black, white = (
        encoder.preprocess([Image.new("RGB", picture.size, (grey,) * 3)]).inputs[name].double().flatten()
        for grey in (0, 255)
    )
    span = white - black
    image = span > 0.5 * span.max()  # padding is the same whatever the picture
    share = torch.where(image, (shown.inputs[name].double().flatten() - black) / torch.where(image, span, 1), 0)
    inside = patches >= 0
    rows, columns = shown.grids[0]
    sums = patches[inside].bincount(share.clamp(0, 1)[inside], minlength=rows * columns)
    found: Region = (sums / patches[inside].bincount(minlength=rows * columns)).reshape(rows, columns).numpy()
    return found


def _cells(cells: int, parts: int) -> NDArray[np.float64]:
    """Share of each of `cells` equal intervals that each of `parts` equal intervals of the same length fills."""
    # In units of 1 / (cells x parts) all edges are integers, so nothing rounds.
    cell, part = np.arange(cells)[:, None] * parts, np.arange(parts)[None] * cells
    common = np.minimum(cell + parts, part + cells) - np.maximum(cell, part)
    shares: NDArray[np.float64] = np.clip(common, 0, None) / parts
    return shares
