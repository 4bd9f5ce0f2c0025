"""Checks for options of gradcam that have no effect on the maps: an error beforehand, or a note in the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from visprobe.attribution.methods.by_name import INPUT_MAPS
from visprobe.data.open import ImageData
from visprobe.data.prompts import Prompt
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import UsageError
from visprobe.mllm.answers import OF_TWO
from visprobe.pipelines.attribution.target import AttributionTarget
from visprobe.pipelines.measurement import Options

if TYPE_CHECKING:
    from visprobe.pipelines.attribution.run import AttributionConfig


def refuse_what_cannot_be_asked(config: AttributionConfig, base: VisionEncoder, images: ImageData) -> None:
    """Refuse texts that are empty or equal, and questions to a tower that has no language model to answer them.

    Raises:
        UsageError: If a text is empty, both answers are equal, or a tower alone is asked a question.
    """
    given = _given(config.prompt)
    for option, text in given.items():
        if not text.strip():
            raise UsageError(f"{option} is empty", hint="Write a text, or leave the option out.")
    if config.prompt.answer is not None and config.prompt.answer == config.prompt.rejected:
        raise UsageError(
            f"--chosen and --rejected are both {config.prompt.answer!r}: there is no contrast",
            hint="Name another rejected answer, or leave --rejected out.",
        )
    if given and not base.has_projector and config.target is None and not config.texts:
        classes = images.query.classes is not None and images.support is not None
        raise UsageError(
            f"{base.name} is a tower without a language model: nobody answers {', '.join(given)}",
            hint="Leave that out, and classes are explained; or name a whole model."
            if classes
            else "Name a whole model as --ckpt, or say --text A --text B to a model with a text tower.",
        )


def not_used(config: AttributionConfig, options: Options, explained: AttributionTarget) -> Iterator[str]:
    """Yield one sentence for each option that was given and has no effect on the maps.

    Args:
        config: The settings, with `methods` filled in.
        options: Options of the measurement.
        explained: The number that the maps explain.
    """
    given, target = _given(config.prompt), explained.target
    two = explained.of_tower or target in OF_TWO
    if given and explained.of_tower:
        yield f"{', '.join(given)}: not used, explained is the {target} (--target answer explains an answer)"
    if "--rejected" in given and not two:
        yield f"--rejected: not used, --target {target} reads the chosen answer alone"
    elif config.questions and not two and config.target is None:
        having = sum(picture.prompt.rejected is not None for picture in explained.pictures)
        if having:
            yield (
                f"{having} of {len(explained.pictures)} questions have a rejected answer, so that it is not used: "
                "explained is the answer of each"
            )
    if config.questions and explained.of_tower:
        yield f"the questions of {config.questions}: not used but for their boxes, explained is the {target}"
    if options.subset_per_class is not None and target != "class":
        yield f"--subset-per-class: not used, no prototypes are made (explained is the {target})"
    on_pixels = set(config.methods) & set(INPUT_MAPS)
    if config.baseline != "mean" and not on_pixels and not config.faithfulness:
        yield f"--baseline {config.baseline}: not used, {' and '.join(config.methods)} need no image without content"
    if config.sites != ("consumed",) and not set(config.methods) - on_pixels:
        yield f"--site {', '.join(config.sites)}: not used, maps by {' and '.join(config.methods)} are of the pixels"


def _given(prompt: Prompt) -> dict[str, str]:
    texts = {"--prompt": prompt.text, "--chosen": prompt.answer, "--rejected": prompt.rejected}
    return {option: text for option, text in texts.items() if text is not None}
