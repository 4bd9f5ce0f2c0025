"""Patches among words: planted words come back, and every measure against a restatement or a closed form."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from baseline_marks import mark

from visprobe.analyses.core.contract import check_analysis
from visprobe.analyses.language.words import WORDS, words_of_patches
from visprobe.analyses.language.words_measures import (
    Vocabulary,
    modality_gap,
    nearest_words,
    norm_ratio,
    rank_share,
    separation,
    word_variety,
)
from visprobe.encoders.text.words import Words
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.requests import REDUCTIONS

N, T, D, V = 24, 9, 16, 40
IDS = tuple(f"image-{i:02d}" for i in range(N))


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Tokenizer:
    """Words "w0", "w1", ...; token 0 is special and the last one unknown to it."""

    all_special_ids = (0,)

    def get_vocab(self):
        return {f"w{i}": i for i in range(V - 1)}

    def decode(self, tokens):
        return f" w{tokens[0]}"


def vocabulary(seed=1, tokenizer=True, rows=None):
    table = draw(seed, V, D) if rows is None else rows
    return Words(torch.from_numpy(table), 1.0, "embed_tokens.weight", Tokenizer() if tokenizer else None, table.nbytes)


def features(name, tokens, ids=IDS):
    return FeatureSet(name, "planted", ids, None, None, {"projected:tokens": tokens}, "block_02", baseline=mark(name))


def planted(seed=0, noise=0.0):
    """Patches that lie on words 1 to 30, and which words these are."""
    chosen = np.random.default_rng(seed).integers(1, 30, (N, T))
    return vocabulary().embeddings.numpy()[chosen] + noise * draw(9, N, T, D), chosen


def value(result, measure, checkpoint, **wanted):
    (row,) = result.select(measure=measure, checkpoint=checkpoint, **wanted)
    return row.estimate


def test_patches_that_are_words_are_found_as_these_words():
    tokens, chosen = planted()
    moved = chosen.copy()
    moved[:, :3] = 30  # a third of the patches gets another word
    other = vocabulary().embeddings.numpy()[moved]
    words = dict.fromkeys(("base", "sft", "untrained"), vocabulary())
    result = words_of_patches(
        features("base", tokens), [features("sft", other)], [features("untrained", draw(5, N, T, D))], words
    )
    assert result.settings["picture"]["words"]["base"] == [f"w{token}" for token in chosen[0]]
    assert value(result, "word_cosine", "base").value == pytest.approx(1, abs=1e-6)  # float32
    assert value(result, "word_changed", "sft").value == pytest.approx(1 / 3)
    assert value(result, "word_changed", "untrained").value > 0.9
    counted = dict(result.settings["nearest_words"]["base"])
    token, count = max(((t, (chosen == t).sum()) for t in range(1, 30)), key=lambda pair: pair[1])
    assert max(counted.values()) == count / chosen.size == counted[f"w{token}"]
    difference = value(result, "word_cosine", "sft", role="difference")
    assert abs(difference.value) < 1e-6  # both lie on words, up to float32
    assert result.settings["vocabulary"]["base"]["searched"] == V - 2  # neither the special token nor the unknown one


def test_nearest_words_are_those_of_brute_force_whatever_the_lengths():
    patches, table = draw(0, 7, 5, D) * 100, draw(1, V, D) * np.arange(1, V + 1, dtype=np.float32)[:, None]
    found, cosine = nearest_words(patches, Vocabulary(table, np.arange(V) + 100))
    for i, j in np.ndindex(7, 5):
        p = patches[i, j].astype(np.float64)
        expected = [p @ w / np.linalg.norm(p) / np.linalg.norm(w) for w in table.astype(np.float64)]
        assert found[i, j] == np.argmax(expected) + 100
        assert cosine[i, j] == pytest.approx(max(expected), abs=1e-6)  # float32


def test_lengths_gap_and_rank_against_restatements():
    patches, table = draw(0, N, T, D) + 1, draw(1, V, D)
    words = Vocabulary(table, np.arange(V))
    lengths = np.linalg.norm(patches, axis=2)
    ratio = np.median(lengths, axis=1).mean() / np.median(np.linalg.norm(table, axis=1))
    assert norm_ratio(patches, words).value == pytest.approx(ratio, rel=1e-6)

    def gap(images):
        means = [(f / np.linalg.norm(f, axis=-1, keepdims=True)).reshape(-1, D).mean(0) for f in (images, table)]
        return np.linalg.norm(means[0] - means[1])

    def share(x):
        values = np.linalg.eigvalsh(x.T @ x)
        return values.sum() ** 2 / (values**2).sum() / D

    centred = patches.reshape(-1, D).astype(np.float64) - patches.reshape(-1, D).mean(0, dtype=np.float64)
    for statistic, whole in ((modality_gap(patches, words), gap), (rank_share(patches), None)):
        parts = centred.reshape(N, T, D)
        for left in (None, 0, 11):
            rest = [i for i in range(N) if i != left]
            expected = whole(patches[rest]) if whole else share(parts[rest].reshape(-1, D))
            got = statistic.value if left is None else statistic.without[left]
            assert got == pytest.approx(expected, rel=1e-5)  # float32 unit vectors


def test_variety_counts_equally_frequent_words():
    variety = word_variety(np.repeat(np.arange(6), 4).reshape(6, 4))
    assert variety.value == pytest.approx(6) and variety.without == pytest.approx(np.full(6, 5.0))


def test_separation_is_a_half_where_patches_are_drawn_like_words_and_one_where_a_plane_parts_them():
    # 64 dimensions and 60 images of one patch: on the half it was found on the direction would part any two sets.
    alike = [separation(draw([1, s], 60, 1, 64), Vocabulary(draw([2, s], 60, 64), np.arange(60)), s).value
             for s in range(30)]  # fmt: skip
    assert np.mean(alike) == pytest.approx(0.5, abs=0.03)  # four standard errors: one AUC of 60 scatters by 0.04
    apart = separation(draw(1, 60, 4, 8) + 6, Vocabulary(draw(2, 60, 8), np.arange(60)), 0)
    assert apart.value > 0.999


def test_without_a_tokenizer_words_are_numbers_and_other_vocabularies_are_not_compared():
    tokens, chosen = planted()
    words = {"base": vocabulary(tokenizer=False), "other": vocabulary()}
    result = words_of_patches(features("base", tokens), [features("other", tokens)], [], words)
    assert result.settings["picture"]["words"]["base"][0] == f"#{chosen[0, 0]}"
    assert not result.select(measure="word_changed") and "another vocabulary" in result.warnings[0]


def test_what_has_no_place_among_words_is_refused():
    tokens, _ = planted()
    words = dict.fromkeys(("base", "sft"), vocabulary())
    cases = {
        "needs at least 20": features("base", tokens[:5], IDS[:5]),
        "all zero": features("base", np.zeros_like(tokens)),
        "same features": features("base", np.ones_like(tokens)),
        "words of width": features("base", tokens[..., :-1]),
    }
    for message, given in cases.items():
        with pytest.raises(DataError, match=message):
            words_of_patches(given, [], [], words)
    with pytest.raises(UsageError, match="without a language model"):
        WORDS.needs(SimpleNamespace(has_projector=False, name="tower"))


@pytest.mark.thorough
def test_words_keeps_the_contract():
    check_analysis(WORDS)


def test_native_resolution_is_read_from_drawn_patches():
    near, chosen = planted()
    sets = [
        replace(features("base", near), sites={"projected:drawn": near}),
        replace(features("sft", near[:, ::-1]), sites={"projected:drawn": near[:, ::-1]}),
        features("fixed", near),
    ]
    result = words_of_patches(sets[0], sets[1:], [], dict.fromkeys(("base", "sft", "fixed"), vocabulary()))
    assert value(result, "word_cosine", "base").value == pytest.approx(1, abs=1e-6)  # float32
    changed = (chosen != chosen[:, ::-1]).mean()
    assert value(result, "word_changed", "sft", role="value").value == pytest.approx(changed)
    assert not result.select(checkpoint="fixed", measure="word_changed")
    assert any("fixed cuts images into other patches" in warning for warning in result.warnings)
    assert set(result.settings["picture"]["words"]) == {"base", "sft"}


@pytest.mark.parametrize("count", [1, 5, 32, 200])
def test_the_drawn_tokens_are_those_of_the_image_in_order_and_always_as_many(count):
    tokens = torch.arange(count, dtype=torch.float32).reshape(1, count, 1)
    drawn = REDUCTIONS["drawn"](tokens).flatten().tolist()
    assert len(drawn) == 32 and drawn == sorted(drawn) and len(set(drawn)) == min(32, count)
    assert drawn == REDUCTIONS["drawn"](tokens + 0).flatten().tolist()
