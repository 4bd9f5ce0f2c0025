"""Attribution maps during training: the pictures to track, and the figure of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.evidence.focus import Floats
from visprobe.attribution.evidence.regions import on_patches
from visprobe.attribution.figures import grid as attribution_grid
from visprobe.attribution.figures.sheet import MOST_CHECKPOINTS, Sheet
from visprobe.attribution.figures.strip import spread
from visprobe.attribution.targets.shown import as_shown
from visprobe.data.named import HasHeldOut
from visprobe.data.prompts import Prompt
from visprobe.data.rows import IMAGE, Row
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.load import load_encoder
from visprobe.errors import DataError
from visprobe.figures.save import figure_bytes
from visprobe.mllm.question import Question
from visprobe.pipelines.attribution.images import Picture, load_pictures
from visprobe.pipelines.attribution.run import OF_ANSWERS
from visprobe.training.maps import MapsDuringTraining, TrackedExamples
from visprobe.training.recipe import Recipe
from visprobe.training.rows.usable import UsableRows
from visprobe.training.run import CallbackFactory
from visprobe.training.stages import stage_of

PICTURES = 4
_LOOKED_THROUGH = 1000  # rows searched for pictures


def attribution_callback(warn: Callable[[str], None]) -> CallbackFactory:
    """Return the factory of a training callback that draws maps where the recipe sets `attribution_every`.

    The pictures are held-out images where the rows have some, else those of the first rows with one image and one
    question. The maps explain log p of the answer; where the stage contrasts two answers, log p of the chosen minus
    log p of the rejected one.

    Args:
        warn: Called with a message when maps fail; training goes on.
    """

    def make(recipe: Recipe, base: Path, rows: UsableRows, processor: Any, folder: Path) -> MapsDuringTraining | None:
        if not recipe.attribution_every:
            return None
        held = partial(pick_examples, recipe, base, rows, processor)
        return MapsDuringTraining(recipe.attribution_every, folder, held, draw, warn)

    return make


def pick_examples(recipe: Recipe, base: Path, rows: UsableRows, processor: Any) -> TrackedExamples:
    """Choose the pictures to track during a run.

    Args:
        recipe: Settings of the run.
        base: Checkpoint that training starts from.
        rows: Training rows.
        processor: Processor of the model.

    Raises:
        CheckpointError: If visprobe cannot read the encoder of `base`.
        DataError: If no row holds one image and one question with its answer.
    """
    encoder = load_encoder(base)
    regions: list[Floats | None]
    if isinstance(rows.source, HasHeldOut):
        every, _ = load_pictures(rows.source.held_out(PICTURES), Prompt())
        pictures = list({picture.id: picture for picture in reversed(every)}.values())[::-1]  # one question each
        ids, images = [picture.id for picture in pictures], [picture.image for picture in pictures]
        prompts = [picture.prompt for picture in pictures]
        questions = [Question(one.text or "", one.answer or "", one.rejected) for one in prompts]
        regions = [_region(picture, encoder) for picture in pictures]
    else:
        found = list(islice(_asking(rows), PICTURES))
        if not found:
            raise DataError("no row holds one image and one question with its answer", hint="Leave maps out.")
        ids, questions, images = map(list, zip(*found, strict=True))
        regions = [None] * len(found)
    two = stage_of(recipe).contrasts and all(question.rejected for question in questions)
    target = "contrast" if two else "answer"
    return TrackedExamples(ids, images, questions, regions, target, OF_ANSWERS[0], encoder, processor)


def _region(picture: Picture, encoder: VisionEncoder) -> Floats | None:
    if picture.region is None:
        return None
    grid = encoder.preprocess([picture.image]).grids[0]
    return on_patches(picture.region, grid, encoder, size=picture.image.size)


def _asking(rows: UsableRows) -> Iterator[tuple[str, Question, Image.Image]]:
    """Yield id, question and image of rows with one image and one question, each image once."""
    seen = set[str]()
    for index in range(min(len(rows), _LOOKED_THROUGH)):
        row = rows[index]
        question = _question(row)
        if question is not None and row.images[0] not in seen:
            seen.add(row.images[0])
            yield row.id, question, rows.image(row.images[0])


def _question(row: Row) -> Question | None:
    """Return the first question of a row with its answer, if the row has exactly one image."""
    if len(row.images) != 1 or row.turns[0].role != "user":
        return None
    answer = row.chosen or row.answer if len(row.turns) == 1 else row.turns[1].text
    return Question(row.turns[0].text, answer, row.rejected) if answer else None


def draw(held: TrackedExamples, found: Attributions) -> bytes:
    """Draw the pictures with their maps at some steps spread over training so far; return the bytes of a PNG."""
    [key] = found.maps[found.names[0]]
    names = [found.names[place] for place in spread(len(found.names), MOST_CHECKPOINTS)]
    shown = [as_shown(image, held.encoder) for image in held.images]
    titles = [
        f"{one.prompt.replace(IMAGE, '').strip()} {one.answer}{f' / {one.rejected}' if one.rejected else ''}"
        for one in held.questions
    ]
    sheet = Sheet(shown, titles, {name: found.maps[name][key] for name in names}, "nats")
    return figure_bytes(attribution_grid.draw(sheet), "png")
