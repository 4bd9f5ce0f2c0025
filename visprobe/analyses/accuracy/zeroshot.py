"""Zero-shot classification by a text tower: do images still lie beside the sentences that name them?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visprobe.analyses.accuracy.rows import accuracy_differences, accuracy_rows
from visprobe.analyses.accuracy.task import check_classes, some
from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import kinds_of
from visprobe.analyses.core.pairing import align
from visprobe.analyses.core.refusals import refuse_fewer
from visprobe.data.templates import TEMPLATES, prompts, spoken_names
from visprobe.encoders import EMBEDDING
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder
    from visprobe.encoders.text.text_tower import TextTower

QUESTION = "Do images lie beside the sentences that name them, as before post-training?"
_WORDNET = re.compile(r"n\d{8}")
_ROWS = 4096  # images scored at a time
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """Text tower that the embeddings of one checkpoint are compared with.

    Attributes:
        tower: Text tower.
        project: True if the checkpoint has no visual projection of its own, so that the text tower's is used.
        head: Model whose pooling head made the embeddings, where the checkpoint has none of its own.
    """

    tower: TextTower
    project: bool
    head: str | None = None


def zeroshot(
    query: Sequence[FeatureSet],
    readers: Mapping[str, Reader],
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    lacking: Mapping[str, str] | None = None,
) -> Result:
    """Measure the share of images whose embedding is nearest (cosine) to the sentences about their class.

    Args:
        query: Features of labelled images, one set per checkpoint; sets without "embedding" only make a warning.
        readers: Text tower of each checkpoint and baseline; those without one are left out with a warning.
        names: Spoken name of each class, in the order of the labels.
        templates: Sentences with {} where the name goes; their normalised embeddings are averaged per class.
        lacking: Reasons why checkpoints have no embedding, where more is known than that they have no pooling head.

    Returns:
        Rows "zeroshot_top1" and, with more than five classes, "zeroshot_top5" at "embedding", or at "embedding (head of
        <model>)" where a head was borrowed, with Wilson intervals; differences of "zeroshot_top1" for each pair of
        checkpoints with Newcombe intervals, McNemar's p in the settings.

    Raises:
        DataError: If images are unlabelled or not the same for all; if no checkpoint can be read with a text tower; if
            names are too alike, or an embedding is zero, not finite or of another width than the sentences'.

    Source:
        CLIP (2103.00020), section 3.1.4: prompts averaged in the embedding space.
    Differs from source:
        Templates of our own, or of a file.
    """
    query = align(query)
    base, labels = query[0], _labels(query[0])
    refuse_fewer(base, 2, "an accuracy")
    warnings = [*_check_names(base, names), *_left_out(query, readers, lacking or {})]
    read = [features for features in query if EMBEDDING in features.sites and features.encoder in readers]
    if all(features.baseline for features in read):
        raise DataError("; ".join(warnings), hint="Give the two-tower model that the vision tower came from.")
    sentences = cache(lambda tower: class_embeddings(tower, names, templates))
    ranks = {
        features.encoder: _ranks(
            _in_shared_space(features, reader := readers[features.encoder]), sentences(reader.tower), labels
        )
        for features in read
    }
    top = {
        best: {name: {EMBEDDING: rank < best} for name, rank in ranks.items()}
        for best in ((1, 5) if len(names) > 5 else (1,))
    }
    baselines = kinds_of(features for features in query if features.baseline)
    differences, tests = accuracy_differences(top[1], "zeroshot_top1", baselines)
    values = [row for best, right in top.items() for row in accuracy_rows(right, f"zeroshot_top{best}", baselines)]
    settings: dict[str, Any] = {
        "base": base.encoder, "images": base.images, "n": len(labels), "classes": len(names), "chance": 1 / len(names),
        "consumed": base.consumed, "sites": [EMBEDDING], "names": list(names), "templates": list(templates),
        "text_towers": {name: readers[name].tower.path for name in ranks},
        "projection_of_text_tower": [name for name in ranks if readers[name].project],
        "head_of_text_tower": [name for name in ranks if readers[name].head], "mcnemar": tests,
    }  # fmt: skip
    rows = tuple(_labelled(row, readers) for row in (*values, *differences))
    return Result("zeroshot", QUESTION, rows, settings, (*warnings, *_borrowed(ranks, readers, baselines)))


def class_embeddings(tower: TextTower, names: Sequence[str], templates: Sequence[str]) -> Floats:
    """Return the mean direction of the sentences about each class, float64 of shape (classes, D), each of length 1."""
    texts = [text for name in names for text in prompts(name, templates)]
    rows = _normalised(tower.embed(texts).double().numpy())
    return _normalised(rows.reshape(len(names), len(templates), -1).mean(1))


def with_text_tower(path: str | Path | None = None, templates: Sequence[str] = TEMPLATES) -> Analysis:
    """Return the analysis with one text tower for all checkpoints, or with each checkpoint's own.

    Args:
        path: Two-tower model that the vision towers came from; None for each checkpoint's own.
        templates: Sentences with {} where the name goes.

    Raises:
        CheckpointError: If `path` holds no text tower.
    """
    given = _text_tower(path) if path is not None else None

    @cache
    def donor() -> VisionEncoder:
        from visprobe.encoders.load import load_encoder

        return load_encoder(str(path))

    lacking: dict[str, str] = {}

    def equip(encoder: VisionEncoder) -> VisionEncoder:
        from visprobe.encoders.text.borrowed_head import misfit, with_head_of

        if encoder.embeds or encoder.head:
            return encoder
        if why := misfit(encoder, donor()):
            lacking[encoder.name] = why
            return encoder
        return with_head_of(encoder, donor())

    def run(inputs: Inputs) -> Result:
        names = spoken_names(inputs.base.classes or (), inputs.images)
        return zeroshot(inputs.all, _readers(inputs, given), names, templates, lacking)

    lend = equip if path is not None else None
    return Analysis(
        "zeroshot",
        QUESTION,
        _needs,
        run,
        baselines="untrained",
        check=check_classes,
        equip=lend,
        presentation=Presentation(
            titles={
                "zeroshot_top1": "Zero-shot top-1 accuracy",
                "zeroshot_top5": "Zero-shot top-5 accuracy",
            },
            figures=(FigureSpec("zeroshot_accuracy", "visprobe.analyses.accuracy.zeroshot_figure"),),
            place=60,
            columns={"zeroshot": "zero-shot", "zeroshot_top1": "zero-shot"},
            drawn_settings=("mcnemar",),
        ),
    )


def _text_tower(path: str | Path) -> TextTower:
    from visprobe.encoders.text.text_tower import load_text_tower

    return load_text_tower(path)


def _needs(encoder: VisionEncoder) -> list[str]:
    return [EMBEDDING] if encoder.embeds or encoder.head else []


def _readers(inputs: Inputs, given: TextTower | None) -> dict[str, Reader]:
    from visprobe.encoders.text.text_tower import own_text_tower

    encoders = {encoder.name: encoder for encoder in inputs.encoders}
    readers: dict[str, Reader] = {}
    for name, encoder in encoders.items():
        tower = given or (own_text_tower(encoder.provenance.path) if encoder.embeds else None)
        if tower is not None:
            project = tower.visual_projection is not None and encoder.projection_hash is None
            readers[name] = Reader(tower, project, encoder.head.origin if encoder.head else None)
    for baseline in inputs.baselines:  # an untrained tower is read like the checkpoint of its shape
        if baseline.baseline and baseline.baseline.of in readers:
            readers[baseline.encoder] = readers[baseline.baseline.of]
    return readers


def _labels(features: FeatureSet) -> NDArray[np.int64]:
    if features.labels is None:
        raise DataError(
            f"{features.images} has no labels, so accuracy cannot be measured on it",
            hint="Sort the images into one folder per class, or leave this analysis out.",
        )
    return features.labels


def _check_names(base: FeatureSet, names: Sequence[str]) -> Iterator[str]:
    """Refuse names that say nothing; warn of those that two classes share."""
    counts = Counter(names)
    if len(counts) < 2:
        raise DataError(
            f"the classes of {base.images} have {len(counts)} different names", hint="Give images of two classes."
        )
    if all(map(_WORDNET.fullmatch, names)):
        raise DataError(
            f"the classes of {base.images} are called {some(list(names))}: no sentence can be made of that",
            hint="Put LOC_synset_mapping.txt or synset_words.txt beside the images.",
        )
    if shared := [name for name, count in counts.items() if count > 1]:
        yield f"{some(shared)}: the name of more than one class; the sentences cannot tell these classes apart"


def _labelled(row: Row, readers: Mapping[str, Reader]) -> Row:
    """Return `row` with the model of its head in the site, where that is not the checkpoint's own."""
    heads = dict.fromkeys(readers[name].head for name in (row.checkpoint, row.reference) if name)
    lent = [head for head in heads if head]
    return replace(row, site=f"{EMBEDDING} (head of {lent[0]})") if lent else row


def _borrowed(ranks: Iterable[str], readers: Mapping[str, Reader], baselines: Collection[str]) -> Iterator[str]:
    for name in ranks:
        if name not in baselines and (head := readers[name].head):
            yield (
                f"{name} holds no pooling head: that of {head} was used, which was trained for the features of {head}; "
                "a low accuracy may be the head's that no longer fits"
            )


def _left_out(query: Sequence[FeatureSet], readers: Mapping[str, Reader], lacking: Mapping[str, str]) -> Iterator[str]:
    for features in query:
        if features.baseline:
            continue
        if EMBEDDING not in features.sites:
            why = f", and {lacking[features.encoder]}" if features.encoder in lacking else ""
            yield f"{features.encoder} has no zero-shot accuracy: its checkpoint holds no pooling head{why}"
        elif features.encoder not in readers:
            yield f"{features.encoder} has no zero-shot accuracy: its checkpoint holds no text tower"


def _in_shared_space(features: FeatureSet, reader: Reader) -> Floats:
    """Return embeddings of length 1, projected by the text tower where the checkpoint has no projection."""
    rows, tower = features.sites[EMBEDDING].astype(np.float64), reader.tower
    projection = tower.visual_projection if reader.project else None
    width = tower.dim if projection is None else projection.shape[1]
    if rows.shape[1] != width:
        raise DataError(
            f"{features.encoder} embeds images in {rows.shape[1]} numbers, the text tower of {tower.path} takes "
            f"{width}",
            hint="Give the two-tower model that this vision tower came from.",
        )
    rows = rows if projection is None else rows @ projection.double().numpy().T
    if not np.linalg.norm(rows, axis=1).all():
        raise DataError(
            f"{features.encoder} embeds an image of {features.images} as zero", hint="The encoder has collapsed."
        )
    return _normalised(rows)


def _ranks(images: Floats, classes: Floats, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the classes before the right one, int64 of shape (n,); of equal cosines the class listed first wins."""
    found = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _ROWS):
        scores, own = images[start : start + _ROWS] @ classes.T, labels[start : start + _ROWS, None]
        right = np.take_along_axis(scores, own, 1)
        before = np.arange(len(classes)) < own
        found[start : start + _ROWS] = ((scores > right) | ((scores == right) & before)).sum(1)
    return found


def _normalised(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return found


ZEROSHOT = with_text_tower()
