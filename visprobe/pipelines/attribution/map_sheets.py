"""Results with the maps of a few pictures, from which the figures of a report are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.figures.contrast import COLUMNS, contrast_sheet
from visprobe.attribution.figures.difference import differences
from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.figures.sheet_json import sheet_json
from visprobe.attribution.map import Map
from visprobe.attribution.methods.by_name import maps
from visprobe.attribution.targets.shown import as_shown
from visprobe.encoders.encoder import VisionEncoder
from visprobe.pipelines.attribution.images import Picture
from visprobe.pipelines.attribution.target import AttributionTarget
from visprobe.results.result import Estimate, Result, Row

SHOWN = 6  # pictures in a figure; all maps are in maps.npz


def sheets(attributions: Attributions, explained: AttributionTarget, encoder: VisionEncoder) -> Iterator[Result]:
    """Yield result "maps", with the scores of all pictures, and "map_differences" if there are two checkpoints.

    Args:
        attributions: All maps; those of the first method and site are shown.
        explained: Target and pictures.
        encoder: Encoder of the base, whose processor crops the pictures.
    """
    key = next(iter(attributions.maps[attributions.names[0]]))
    found = {name: attributions.maps[name][key] for name in attributions.names}
    places = spread(explained.pictures)
    sheet = _sheet({name: [made[n] for n in places] for name, made in found.items()}, explained, places, encoder)
    about = {"explains": explained.meaning, "target": explained.target, "base": attributions.names[0],
             "of": len(explained.pictures)}  # fmt: skip
    rows = tuple(_scores(found, explained))
    yield Result("maps", "Where does each checkpoint look?", rows, {**about, "sheet": sheet_json(sheet)})
    if len(attributions.names) > 1:
        apart = {**about, "sheet": sheet_json(differences(sheet))}
        yield Result(
            "map_differences", "Where does each checkpoint look more, and where less, than the base?", (), apart
        )


def contrast(
    checkpoint: str, encoder: VisionEncoder, explained: Sequence[AttributionTarget], method: str, site: str, of: int
) -> Result:
    """Return result "map_contrast": maps of one checkpoint for the answer, the rejected one, and their difference.

    Args:
        checkpoint: Checkpoint as it was named.
        encoder: Its encoder.
        explained: Targets of the two answers and of their difference, for the pictures that are shown.
        method: Name of the method.
        site: Name of the site.
        of: Number of all pictures.
    """
    pictures = explained[0].pictures
    images = [picture.image for picture in pictures]
    chosen, rejected, both = (
        next(iter(maps(one.subjects(checkpoint, encoder), images, [method], [site]).values())) for one in explained
    )
    shown = [as_shown(image, encoder) for image in images]
    titles = [f"{one.prompt.text} {one.prompt.answer} / {one.prompt.rejected}" for one in pictures]
    sheet = contrast_sheet(shown, titles, chosen, rejected, both, explained[0].unit)
    question = f"What speaks for the {COLUMNS[0]} answer, what for the {COLUMNS[1]} one, and what tells them apart?"
    return Result("map_contrast", question, (), {"checkpoint": encoder.name, "of": of, "sheet": sheet_json(sheet)})


def title_of(picture: Picture, explained: AttributionTarget) -> str:
    """Return the title of a picture: its question and answer, or its id where no language model is asked."""
    if explained.of_tower or picture.prompt.text is None:
        return picture.id
    answer = picture.prompt.answer
    return f"{picture.prompt.text} {answer}" if answer else picture.prompt.text


def spread(pictures: Sequence[Picture]) -> list[int]:
    """Return the indices of at most six pictures, of images evenly spread over the set, each with all its questions."""
    questions: dict[str, list[int]] = {}
    for number, picture in enumerate(pictures):
        questions.setdefault(picture.id, []).append(number)
    ids, count = list(questions), max(1, SHOWN * len(questions) // len(pictures))
    chosen = ids if count >= len(ids) else [ids[n * len(ids) // count] for n in range(count)]
    return [number for one in chosen for number in questions[one]][:SHOWN]


def _sheet(
    found: Mapping[str, Sequence[Map]], explained: AttributionTarget, places: Sequence[int], encoder: VisionEncoder
) -> Sheet:
    pictures = [explained.pictures[place] for place in places]
    shown = [as_shown(picture.image, encoder) for picture in pictures]
    return Sheet(shown, [title_of(picture, explained) for picture in pictures], found, explained.unit)


def _scores(found: Mapping[str, Sequence[Map]], explained: AttributionTarget) -> Iterator[Row]:
    for name, made in found.items():
        for picture, one in zip(explained.pictures, made, strict=True):
            exact = Estimate(one.score, one.score, one.score, 1, explained.unit, "exact")
            yield Row(name, f"{one.method}@{one.site}", f"score/{picture.id}", exact)
