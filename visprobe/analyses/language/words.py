"""Place of the projected patches among the words of the checkpoint's own language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visprobe.analyses.core.analysis import Analysis, Inputs
from visprobe.analyses.core.differences import Key, Replicates, difference_rows, kinds_of, subtract, value_rows
from visprobe.analyses.core.pairing import align, common_settings
from visprobe.analyses.core.refusals import naming, refuse_fewer
from visprobe.analyses.language.words_measures import (
    Array,
    Counts,
    Vocabulary,
    modality_gap,
    nearest_words,
    norm_ratio,
    rank_share,
    separation,
    word_variety,
)
from visprobe.data.image_set import thumbnail
from visprobe.errors import CheckpointError, DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.intervals.estimate import Scale
from visprobe.metrics.intervals.jackknife import replicate_mean
from visprobe.results.presentation import FigureSpec, Presentation
from visprobe.results.result import BaselineKind, Result, Row

if TYPE_CHECKING:
    from visprobe.encoders.encoder import VisionEncoder
    from visprobe.encoders.text.words import Words

QUESTION = "Where do the projected patches lie among the words of the checkpoint's own language model?"
SITE, TOKENS = "projected", "projected:tokens"
NATIVE = "projected:drawn"  # for towers of native resolution
IMAGES = 128
PATCHES = 32  # per image; looking one up among 150,000 words takes about 10 ms on one core
LEAST = 20  # images; an interval over fewer means little
MOST_WORDS = 20  # most frequent nearest words listed
_PICTURE = 192  # pixels
CHANGED = "word_changed"
SCALES = {
    "word_cosine": Scale("cosine", -1, 1),
    "word_norm_ratio": Scale("ratio", low=0),
    "word_gap": Scale("distance", 0, 2),
    "word_separation": Scale("area under ROC", 0, 1),
    "word_variety": Scale("words", low=1),
    "word_rank_share": Scale("ratio", 0, 1),
    CHANGED: Scale("fraction", 0, 1),
}


@dataclass(frozen=True)
class _Seen:
    measures: Mapping[str, Replicates]
    # `nearest` is the nearest word of each drawn patch, `picture` that of every patch of the first image.
    nearest: Counts
    picture: Counts


def words_of_patches(
    base: FeatureSet,
    others: Sequence[FeatureSet],
    baselines: Sequence[FeatureSet],
    words: Mapping[str, Words],
    seed: int = 0,
) -> Result:
    """Find the nearest words of patches, and compare the two in length and direction.

    Args:
        base: "projected:tokens" of the images under the base, or "projected:drawn" where it is of native resolution.
        others: Tokens of the same images under other checkpoints.
        baselines: Tokens of the same images under the baselines.
        words: Vocabulary of each checkpoint and baseline, by name.
        seed: Seed of the patches drawn, the same for all, and of the halves of `separation`.

    Returns:
        At "projected": "word_cosine" with the nearest word, "word_norm_ratio", "word_gap" (in [0, 2]),
        "word_separation" (0.5 to 1), "word_variety" (effective number of nearest words), "word_rank_share", and
        "word_changed": share of patches whose nearest word is another than under the base. Intervals are over images.

    Raises:
        DataError: If the images differ or are fewer than 20, or tokens are not defined among the words.
    """
    sets = align([base, *others, *baselines])
    refuse_fewer(base, LEAST, "an interval over images")
    names = [features.encoder for features in (base, *others)]
    places = next((_drawn(one.sites[TOKENS].shape, seed) for one in sets if TOKENS in one.sites), None)
    seen = {features.encoder: _look(features, words[features.encoder], places, seed) for features in sets}
    native = {features.encoder: NATIVE in features.sites for features in sets}
    alike = [name for name in native if native[name] == native[base.encoder]]
    spelled = _same_vocabulary(words, base.encoder)
    comparable = [name for name in spelled if name in alike]
    found = _replicates(seen, base.encoder, comparable)
    rows = [*_values(found, kinds_of(baselines), base.encoder), *_differences(found, names)]
    apart = [name for name in names if name not in spelled]
    settings = {
        **common_settings(base),
        "patches_per_image": next(iter(seen.values())).nearest.shape[1],
        "vocabulary": {name: _described(words[name]) for name in names},
        "nearest_words": {name: _frequent(one.nearest, words[name]) for name, one in seen.items()},
        "picture": {
            "id": base.item_ids[0],
            "words": {name: _spelled(seen[name].picture, words[name]) for name in names if name in alike},
        },
    }
    warnings = [f"{name} has another vocabulary than {base.encoder}: nearest words are not compared" for name in apart]
    warnings += [
        f"{name} cuts images into other patches than {base.encoder}: nearest words are not compared"
        for name in names
        if name in spelled and name not in alike
    ]
    return Result("words", QUESTION, tuple(rows), settings, tuple(warnings))


def _drawn(shape: tuple[int, ...], seed: int) -> Counts:
    """Draw the patches of each image to look up, the same for every checkpoint."""
    rng, (n, patches) = np.random.default_rng(seed), shape[:2]
    return np.stack([np.sort(rng.permutation(patches)[:PATCHES]) for _ in range(n)])


def _look(features: FeatureSet, words: Words, places: Counts | None, seed: int) -> _Seen:
    tokens = features.sites[TOKENS if TOKENS in features.sites else NATIVE]
    vocabulary = _vocabulary(words)
    with naming(features, SITE, "the place of patches among words"):
        taken = places if TOKENS in features.sites else None
        if tokens.shape[-1] != vocabulary.rows.shape[1] or (taken is not None and taken.max() >= tokens.shape[1]):
            raise ValueError(f"tokens of shape {tokens.shape[1:]} against words of width {vocabulary.rows.shape[1]}")
        chosen = tokens if taken is None else np.take_along_axis(tokens, taken[:, :, None], 1)
        drawn: Array = chosen.astype(np.float32)
        nearest, cosine = nearest_words(drawn, vocabulary)
        measures = {
            "word_cosine": replicate_mean(cosine.mean(1, dtype=np.float64)),
            "word_norm_ratio": norm_ratio(drawn, vocabulary),
            "word_gap": modality_gap(drawn, vocabulary),
            "word_separation": separation(drawn, vocabulary, seed),
            "word_variety": word_variety(nearest),
            "word_rank_share": rank_share(drawn),
        }
        return _Seen(measures, nearest, nearest_words(tokens[0].astype(np.float32), vocabulary)[0])


def _vocabulary(words: Words) -> Vocabulary:
    rows = words.embeddings[words.spoken].float().numpy() * np.float32(words.scale)
    kept = rows.any(1)  # padding rows of a table have no direction
    return Vocabulary(rows[kept], np.array(words.spoken)[kept])


def _same_vocabulary(words: Mapping[str, Words], base: str) -> list[str]:
    """Return the checkpoints that spell every token as the base does."""
    return [name for name, one in words.items() if _spelling(one) == _spelling(words[base])]


def _spelling(words: Words) -> object:
    return words.tokenizer.get_vocab() if words.tokenizer else len(words.embeddings)


def _replicates(seen: Mapping[str, _Seen], base: str, comparable: Sequence[str]) -> dict[Key, Replicates]:
    found: dict[Key, Replicates] = {}
    for measure in SCALES:
        for name, one in seen.items():
            if measure in one.measures:
                found[name, SITE, measure] = one.measures[measure]
            elif name != base and name in comparable:
                found[name, SITE, measure] = replicate_mean((one.nearest != seen[base].nearest).mean(1))
    return found


def _values(found: Mapping[Key, Replicates], baselines: Mapping[str, BaselineKind], base: str) -> Iterator[Row]:
    numbers = {key: one.estimate(SCALES[key[2]]) for key, one in found.items()}
    for row in value_rows(numbers, baselines):
        yield replace(row, reference=base) if row.measure == CHANGED else row


def _differences(found: Mapping[Key, Replicates], names: Sequence[str]) -> Iterator[Row]:
    return difference_rows(found, names, lambda pair: subtract(pair).estimate(SCALES[pair.measure].of_differences))


def _described(words: Words) -> dict[str, Any]:
    searched = int(words.embeddings[words.spoken].ne(0).any(1).sum())
    return {"tensor": words.tensor, "tokens": len(words.embeddings), "searched": searched, "scale": words.scale}


def _frequent(nearest: Counts, words: Words) -> list[list[str | float]]:
    """Return the most frequent nearest words, with their share of the patches."""
    counts = Counter(nearest.ravel().tolist()).most_common(MOST_WORDS)
    return [[words.spelled(token), count / nearest.size] for token, count in counts]


def _spelled(picture: Counts, words: Words) -> list[str]:
    return [words.spelled(int(token)) for token in picture]


def _needs(encoder: VisionEncoder) -> list[str]:
    if not encoder.has_projector:
        raise UsageError(
            f"{encoder.name} is a vision tower without a language model: there are no words to look among",
            hint="Give the folder of the whole multimodal model.",
        )
    return [NATIVE if encoder.grid is None else TOKENS]


def _run(inputs: Inputs) -> Result:
    read = {encoder.name: _read(encoder) for encoder in inputs.encoders}
    words = {**read, **{one.encoder: read[one.baseline.of] for one in inputs.baselines if one.baseline}}
    result = words_of_patches(inputs.base, inputs.others, inputs.baselines, words, inputs.seed)
    return replace(result, settings={**result.settings, "picture": _picture(result.settings["picture"], inputs)})


def _picture(picture: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Return the image of the words shown as a small data URI, and rows and columns of its tokens."""
    # At native resolution the tokens are those drawn, in rows of eight.
    tokens, grid = len(picture["words"][inputs.base.encoder]), inputs.encoders[0].grid
    whole = grid or (tokens // 8, 8)
    rows = max(1, round(whole[0] * (tokens / (whole[0] * whole[1])) ** 0.5))  # connectors may join tokens
    source = None
    if inputs.images is not None:
        place = next(place for place, item in enumerate(inputs.images.items) if item.id == picture["id"])
        source = thumbnail(inputs.images, place, side=_PICTURE)
    return {**picture, "grid": [rows, tokens // rows], "drawn": grid is None, "source": source}


def _read(encoder: VisionEncoder) -> Words:
    from visprobe.encoders.text.words import read_words

    try:
        return read_words(encoder.provenance.path)
    except CheckpointError as error:  # this analysis alone fails, not the run
        raise DataError(error.message, hint=error.hint) from error


WORDS = Analysis(
    name="words",
    question=QUESTION,
    needs=_needs,
    run=_run,
    images=IMAGES,
    presentation=Presentation(
        titles={
            "word_cosine": "Cosine of a patch with its nearest word",
            "word_norm_ratio": "Length of patch tokens over that of words (medians)",
            "word_gap": "Distance between the mean directions of patches and words",
            "word_separation": "Patches told from words by a held-out direction (area under ROC)",
            "word_variety": "Effective number of different nearest words",
            "word_rank_share": "Participation ratio of the patch tokens over their width",
            "word_changed": "Share of patches with another nearest word than under the base",
        },
        figures=(FigureSpec("nearest_words", "visprobe.analyses.language.words_figure"),),
        place=210,
        drawn_settings=("picture",),
    ),
)
