"""Maps beside training: which pictures are held for it, and the figure of every step."""

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
_LOOKED_THROUGH = 1000  # rows among which pictures are sought


def attribution_callback(warn: Callable[[str], None]) -> CallbackFactory:
    """What draws maps during training where the recipe's `attribution_every` asks for them.

    The pictures are the first ones of the rows that hold one image and one question; where the rows
    know of images that nothing is trained on, those. Explained is log p of the answer; where the stage contrasts
    two answers, that of the chosen minus that of the rejected one.

    Args:
        warn: Told what goes wrong; training goes on.
    """

    def make(recipe: Recipe, base: Path, rows: UsableRows, processor: Any, folder: Path) -> MapsDuringTraining | None:
        if not recipe.attribution_every:
            return None
        held = partial(pick_examples, recipe, base, rows, processor)
        return MapsDuringTraining(recipe.attribution_every, folder, held, draw, warn)

    return make


def pick_examples(recipe: Recipe, base: Path, rows: UsableRows, processor: Any) -> TrackedExamples:
    """The pictures of a run.

    Args:
        recipe: The settings.
        base: Checkpoint that training starts from.
        rows: The rows that are trained on.
        processor: The model's processor.

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
    """Rows of one image and one question: id, question and image, each image once."""
    seen = set[str]()
    for index in range(min(len(rows), _LOOKED_THROUGH)):
        row = rows[index]
        question = _question(row)
        if question is not None and row.images[0] not in seen:
            seen.add(row.images[0])
            yield row.id, question, rows.image(row.images[0])


def _question(row: Row) -> Question | None:
    """The first question of a row with its answer, if it is about the row's only image."""
    if len(row.images) != 1 or row.turns[0].role != "user":
        return None
    answer = row.chosen or row.answer if len(row.turns) == 1 else row.turns[1].text
    return Question(row.turns[0].text, answer, row.rejected) if answer else None


def draw(held: TrackedExamples, found: Attributions) -> bytes:
    """The pictures and their maps at some steps spread over training so far, as a PNG."""
    [key] = found.maps[found.names[0]]
    names = [found.names[place] for place in spread(len(found.names), MOST_CHECKPOINTS)]
    shown = [as_shown(image, held.encoder) for image in held.images]
    titles = [
        f"{one.prompt.replace(IMAGE, '').strip()} {one.answer}{f' / {one.rejected}' if one.rejected else ''}"
        for one in held.questions
    ]
    sheet = Sheet(shown, titles, {name: found.maps[name][key] for name in names}, "nats")
    return figure_bytes(attribution_grid.draw(sheet), "png")
