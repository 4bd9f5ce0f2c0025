"""Probes of labels and numbers: planted truth, scikit-learn, missing values, and what cannot be read."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from planted_features import feature_set
from sklearn.metrics import r2_score

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.probes.config import ProbeConfig
from visprobe.analyses.probes.probe import probe_analysis
from visprobe.analyses.probes.targets import r2
from visprobe.data.image_set import Item
from visprobe.data.labels.annotated import Targets
from visprobe.errors import DataError
from visprobe.results.result import Result

N, WIDTH = 160, 12
READ = np.random.default_rng(3).standard_normal((WIDTH, 3))


@dataclass
class Images:
    """Images with targets, in another order than the features."""

    name: str
    items: list[Item]
    targets: Targets
    classes: tuple[str, ...] | None = None


def split(images: str, kind: str, noise: dict[str, float], seed: int) -> tuple[list[object], Images]:
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((N, WIDTH))
    values = latent @ READ
    values = (values > 0.5).astype(np.float64) if kind == "labels" else values + 10
    sets = [feature_set(name, {"block_02": latent + spread * rng.standard_normal((N, WIDTH))}, images=images,
                        prefix=images) for name, spread in noise.items()]  # fmt: skip
    order = rng.permutation(N)
    items = [Item(sets[0].item_ids[i]) for i in order]
    return list(sets), Images(images, items, Targets(("x", "y", "z"), values[order], kind))  # type: ignore[arg-type]


def inputs(kind: str, noise: dict[str, float], *, support: bool = True) -> Inputs:
    query, images = split("val", kind, noise, 0)
    learned, from_images = split("train", kind, noise, 1)
    baselines = tuple(one for one in query if one.encoder == "untrained")
    others = tuple(one for one in query[1:] if one not in baselines)
    encoder = type("Encoder", (), {"device": "cpu"})()
    return Inputs(query[0], others, baselines, (encoder,), images=images, support=tuple(learned) if support else (),
                  support_images=from_images if support else None)  # fmt: skip


def run(given: Inputs, name: str = "auto") -> Result:
    return probe_analysis(ProbeConfig(targets=name)).run(given)


@pytest.mark.parametrize("kind", ["labels", "numbers"])
@pytest.mark.parametrize("support", [True, False])
def test_planted_targets_are_read_noise_is_not_and_cleaner_features_are_measurably_better(kind, support) -> None:
    result = run(inputs(kind, {"base": 1.0, "sft": 0.1, "untrained": 1e6}, support=support))
    measure, none = ("probe_map", 0.45) if kind == "labels" else ("probe_r2", 0.05)
    base, better = (result.select(measure=measure, role="value", checkpoint=name)[0] for name in ("base", "sft"))
    [baseline] = result.select(measure=measure, role="baseline")
    [difference] = result.select(measure=measure, role="difference")
    assert baseline.estimate.value < none < base.estimate.value < 0.95 < better.estimate.value
    assert difference.estimate.low > 0 and base.estimate.n == result.settings["n"] == (N if support else N // 2)
    assert any(test["measure"] == measure and test["p_holm"] < 0.05 for test in result.settings["tests"])


def test_of_one_target_the_score_is_scikit_learns() -> None:
    given = inputs("numbers", {"base": 1.0})
    [row] = run(given, "y").select(measure="probe_r2")
    assert row.estimate.value == pytest.approx(run(given).settings["each_target"]["base"]["block_02"][1], abs=1e-4)
    rng = np.random.default_rng(0)
    truth, predicted = rng.standard_normal(30), rng.standard_normal(30)
    found = r2(predicted, truth)
    assert found.value == pytest.approx(r2_score(truth, predicted))
    without = [r2_score(np.delete(truth, i), np.delete(predicted, i)) for i in range(30)]
    np.testing.assert_allclose(found.without, without)
    assert found.student.n == 30


def test_missing_values_are_left_out_target_by_target() -> None:
    for kind in ("labels", "numbers"):
        given = inputs(kind, {"base": 0.1})
        for images in (given.images, given.support_images):
            images.targets.values[: N // 2, 0] = np.nan
            images.targets.values[:, 1] = np.nan if images is given.images else 1.0
        result = run(given)
        assert result.settings["targets"] == ["x", "z"]
        assert "missing: y" in result.warnings[0]
        assert all(score > 0.9 for score in result.settings["each_target"]["base"]["block_02"])


def test_what_cannot_be_read_is_refused_in_one_message() -> None:
    given = inputs("numbers", {"base": 1.0})
    constant = replace(given.images.targets, values=np.ones((N, 3)))
    missing = replace(given.images.targets, values=np.full((N, 3), np.nan))
    infinite = replace(given.images.targets, values=np.full((N, 3), np.inf))
    cases: list[tuple[str, str, NDArray | None]] = [
        ("x, y, z does not vary", "auto", constant),
        ("missing everywhere", "numbers", missing),
        ("no numbers", "auto", infinite),
        ("no targets 'depth'", "depth", None),
        ("no targets 'labels'", "labels", None),
    ]
    for words, name, targets in cases:
        images = given.images if targets is None else replace(given.images, targets=targets)
        with pytest.raises(DataError, match=words):
            run(replace(given, images=images), name)
    with pytest.raises(DataError, match="have no targets"):
        run(replace(given, images=None), "numbers")
