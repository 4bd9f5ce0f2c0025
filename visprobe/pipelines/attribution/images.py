"""Pictures for attribution maps: decoded images with their questions and the regions where the answers lie."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visprobe.data.image_set import BadImage, ImageSet, decode
from visprobe.data.labels.annotated import HasMasks
from visprobe.data.named import HasPrompts
from visprobe.data.open import ImageData
from visprobe.data.prompts import Prompt, read_prompts, read_region
from visprobe.data.sources.files import open_named
from visprobe.data.subset import Subset, take
from visprobe.errors import DataError, UsageError
from visprobe.features.extract import BadItem
from visprobe.pipelines.measurement import Options

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Picture:
    """An image to explain, with one question about it.

    Attributes:
        id: Id in the image set.
        row: Index in the image set.
        image: RGB image, upright.
        label: Class index, if there is one.
        prompt: Question, answers and box.
        region: Mask of the answer's region, bool of shape (height, width); None if it is not given.
    """

    id: str
    row: int
    image: Image.Image
    label: int | None
    prompt: Prompt
    region: Mask | None

    @property
    def content(self) -> str:
        """SHA-256 of size and pixels as a hex string, independent of the id."""
        return hashlib.sha256(repr(self.image.size).encode() + self.image.tobytes()).hexdigest()


def images_of(pictures: Sequence[Picture]) -> list[str]:
    """Return for each picture the id of the first one with equal pixels: copies are not independent observations."""
    first: dict[str, str] = {}
    return [first.setdefault(picture.content, picture.id) for picture in pictures]


@dataclass(frozen=True)
class AttributionImages:
    """Images with their questions.

    Attributes:
        images: The opened image set.
        prompts: Questions of each image by its id, from a file; None without a file.
    """

    images: ImageData
    prompts: Mapping[str, Sequence[Prompt]] | None


def open_attribution_images(named: Sequence[str], questions: Path | None, options: Options) -> AttributionImages:
    """Open images; with a file of questions, only the images that it asks about.

    Args:
        named: Image files, folders, or one data set.
        questions: File of questions, in a format of `read_prompts`.
        options: Split, limit and seed.

    Raises:
        UsageError: If there is no such file.
        DataError: If the images or the file cannot be used.
    """
    opened = open_named(
        named,
        split=options.split,
        limit=options.limit if questions is None else None,
        seed=options.seed,
        subset_per_class=options.subset_per_class,
    )
    if questions is None:
        return AttributionImages(opened, None)
    asked = read_prompts(questions, opened.query)
    by_id = {opened.query.items[row].id: some for row, some in asked.items()}
    query = take(Subset(opened.query, list(asked)), options.limit, options.seed)
    return AttributionImages(replace(opened, query=query), by_id)


def load_pictures(
    images: ImageSet,
    default: Prompt,
    questions: Mapping[str, Sequence[Prompt]] | None = None,
    region: str | None = None,
) -> tuple[list[Picture], list[BadItem]]:
    """Decode images and pair each with its questions and regions.

    Where `default` is empty, images that come with questions (`visprobe.data.named.HasPrompts`) keep their own.

    Args:
        images: Image set.
        default: Question and answers for images without their own.
        questions: Questions of each image by its id, one or several.
        region: Folder of masks, or the name of a class of the images' own masks.

    Returns:
        The pictures, one for each question; and the images that cannot be used, among them those whose mask or box does
        not fit.

    Raises:
        UsageError: If `region` is neither, or none of its masks shows anything.
        DataError: If no picture can be used.
    """
    source = _Source(images, default, questions, region)
    pictures, bad = [], []
    for row, item in enumerate(images.items):
        try:
            pictures += source.pictures(row)
        except (OSError, BadImage) as error:
            bad.append(BadItem(item.id, f"cannot be read: {error}" if isinstance(error, OSError) else str(error)))
    if not pictures:
        raise DataError(
            f"none of {len(bad)} images can be used, the first because: {bad[0].reason}"
            if bad
            else "there is no image",
            hint="Name other images.",
        )
    if region is not None and all(picture.region is None for picture in pictures):
        raise UsageError(
            f"--region {region}: no mask of {len(pictures)} pictures holds a pixel",
            hint="A mask has the name of its image and ends in .png; all pixels that are not 0 are the region.",
        )
    return pictures, bad


class _Source:
    def __init__(
        self, images: ImageSet, default: Prompt, questions: Mapping[str, Sequence[Prompt]] | None, region: str | None
    ) -> None:
        self._images, self._default, self._asked = images, default, questions
        self._folder, self._number = _where(region, images)
        self._own = images if default == Prompt() and questions is None and isinstance(images, HasPrompts) else None

    def pictures(self, row: int) -> list[Picture]:
        """Return the image at index `row`, once for each question.

        Raises:
            OSError, BadImage: If it cannot be used.
        """
        item, image = self._images.items[row], decode(self._images.read(row))
        return [
            Picture(item.id, row, image, item.label, prompt, region if region is not None and region.any() else None)
            for prompt, region in self._prompts_of(row, image)
        ]

    def _prompts_of(self, row: int, image: Image.Image) -> list[tuple[Prompt, Mask | None]]:
        if self._own is not None:
            return list(self._own.prompts(row))
        given = self._asked[self._images.items[row].id] if self._asked is not None else [Prompt()]
        found = []
        for prompt in map(self._with_default, given):
            region = prompt.region(*image.size)
            if self._folder is not None:
                region = read_region(self._folder, self._images.items[row].id, image.size)
            elif self._number is not None and isinstance(self._images, HasMasks):
                region = self._images.mask(row) == self._number
            found.append((prompt, region))
        return found

    def _with_default(self, given: Prompt) -> Prompt:
        default = self._default
        texts = (given.text or default.text, given.answer or default.answer, given.rejected or default.rejected)
        return Prompt(*texts, given.box)


def _where(region: str | None, images: ImageSet) -> tuple[Path | None, int | None]:
    """Return the folder of masks, or the index of the class in the images' own masks."""
    if region is None:
        return None, None
    if isinstance(images, HasMasks) and region in images.mask_classes:
        return None, images.mask_classes.index(region)
    if Path(region).is_dir():
        return Path(region), None
    known = f"Its classes are {', '.join(images.mask_classes)}." if isinstance(images, HasMasks) else ""
    raise UsageError(
        f"--region {region} is no folder of masks" + (" and no class of the images' masks" if known else ""),
        hint=known or "Name a folder with a PNG mask for each image: all pixels that are not 0 are the region.",
    )
