"""Thumbnails of the images whose features changed most, for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from visprobe.data.image_set import PREFIX, ImageSet, thumbnail
from visprobe.results.result import Result

_MOST = 24  # thumbnails in a page


class Thumbnail(NamedTuple):
    """An image of the page: its id, class and change as text, and the picture as a data URI."""

    id: str
    label: str
    change: str
    source: str


def with_thumbnails(result: Result, images: ImageSet) -> Result:
    """Add pictures of the most changed images (at most 24) to settings["thumbnails"] of `result`, by id.

    Args:
        result: Any result; one without "most_changed" in its settings is returned unchanged.
        images: Image set of the result.
    """
    most = result.settings.get("most_changed", {})
    wanted = {one["id"] for ones in _shown(most).values() for one in ones}
    if not wanted:
        return result
    rows = {item.id: row for row, item in enumerate(images.items) if item.id in wanted}
    pictures = {item: picture for item, row in rows.items() if (picture := thumbnail(images, row))}
    return replace(result, settings={**result.settings, "thumbnails": pictures})


def most_changed(results: Sequence[Result]) -> Iterator[tuple[str, list[Thumbnail]]]:
    """Yield each checkpoint with thumbnails of the images whose features it changed most."""
    for result in results:
        pictures = result.settings.get("thumbnails", {})
        for checkpoint, ones in _shown(result.settings.get("most_changed", {}) if pictures else {}).items():
            shown = [
                Thumbnail(
                    one["id"], one.get("title") or one["class"] or "", f"{one['change']:.3g}", pictures[one["id"]]
                )
                for one in ones
                if pictures.get(one["id"], "").startswith(PREFIX)
            ]
            if shown:
                yield checkpoint, shown


def _shown(most: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Sequence[dict[str, Any]]]:
    each = max(1, _MOST // max(len(most), 1))
    return {checkpoint: ones[:each] for checkpoint, ones in list(most.items())[:_MOST]}
