"""Alignment with language models: against restatements of the published measure, planted structure, and nulls."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from baseline_marks import mark

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.language.align import align_analysis, alignment
from visprobe.analyses.language.align_layers import Pairs, clamped, neighbour_lists, permutation_p
from visprobe.data.image_set import Item
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.features.text import TextFeatures
from visprobe.metrics.similarity.neighbour_overlap import mutual_knn

N, K = 80, 10
IDS = tuple(f"image-{i:03d}" for i in range(N))
CAPTIONS = {item: f"caption {item}" for item in IDS}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def vision(name, meaning, noise, seed, ids=IDS):
    """An encoder whose sites hold a rotation of `meaning`, the deeper the less noise."""
    rotated = meaning @ np.linalg.qr(draw(seed, meaning.shape[1], meaning.shape[1]))[0]
    strengths = {"block_00": 8 * noise, "block_01": 2 * noise, "block_02": noise, "projected": noise}
    sites = {site: rotated + s * draw(seed + i, *meaning.shape) for i, (site, s) in enumerate(strengths.items(), 10)}
    return FeatureSet(name, "planted", ids, None, None, sites, "block_02", baseline=mark(name))


def texts(meaning, name="lm", noise=0.3):
    layers = {
        f"layer_{i:02d}": meaning + s * draw(50 + i, *meaning.shape) for i, s in enumerate((9.0, noise, 2 * noise))
    }
    return lambda captions: [TextFeatures(name, layers, "hash", len(captions))]


def published_mutual_knn(x, y, k):
    """Huh et al. 2024, eq. 11, restated: cosine, self left out."""
    near = []
    for f in (x, y):
        unit = f / np.linalg.norm(f, axis=1, keepdims=True)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -np.inf)
        near.append(np.argsort(-scores, axis=1)[:, :k])
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)])


def lists_of(features):
    return neighbour_lists({f"l{i}": f for i, f in enumerate(features)}, K)


def test_every_pair_is_the_published_mutual_knn_and_the_tested_metric_to_the_bit():
    left, right = [draw(i, N, 6) for i in range(3)], [draw(9, N, 6) + draw(0, N, 6), draw(8, N, 4)]
    pairs = Pairs(lists_of(left), lists_of(right), K, seed=3)
    expected = [[published_mutual_knn(x, y, K) for y in right] for x in left]
    np.testing.assert_allclose(pairs.table, expected, rtol=0, atol=1e-15)  # means of equal counts
    own, metric = pairs.halved("l0", "l0"), mutual_knn(left[0], right[0], K, seed=3)
    assert own.value == metric.value and np.array_equal(own.differences, metric.differences)
    rng = np.random.default_rng(3)
    for found in own.differences[:3]:  # halves of the same splits, with fewer neighbours
        halves = np.split(rng.permutation(N), 2)
        first, second = (published_mutual_knn(left[0][np.sort(h)], right[0][np.sort(h)], 7) for h in halves)
        assert found == pytest.approx((first - second) / 2, abs=1e-15)
    assert pairs.best.value == np.max(expected)


def test_a_draw_of_the_null_is_mutual_knn_of_shuffled_captions():
    left, right = [draw(i, N, 5) for i in (1, 2)], [draw(1, N, 5) + 0.3 * draw(3, N, 5)]
    pairs = Pairs(lists_of(left), lists_of(right), K, seed=7)
    null, rng = pairs.null(3), np.random.default_rng(7)
    for table in null:
        order = rng.permutation(N)
        expected = [[published_mutual_knn(x, right[0][order], K)] for x in left]
        np.testing.assert_allclose(table, expected, rtol=0, atol=1e-15)


def test_golden_values_of_the_published_measure():
    legacy = np.random.RandomState(1337)
    x = legacy.randn(100, 10)
    y = legacy.randn(100, 10) + x
    pairs = Pairs(lists_of([x]), lists_of([y]), K, seed=0)
    assert pairs.table[0, 0] == pytest.approx(published_mutual_knn(x, y, K), abs=1e-15)
    assert pairs.null(200).mean() == pytest.approx(K / 99, abs=0.003)  # chance; 200 draws scatter by 0.0004


@pytest.mark.thorough
def test_the_largest_of_unrelated_layers_looks_like_alignment_and_its_p_value_does_not():
    """Over simulated nulls p is uniform: below 0.1 in a tenth of cases, 0.5 on average."""
    p, above = [], []
    for seed in range(200):
        left = [draw([seed, i], 40, 4) for i in range(3)]
        right = [draw([seed, i], 40, 4) for i in range(5, 8)]
        pairs = Pairs(
            neighbour_lists({str(i): f for i, f in enumerate(left)}, 5),
            neighbour_lists({str(i): f for i, f in enumerate(right)}, 5), 5, seed,
        )  # fmt: skip
        null = pairs.null(39).max((1, 2))
        p.append(permutation_p(pairs.table.max(), null))
        above.append(pairs.table.max() - 5 / 39)
    assert np.mean(above) > 0.02  # the bias of a maximum over nine pairs
    # Three standard errors of 200 uniform p: 0.06 of the mean, 0.064 of the share; ties make p a little larger.
    assert 0.44 < np.mean(p) < 0.60 and np.mean(np.array(p) <= 0.1) < 0.165


def result_of(protocol="fixed", **changed):
    meaning = draw(0, N, 8)
    base, good, none = (vision("base", meaning, 0.6, 1), vision("good", meaning, 0.05, 2),
                        vision("untrained", draw(77, N, 8), 0.1, 3))  # fmt: skip
    made = {"captions": CAPTIONS, "texts": texts(meaning), "protocol": protocol, **changed}
    return alignment(base, [good], [none], **made)


@pytest.mark.thorough
def test_planted_alignment_is_found_and_unrelated_features_are_at_chance():
    result = result_of()
    for measure in ("text_knn", "text_cknna", "text_cka"):
        rows = {r.checkpoint: r.estimate for r in result.rows if r.measure == f"{measure}/lm, half depth, block_02"
                and r.role != "difference"}  # fmt: skip
        assert rows["good"].low > rows["base"].value > rows["untrained"].high
    knn = result.select(measure="text_knn/lm, half depth, block_02")
    assert {r.checkpoint for r in knn} == {"base", "good", "untrained", "chance"}
    (difference,) = [r for r in knn if r.role == "difference"]
    assert difference.reference == "base" and difference.estimate.low > 0
    tests = {(t["checkpoint"], t["measure"]): t for t in result.settings["tests"] if "reference" not in t}
    assert tests["good", "text_best/lm"]["p"] == pytest.approx(1 / 201)
    assert tests["untrained", "text_best/lm"]["p"] > 0.05
    assert all(t["p_holm"] >= t["p"] for t in result.settings["tests"])
    best = {one["checkpoint"]: (one["site"], one["layer"]) for one in result.settings["best"]}
    assert best["good"][1] == "layer_01" and best["good"][0] in ("block_02", "projected")
    (excess,) = result.select(checkpoint="untrained", measure="text_excess/lm")
    assert excess.estimate.low < 0 < excess.estimate.high


def test_the_papers_protocol_clamps_and_takes_the_largest():
    result = result_of("paper")
    assert {row.measure.partition("/")[0] for row in result.rows} == {"text_best", "text_excess"}
    assert any("selection" in warning for warning in result.warnings)
    layers = {"a": draw(1, 30, 5), "b": 3 * draw(2, 30, 4)}
    each = [np.quantile(np.abs(np.r_[a, b]), 0.95) for a, b in zip(*layers.values(), strict=True)]
    for name, array in clamped(layers).items():
        np.testing.assert_array_equal(array, np.clip(layers[name], -np.mean(each), np.mean(each)))


def test_images_are_paired_with_captions_by_id_and_those_without_are_said():
    meaning, order = draw(0, N, 8), np.random.default_rng(4).permutation(N)
    base = vision("base", meaning, 0.6, 1)
    other = vision("good", meaning, 0.05, 2)
    shuffled = replace(
        other, item_ids=tuple(IDS[i] for i in order), sites={s: a[order] for s, a in other.sites.items()}
    )
    kept = {item: CAPTIONS[item] for item in IDS[5:]}
    plain, mixed = (alignment(base, [one], [], kept, texts(meaning[5:])) for one in (other, shuffled))
    assert plain.rows == mixed.rows
    assert plain.settings["n"] == N - 5 and any("5 images" in warning for warning in plain.warnings)


def test_too_few_pairs_and_captions_that_do_not_vary_are_refused():
    with pytest.raises(DataError, match="49 usable images with a caption"):
        result_of(captions={item: "a" for item in IDS[:49]})
    with pytest.raises(DataError, match="not defined under lm"):
        result_of(texts=lambda c: [TextFeatures("lm", {"layer_00": np.zeros((len(c), 3)), "layer_01": np.ones((len(c), 3))}, "", 0)])  # fmt: skip  # noqa: E501


@dataclass
class Images:
    items: list = field(default_factory=lambda: [Item(item) for item in IDS])
    name: str = "planted"
    classes: None = None


@dataclass
class Captioned(Images):
    captions: list = field(default_factory=lambda: [(f"first {item}", "second") for item in IDS])


def test_the_first_caption_of_an_image_is_read_and_images_without_captions_are_refused():
    seen = []

    def make(captions):
        seen.extend(captions)
        return texts(draw(0, N, 8))(captions)

    analysis = align_analysis(make)
    base = vision("base", draw(0, N, 8), 0.6, 1)
    analysis.run(Inputs(base, (), (), (), images=Captioned()))
    assert seen == [f"first {item}" for item in IDS]
    with pytest.raises(DataError, match="has no captions"):
        analysis.check(Images(), None)
    with pytest.raises(DataError, match="0 usable images"):
        analysis.check(Captioned(captions=[()] * N), None)
