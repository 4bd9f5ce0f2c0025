"""Example images with their masks and predictions, small enough for a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.segmentation.data import picture
from visprobe.analyses.segmentation.heads import Form, HeadScores, Task, classes_of_pixels
from visprobe.analyses.segmentation.view import UNCOUNTED, View
from visprobe.data.image_set import BadImage

COUNT = 3
CHECKPOINTS = 4
_SIDE = 160
_NOTHING = 255  # marks uncounted pixels in the small masks


def examples(
    inputs: Inputs,
    view: View,
    tasks: Mapping[tuple[str, str], Task],
    found: Mapping[tuple[str, str], Sequence[Mapping[Form, HeadScores]]],
    form: Form,
) -> list[dict[str, Any]]:
    """Return some images, evenly spaced, with their masks and the predictions of the first checkpoints.

    Returns:
        For each image "id", "image" (JPEG), "truth" and by checkpoint "found" (PNG of class numbers, 255 where no class
        counts), all as base64; by the head of the first seed at the site that the language model reads. Empty for
        more than 255 classes.
    """
    shown = [
        (features.encoder, of)
        for features in (inputs.base, *inputs.others)[:CHECKPOINTS]
        if (of := (features.encoder, features.consumed)) in tasks
    ]
    if not shown or inputs.images is None:
        return []
    labelled = tasks[shown[0][1]].val_labels
    rows = {item.id: row for row, item in enumerate(inputs.images.items)}
    made = []
    for number in sorted({i * len(labelled.ids) // COUNT for i in range(COUNT)}):
        try:
            image = picture(inputs.images, rows[labelled.ids[number]], view, _SIDE)
        except (OSError, BadImage):  # gone since it was measured
            continue
        size = image.height, image.width
        truth = _nearest(labelled.windows[number], size)
        if truth[truth != UNCOUNTED].max(initial=0) >= _NOTHING:
            return []
        of_each = {
            name: _png(classes_of_pixels(tasks[of], found[of][0][form].chosen[0].head, number, size))
            for name, of in shown
        }
        mask = _png(np.where(truth == UNCOUNTED, _NOTHING, truth))
        made.append({"id": labelled.ids[number], "image": _jpeg(image), "truth": mask, "found": of_each})
    return made


def _nearest(mask: NDArray[np.uint16], size: tuple[int, int]) -> NDArray[np.uint16]:
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _png(classes: NDArray[Any]) -> str:
    return _encoded(Image.fromarray(classes.astype(np.uint8)), "PNG")


def _jpeg(image: Image.Image) -> str:
    return _encoded(image, "JPEG")


def _encoded(image: Image.Image, kind: str) -> str:
    data = io.BytesIO()
    image.save(data, kind, quality=85)
    return base64.b64encode(data.getvalue()).decode()
