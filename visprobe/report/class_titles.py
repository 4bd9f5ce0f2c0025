"""Readable titles of classes, added beside class ids in results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import HasTitles
from visprobe.data.templates import spoken_names
from visprobe.results.result import Result

_OF_A_CLASS = "class_change/"


def with_titles(result: Result, images: ImageSet) -> Result:
    """Add "title" beside every "class" in the settings of `result`, and rename rows of a class to "tench (n01440764)".

    Args:
        result: Any result.
        images: Image set of the result; without readable titles the result is returned unchanged.
    """
    if not images.classes or not isinstance(images, HasTitles) or not images.class_titles:
        return result
    spoken = dict(zip(images.classes, spoken_names(images.classes, images), strict=True))
    titles = {name: title for name, title in spoken.items() if title != name}
    rows = tuple(
        replace(row, measure=f"{_OF_A_CLASS}{titles[name]} ({name})")
        if row.measure.startswith(_OF_A_CLASS) and (name := row.measure.removeprefix(_OF_A_CLASS)) in titles
        else row
        for row in result.rows
    )
    return replace(result, rows=rows, settings=_titled(result.settings, titles))


def _titled(value: Any, titles: Mapping[str, str]) -> Any:
    if isinstance(value, list | tuple):
        return [_titled(one, titles) for one in value]
    if not isinstance(value, dict):
        return value
    found = {key: _titled(one, titles) for key, one in value.items()}
    name = value.get("class")
    return {**found, "title": titles[name]} if isinstance(name, str) and name in titles else found
