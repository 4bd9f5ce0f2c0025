"""Targets of attribution: the number that maps explain, and a subject that computes it for each checkpoint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.zeroshot import Reader, class_embeddings
from visprobe.attribution.targets.answers import MllmSubject
from visprobe.attribution.targets.classes import class_similarity, text_similarity
from visprobe.attribution.targets.subject import Subject, TowerSubject
from visprobe.data.image_set import ImageSet
from visprobe.data.labels.annotated import no_classes
from visprobe.data.open import ImageData
from visprobe.data.prompts import Prompt
from visprobe.encoders import EMBEDDING
from visprobe.encoders.encoder import VisionEncoder
from visprobe.encoders.text.text_tower import TextTower, load_text_tower, own_text_tower
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.io.atomic import to_json
from visprobe.mllm.answers import PROMPT, TARGETS, own_answer
from visprobe.mllm.load import load_for_training
from visprobe.mllm.question import Question
from visprobe.pipelines.attribution.images import Picture
from visprobe.pipelines.session import Session

Subjects = Callable[[str, VisionEncoder], Subject]
"""From the checkpoint, as it was named, and its encoder."""

MEANING = {
    "answer": "log-probability of the answer",
    "rejected": "log-probability of the rejected answer",
    "contrast": "log-probability of the answer minus that of the rejected one",
    "sft-loss": "loss of supervised fine-tuning on the answer",
    "dpo-loss": "DPO's loss on the two answers",
    "class": "cosine with the prototype of the image's class, minus the mean over the other classes",
    "text": "cosine with the text, minus the mean over the other texts",
}


@dataclass(frozen=True)
class AttributionTarget:
    """A number that each checkpoint gives to each picture.

    Attributes:
        target: Name of the target, a key of `MEANING` or "token:N".
        pictures: Pictures with their questions; missing answers are filled in.
        subjects: Makes the subject of a checkpoint.
        settings: Other inputs of the target as plain JSON; part of the cache key of maps.
        notes: Caveats for the reader of the report.
    """

    target: str
    pictures: tuple[Picture, ...]
    subjects: Subjects
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def of_tower(self) -> bool:
        """True if the number needs the vision tower alone, no language model."""
        return self.target in ("class", "text")

    @property
    def unit(self) -> str:
        """Unit of the number: "cosine" or "nats"."""
        return "cosine" if self.of_tower else "nats"

    @property
    def meaning(self) -> str:
        """Description of the number."""
        if self.target.startswith("token:"):
            return f"log-probability of token {self.target.removeprefix('token:')} of the answer"
        return MEANING[self.target]


class LastModel:
    """Loader of whole models with their processors that keeps the last one, so that only one is in memory."""

    def __init__(self) -> None:
        self._last: tuple[str, Any, Any] | None = None

    def __call__(self, checkpoint: str, encoder: VisionEncoder) -> tuple[Any, Any]:
        """Return model (in evaluation mode, on the encoder's device, in its dtype) and processor of a checkpoint."""
        if self._last is None or self._last[0] != checkpoint:
            self._last = None  # freed before the next is loaded
            model, processor = load_for_training(checkpoint, str(encoder.dtype).removeprefix("torch."))
            self._last = checkpoint, model.eval().to(encoder.device), processor
        return self._last[1:]


def resolve_target(
    target: str | None,
    pictures: Sequence[Picture],
    session: Session,
    checkpoints: Sequence[str],
    texts: Sequence[str] = (),
    text_tower: str | Path | None = None,
    class_name: str | None = None,
    models: LastModel | None = None,
) -> AttributionTarget:
    """Choose the number that is explained, and make it for `pictures` under the session's encoders.

    Args:
        target: Name of the target. None picks the first that applies: the texts or the class that are given; the
            answers, where questions are asked; the classes, where images have labels and training images; else the
            first checkpoint's own answer.
        pictures: Pictures to explain.
        session: Encoders and images.
        checkpoints: Checkpoints as they were named, the base first.
        texts: The first is explained, against the others.
        text_tower: Two-tower model that reads them; None for the checkpoint's own.
        class_name: One class for all pictures instead of their own.
        models: Loader of whole models.

    Raises:
        UsageError: If the target does not exist, options do not go together, or nothing can be explained.
        CheckpointError, DataError: If a checkpoint or the pictures lack what the target needs.
    """
    if texts and class_name is not None:
        raise UsageError("--text and --target class explain different things", hint="Leave one of them out.")
    given = "text" if texts else "class" if class_name is not None else None
    if target is not None and given is not None and target != given:
        raise UsageError(f"--{given} does not go with --target {target}", hint="Leave one of them out.")
    named = _target(target or given, pictures, session.images, session.encoders[0])
    if named == "text":
        return text_target(pictures, texts, text_tower)
    if named == "class":
        return class_target(pictures, session, class_name)
    return answer_target(named, pictures, checkpoints, session.encoders, models or LastModel())


def _target(target: str | None, pictures: Sequence[Picture], images: ImageData, base: VisionEncoder) -> str:
    """Return the name of the target.

    Raises:
        UsageError: If it does not exist, or nothing can be explained.
    """
    known = (*TARGETS, "class", "text")
    if target is not None:
        if target not in known and not target.startswith("token:"):
            raise UsageError(f"--target {target} is unknown", hint=f"There are {', '.join(known)} and token:N.")
        return target
    prompts = [picture.prompt for picture in pictures]
    if any(one.text or one.answer or one.rejected for one in prompts) and base.has_projector:
        return "contrast" if all(one.rejected for one in prompts) else "answer"
    if images.query.classes is not None and images.support is not None:
        return "class"
    if base.has_projector:
        return "answer"
    raise UsageError(
        f"{base.name} is a tower without a language model, and the images have no classes",
        hint="Give a folder with train/ and val/ and one folder per class in them, or --text A --text B.",
    )


def answer_target(
    target: str,
    pictures: Sequence[Picture],
    checkpoints: Sequence[str],
    encoders: Sequence[VisionEncoder],
    models: LastModel,
) -> AttributionTarget:
    """Explain the log-probability that the whole model gives to an answer.

    Where no answer is given, the first checkpoint's own answer is explained for all checkpoints.

    Args:
        target: One of `visprobe.mllm.answers.TARGETS`, or "token:N".
        pictures: Pictures to explain.
        checkpoints: Checkpoints as they were named, the base first; for DPO's loss the base is the reference.
        encoders: Their encoders.
        models: Loader of whole models.
    """
    unanswered = sum(picture.prompt.answer is None for picture in pictures)
    filled, notes = tuple(pictures), tuple[str, ...]()
    if unanswered:
        filled, notes = _answered(pictures, models(checkpoints[0], encoders[0]), encoders[0].name)
    questions = [_question(picture.prompt) for picture in filled]

    def opened(checkpoint: str, encoder: VisionEncoder, target: str, reference: Any = None) -> MllmSubject:
        return MllmSubject(*models(checkpoint, encoder), encoder, questions, target, reference=reference)

    reference = None
    if target == "dpo-loss":
        images = [picture.image for picture in filled]
        reference = opened(checkpoints[0], encoders[0], "contrast").log_probabilities(images)
    settings = {"own_answers": unanswered, "reference": encoders[0].name if reference else None}
    if reference:
        settings["reference_hash"] = _hash(reference)
    return AttributionTarget(
        target, filled, lambda path, encoder: opened(path, encoder, target, reference), settings, notes
    )


def _question(prompt: Prompt) -> Question:
    return Question(prompt.text or PROMPT, prompt.answer or "", prompt.rejected)


def _answered(
    pictures: Sequence[Picture], loaded: tuple[Any, Any], name: str
) -> tuple[tuple[Picture, ...], tuple[str, ...]]:
    """Fill in missing answers with the model's own, and return pictures and notes."""
    filled, forced = [], []
    for picture in pictures:
        prompt = replace(picture.prompt, text=picture.prompt.text or PROMPT)
        if prompt.answer is None:
            said = own_answer(*loaded, picture.image, str(prompt.text))
            forced += [said.text] if said.forced else []
            prompt = replace(prompt, answer=said.text)
        filled.append(replace(picture, prompt=prompt))
    if not forced:
        return tuple(filled), ()
    words = ", ".join(repr(word) for word, _ in Counter(forced).most_common(3))
    note = (
        f"{name} answers {len(forced)} of {len(pictures)} questions with nothing: explained there is the likeliest "
        f"token other than the end of the turn, most often {words}; --chosen TEXT explains an answer"
    )
    return tuple(filled), (note,)


def class_target(pictures: Sequence[Picture], session: Session, named: str | None = None) -> AttributionTarget:
    """Explain the cosine of a picture with its class's prototype, minus the mean cosine with the other prototypes.

    Args:
        pictures: Pictures to explain.
        session: Encoders and images; each checkpoint's prototypes are means over the support images.
        named: One class for all pictures instead of their own.

    Raises:
        UsageError: If there is no such class.
        DataError: If the pictures have no class, or there are no other images to make a prototype of each class of.
    """
    support, classes, counts = prototype_images(session.images)
    if named is not None and named not in classes:
        raise UsageError(
            f"--target class:{named} is no class of {session.images.name}", hint=f"There are {_some(classes)}."
        )
    labels = [classes.index(named) if named else picture.label for picture in pictures]
    if any(label is None for label in labels):
        raise DataError("some pictures have no class", hint="Name one class for all: --target class:NAME.")
    features = session.extract(support, lambda encoder: [encoder.consumed], session.encoders)
    prototypes = {one.encoder: prototypes_of(one, classes) for one in features}

    def subject(checkpoint: str, encoder: VisionEncoder) -> TowerSubject:
        return TowerSubject(encoder, class_similarity(prototypes[encoder.name], [int(label or 0) for label in labels]))

    first = features[0]
    made_of = [first.item_ids, first.contents, None if first.labels is None else first.labels.tolist(), list(classes)]
    settings = {"prototypes_from": support.name, "prototypes_hash": _hash(made_of), "class": named,
                "prototype_images": counts}  # fmt: skip
    return AttributionTarget("class", tuple(pictures), subject, settings, tuple(few_images(counts)))


def text_target(pictures: Sequence[Picture], texts: Sequence[str], text_tower: str | Path | None) -> AttributionTarget:
    """Explain the cosine of a picture's embedding with the first text, minus the mean cosine with the others.

    Raises:
        UsageError: If there are fewer than two texts.
        CheckpointError: If there is no text tower.
        DataError: If a checkpoint has no embedding that can be read with it.
    """
    if len(texts) < 2:
        raise UsageError(
            "--target text needs a text and others to tell it apart from", hint="--text 'a cat' --text 'a dog'"
        )
    given = load_text_tower(text_tower) if text_tower is not None else None

    def subject(checkpoint: str, encoder: VisionEncoder) -> TowerSubject:
        target = text_similarity(_reader(encoder, given), list(texts), [0] * len(pictures), ["{}"])
        return TowerSubject(encoder, target, EMBEDDING)

    settings: dict[str, Any] = {"texts": list(texts)}
    if given is not None:
        held = given.visual_projection
        read = class_embeddings(given, texts, ["{}"]).tolist(), None if held is None else held.tolist()
        settings |= {"text_tower": given.path, "text_tower_hash": _hash(read)}
    return AttributionTarget("text", tuple(pictures), subject, settings)


def _reader(encoder: VisionEncoder, given: TextTower | None) -> Reader:
    if not encoder.embeds:
        raise DataError(
            f"{encoder.name} holds no pooling head, so it has no embedding that a text could be near to",
            hint="Explain an answer or a class, or name the two-tower model itself as checkpoint.",
        )
    tower = given or own_text_tower(encoder.provenance.path)
    if tower is None:
        raise DataError(f"{encoder.name} has no text tower", hint="Name the model it came from: --target text:MODEL.")
    return Reader(tower, tower.visual_projection is not None and encoder.projection_hash is None)


def _hash(value: Any) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:32]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


_FEW = 10  # a prototype of fewer images says more of these images than of the class: the report warns


def prototype_images(images: ImageData) -> tuple[ImageSet, tuple[str, ...], dict[str, int]]:
    """Return the images that make prototypes, the class names, and the number of these images in each class.

    Raises:
        DataError: If there are no such images or fewer than two classes, or a class has none; before anything is read.
    """
    support, classes = images.support, images.query.classes
    if support is None or classes is None:
        raise DataError(
            no_classes(images.query)
            if classes is None
            else f"{images.name} has no training images to make prototypes of",
            hint="Give a folder with train/ and val/ and one folder per class in them.",
        )
    if len(classes) < 2:
        raise DataError(
            f"{images.name} has one class, {classes[0]}: there is none to tell it apart from",
            hint="Give images of two classes or more.",
        )
    found = Counter(item.label for item in support.items)
    counts = {name: found[number] for number, name in enumerate(classes)}
    _refuse_without(counts, support.name)
    return support, classes, counts


def few_images(counts: dict[str, int]) -> list[str]:
    """Return a warning if some prototypes are means of few images."""
    few = {name: count for name, count in counts.items() if count < _FEW}
    if not few:
        return []
    name, count = min(few.items(), key=lambda entry: entry[1])
    return [
        f"{len(few)} of {len(counts)} prototypes are means of fewer than {_FEW} training images (class {name!r}: "
        f"{count}): maps explain nearness to these images more than to a class"
    ]


def prototypes_of(features: FeatureSet, classes: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean of L2-normalised features of each class at the consumed site, float64 of shape (classes, D).

    Raises:
        DataError: If no image of a class could be read.
    """
    rows, labels = features.sites[features.consumed], features.labels
    assert labels is not None
    _refuse_without({name: int((labels == number).sum()) for number, name in enumerate(classes)}, features.images)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.stack([unit[labels == number].mean(0) for number in range(len(classes))]).astype(np.float64)


def _refuse_without(counts: dict[str, int], images: str) -> None:
    absent = [name for name, count in counts.items() if not count]
    if absent:
        named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise DataError(
            f"{len(absent)} of {len(counts)} classes have no image in {images} to make a prototype of: {named}",
            hint="Add training images of these classes, or leave them out of the images that are looked into.",
        )
