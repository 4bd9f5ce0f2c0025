"""What was asked for and has no part in the maps: refused before they are made, or said beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from visprobe.attribution.methods.by_name import INPUT_MAPS
from visprobe.data.asked import Asked
from visprobe.data.open import ImageData
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import UsageError
from visprobe.mllm.answer_scores import OF_TWO
from visprobe.pipelines.attribution.target import Explained
from visprobe.pipelines.measurement import Options

if TYPE_CHECKING:
    from visprobe.pipelines.attribution.run import Look


def refuse_what_cannot_be_asked(look: Look, base: VisionEncoder, images: ImageData) -> None:
    """Refuse questions to a tower, where nothing else was named that it should be asked.

    Raises:
        UsageError: If it is so, or an option is empty, or both answers are one.
    """
    given = _given(look.asked)
    for option, text in given.items():
        if not text.strip():
            raise UsageError(f"{option} is empty", hint="Write a text, or leave the option out.")
    if look.asked.answer is not None and look.asked.answer == look.asked.rejected:
        raise UsageError(
            f"--chosen and --rejected are both {look.asked.answer!r}: there is no contrast",
            hint="Name another rejected answer, or leave --rejected out.",
        )
    if given and not base.has_projector and look.target is None and not look.texts:
        classes = images.query.classes is not None and images.support is not None
        raise UsageError(
            f"{base.name} is a tower without a language model: nobody answers {', '.join(given)}",
            hint="Leave that out, and classes are explained; or name a whole model."
            if classes
            else "Name a whole model as --ckpt, or say --text A --text B to a model with a text tower.",
        )


def not_used(look: Look, options: Options, explained: Explained) -> Iterator[str]:
    """One sentence for each thing that was asked for and has no part in the maps.

    Args:
        look: What was asked for, its methods filled in.
        options: How to run.
        explained: What is explained.
    """
    given, target = _given(look.asked), explained.target
    two = explained.of_tower or target in OF_TWO
    if given and explained.of_tower:
        yield f"{', '.join(given)}: not used, explained is the {target} (--target answer explains an answer)"
    if "--rejected" in given and not two:
        yield f"--rejected: not used, --target {target} reads the chosen answer alone"
    elif look.questions and not two and look.target is None:
        having = sum(picture.asked.rejected is not None for picture in explained.pictures)
        if having:
            yield (
                f"{having} of {len(explained.pictures)} questions have a rejected answer, so that it is not used: "
                "explained is the answer of each"
            )
    if look.questions and explained.of_tower:
        yield f"the questions of {look.questions}: not used but for their boxes, explained is the {target}"
    if options.subset_per_class is not None and target != "class":
        yield f"--subset-per-class: not used, no prototypes are made (explained is the {target})"
    on_pixels = set(look.methods) & set(INPUT_MAPS)
    if look.baseline != "mean" and not on_pixels and not look.faithfulness:
        yield f"--baseline {look.baseline}: not used, {' and '.join(look.methods)} need no image without content"
    if look.sites != ("consumed",) and not set(look.methods) - on_pixels:
        yield f"--site {', '.join(look.sites)}: not used, maps by {' and '.join(look.methods)} are of the pixels"


def _given(asked: Asked) -> dict[str, str]:
    """The texts that were given for all pictures, by their options."""
    texts = {"--prompt": asked.prompt, "--chosen": asked.answer, "--rejected": asked.rejected}
    return {option: text for option, text in texts.items() if text is not None}
