from dataclasses import replace

import numpy as np
import pytest
from planted_features import feature_set

from visprobe.analyses.drift.images import image_changes
from visprobe.errors import DataError
from visprobe.features.feature_set import FeatureSet
from visprobe.results.result import Result

N, WIDTH, CLASSES = 200, 6, 10
LABELS = np.arange(N) % CLASSES
NAMES = tuple(f"class {i}" for i in range(CLASSES))


def planted(name: str, sizes: float | np.ndarray, seed: int = 1) -> FeatureSet:
    """Image i moves by exactly sizes[i] of its length, in a random direction."""
    base = np.random.default_rng(0).standard_normal((N, WIDTH))
    step = np.random.default_rng(seed).standard_normal((N, WIDTH))
    step *= (np.linalg.norm(base, axis=1) / np.linalg.norm(step, axis=1) * sizes)[:, None]
    return feature_set(name, {"block_02": base + step}, LABELS, NAMES)


def sizes(seed: int, spread: float = 0.3) -> np.ndarray:
    return 0.1 * np.exp(spread * np.random.default_rng([7, seed]).standard_normal(N))


BASE = planted("base", 0.0)


def value(result: Result, measure: str, checkpoint: str = "sft") -> float:
    return result.select(checkpoint=checkpoint, measure=measure, role="value")[0].estimate.value


def test_the_planted_changes_are_measured_and_the_most_changed_images_listed() -> None:
    planned = sizes(0)
    result = image_changes(BASE, [planted("sft", planned)])
    assert value(result, "image_change/mean") == pytest.approx(planned.mean(), rel=1e-5)  # float32 features
    assert value(result, "image_change/median") == pytest.approx(np.median(planned), rel=1e-5)
    assert value(result, "image_change/95 % quantile") == pytest.approx(np.quantile(planned, 0.95), rel=1e-5)
    most = result.settings["most_changed"]["sft"]
    order = np.argsort(-planned)[:24]
    assert [one["id"] for one in most] == [f"image-{i:04d}" for i in order]
    assert [one["class"] for one in most] == [NAMES[i % CLASSES] for i in order]
    assert most[0]["change"] == pytest.approx(planned.max(), rel=1e-4)


def test_the_planted_class_stands_out_in_20_of_20_seeds_and_none_other_above_the_rest() -> None:
    for seed in range(20):
        planned = sizes(seed) * np.where(LABELS == 3, 2, 1)
        result = image_changes(BASE, [planted("sft", planned)])
        shown = [row.measure for row in result.rows if row.measure.startswith("class_change")]
        assert shown[0] == "class_change/class 3"
        # Beside a class that moved twice as far another one may be measurably below the rest, which holds that class.
        assert all(value(result, measure) < planned.mean() for measure in shown[1:])
        assert value(result, shown[0]) == pytest.approx(planned[LABELS == 3].mean(), rel=1e-5)  # float32 features
        [row] = result.select(measure=shown[0])
        assert row.estimate.n == N // CLASSES and row.estimate.low > value(result, "image_change/mean")


@pytest.mark.thorough
def test_without_a_special_class_at_most_one_run_in_twenty_shows_one() -> None:
    shown = 0
    for seed in range(100):
        result = image_changes(BASE, [planted("sft", sizes(seed, spread=0.8))])
        shown += any(row.measure.startswith("class_change") for row in result.rows)
    assert shown <= 11  # 5 expected, three standard errors above


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_agreement_on_images_is_found_where_it_was_planted(shared: float) -> None:
    common = np.random.default_rng(3).standard_normal(N)
    first, second = (
        0.1 * np.exp(shared * common + (1 - shared) * np.random.default_rng(seed).standard_normal(N)) for seed in (4, 5)
    )
    result = image_changes(BASE, [planted("sft", first), planted("dpo", second, seed=2)])
    [row] = result.select(checkpoint="dpo", measure="image_agreement/with sft")
    assert row.reference == "sft"
    assert (row.estimate.low > 0.9) if shared else (row.estimate.low < 0 < row.estimate.high)


def test_differences_of_means_are_paired() -> None:
    planned = sizes(6)
    result = image_changes(BASE, [planted("sft", planned), planted("dpo", planned + 0.01, seed=9)])
    [row] = result.select(role="difference")
    assert (row.checkpoint, row.reference) == ("dpo", "sft")
    assert row.estimate.value == pytest.approx(0.01, rel=1e-3)
    assert row.estimate.high - row.estimate.low < 1e-5  # float32 rounding; unpaired it would be 0.01


def test_what_did_not_move_is_said() -> None:
    result = image_changes(BASE, [replace(BASE, encoder="copy")])
    assert result.settings["identical"] == ["copy"] and not result.rows
    assert "no image's features moved" in result.warnings[0]


def test_images_without_classes_and_few_images_still_answer() -> None:
    few = [replace(f, item_ids=f.item_ids[:40], sites={"block_02": f.sites["block_02"][:40]}, labels=None, classes=None)
           for f in (BASE, planted("sft", sizes(0)))]  # fmt: skip
    result = image_changes(few[0], [few[1]])
    assert {row.measure.partition("/")[2] for row in result.rows} == {"mean", "median"}
    assert "need 72" in result.warnings[0]
    with pytest.raises(DataError, match="all zero"):
        image_changes(replace(BASE, sites={"block_02": np.zeros((N, WIDTH), np.float32)}), [planted("sft", 0.1)])
