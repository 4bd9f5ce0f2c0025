"""Robustness on encoders whose answer is known: one blind to fine detail, one that sees nothing else."""

import io
from dataclasses import replace

import numpy as np
import pytest
from baseline_marks import mark
from PIL import Image

from visprobe.analyses.core.analysis import Inputs
from visprobe.analyses.robustness.robustness import ROBUSTNESS, robustness
from visprobe.analyses.robustness.variants import ALL, FEW, Plan
from visprobe.data.image_set import Item, decode
from visprobe.errors import DataError, UsageError
from visprobe.features.feature_set import FeatureSet
from visprobe.metrics.classifiers.prototypes import ranks_leaving_one_out

SIDE, CLASSES, EACH = 112, 4, 6


class Checks:
    """Checks of two colours in each class of its own: told apart by their mean colour, or by their fine pattern."""

    name = "checks"

    def __init__(self, seed: int, classes: tuple[str, ...] | None = tuple("abcd")) -> None:
        self.classes, self.seed = classes, seed
        self.items = tuple(Item(f"{seed}-{i}", i % CLASSES if classes else None) for i in range(CLASSES * EACH))

    def read(self, index: int) -> bytes:
        kind, draw = index % CLASSES, np.random.default_rng((self.seed, index))
        rows, columns = np.indices((SIDE, SIDE))
        stripes = (rows, columns, rows + columns, rows // 2)[kind] % 2 * 16.0
        colour = np.array([(90, 120, 150), (150, 120, 90), (90, 150, 120), (120, 90, 150)][kind])
        pixels = colour + stripes[..., None] - 8 + draw.normal(0, 3, 3)
        buffer = io.BytesIO()
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def coarse(pixels):
    return pixels.reshape(4, SIDE // 4, 4, SIDE // 4, 3).mean((1, 3)).ravel() - 120


def fine(pixels):
    """How strongly neighbours differ downwards, to the right and two down."""
    steps = (pixels[1:] - pixels[:-1], pixels[:, 1:] - pixels[:, :-1], pixels[2:] - pixels[:-2])
    return np.array([np.abs(step).mean() for step in steps])


def pictures(images):
    """What a processor makes of them."""
    read = (decode(images.read(index)).resize((SIDE, SIDE)) for index in range(len(images.items)))
    return [np.asarray(image, float) for image in read]


def seen(images, made, encoder, look):
    features = np.array([look(pixels) for pixels in made], np.float32)
    labels = np.array([item.label for item in images.items]) if images.classes else None
    ids = tuple(item.id for item in images.items)
    return FeatureSet(
        encoder, images.name, ids, labels, images.classes, {"block_02": features}, "block_02", baseline=mark(encoder)
    )


def inputs(plan, encoders, classes=tuple("abcd"), support=True, baselines=()):
    images, learned = Checks(0, classes), Checks(1, classes)

    def sets(shown):
        made = pictures(shown)
        return tuple(seen(shown, made, name, look) for name, look in {**encoders, **dict(baselines)}.items())

    own = sets(images)
    return Inputs(
        own[0], own[1 : len(encoders)], own[len(encoders) :], (), 0,
        support=tuple(replace(one, images="learned") for one in sets(learned)) if support else (),
        variants={name: sets(changed) for name, changed in plan.variants(images, 0).items()},
    )  # fmt: skip


PLAN = Plan(("gaussian_noise", "defocus_blur"), (1, 5), (8,), (1.0, 0.5))


@pytest.fixture(scope="module")
def measured():
    given = inputs(PLAN, {"coarse": coarse, "fine": fine, "same": coarse}, baselines={"untrained": fine})
    return given, robustness(PLAN).run(given)


def one(result, **wanted):
    [row] = result.select(**wanted)
    return row.estimate


@pytest.mark.parametrize("support", [True, False])
def test_an_encoder_blind_to_fine_detail_keeps_its_accuracy_and_one_of_detail_alone_loses_it(support, measured):
    result = measured[1] if support else robustness(PLAN).run(
        inputs(PLAN, {"coarse": coarse, "fine": fine}, support=False))  # fmt: skip
    for kind in (ALL, "gaussian_noise", "resolution", "crop"):
        assert one(result, checkpoint="coarse", measure=f"error_consumed/{kind}", role="value").value == 0
    assert one(result, checkpoint="coarse", measure=f"kept_consumed/{ALL}").value == 1
    assert one(result, checkpoint="fine", measure="top1_clean").value == 1
    assert one(result, checkpoint="fine", measure="error_consumed/gaussian_noise", role="value").value > 0.6
    worse = one(result, checkpoint="fine", reference="coarse", measure="error_consumed/gaussian_noise")
    assert worse.low > 0.25
    tests = [test for test in result.settings["tests"] if (test["checkpoint"], test["reference"]) == ("fine", "coarse")]
    assert {test["kind"]: test["p_holm"] < 0.05 for test in tests if "p_holm" in test}["gaussian_noise"]
    assert {test["kind"] for test in tests if "p_holm" not in test} == {ALL}  # the mean is one test of its own


def test_equal_encoders_differ_by_exactly_nothing(measured):
    rows = measured[1].select(checkpoint="same", reference="coarse", role="difference")
    assert len(rows) == 5
    assert all(row.estimate.value == row.estimate.low == row.estimate.high == 0 for row in rows)
    tests = [test for test in measured[1].settings["tests"] if test["checkpoint"] == "same"]
    assert {test["p"] for test in tests if test["reference"] == "coarse"} == {1.0}


def test_rows_are_what_counting_by_hand_gives(measured):
    given, result = measured
    unit = lambda a: a / np.maximum(np.linalg.norm(a, axis=-1, keepdims=True), 1e-12)  # noqa: E731
    learned, labels = unit(given.support[1].sites["block_02"].astype(float)), given.support[1].labels
    prototypes = unit(np.array([learned[labels == c].mean(0) for c in range(CLASSES)]))
    right = {
        name: (unit(sets[1].sites["block_02"].astype(float)) @ prototypes.T).argmax(1) == sets[1].labels
        for name, sets in given.variants.items()
    }
    noise = np.mean([right["gaussian_noise 1"], right["gaussian_noise 5"]], axis=0)
    row = one(result, checkpoint="fine", measure="error_consumed/gaussian_noise", role="value")
    assert row.value == pytest.approx(1 - noise.mean(), abs=1e-12)
    error = noise.std(ddof=1) / np.sqrt(len(noise))
    assert row.high == pytest.approx(min(1, row.value + 2.0687 * error), abs=1e-4)  # t with 23 degrees of freedom
    curve = {(p["kind"], p["level"]): p["value"] for p in result.settings["curves"] if p["checkpoint"] == "fine"}
    assert curve["crop", 0.5] == right["crop 0.5"].mean()
    assert len(curve) == 1 + 4 + 1 + 1  # clean, and no crop of the whole image


def test_baselines_have_rows_and_no_differences(measured):
    assert measured[1].select(checkpoint="untrained", measure="error_consumed/crop")[0].role == "baseline"
    assert not measured[1].select(checkpoint="untrained", role="difference")


def test_leaving_one_out_never_holds_the_image_whose_copy_is_asked():
    draw = np.random.default_rng(0)
    clean, copies, labels = draw.normal(size=(12, 5)), draw.normal(size=(12, 5)), np.arange(12) % 3
    units = clean / np.linalg.norm(clean, axis=1, keepdims=True)
    expected = []
    for i, copy in enumerate(copies):
        kept = np.arange(12) != i
        sums = np.array([units[kept & (labels == c)].sum(0) for c in range(3)])
        scores = (sums / np.linalg.norm(sums, axis=1, keepdims=True)) @ copy
        expected.append((scores > scores[labels[i]]).sum())
    assert ranks_leaving_one_out(clean, labels, copies).tolist() == expected


def test_without_classes_it_measures_how_far_features_move_and_says_so():
    plan = Plan(("gaussian_noise", "defocus_blur"), (1, 5))
    result = robustness(plan).run(inputs(plan, {"coarse": coarse, "fine": fine}, classes=None, support=False))
    assert "no classes" in result.warnings[0]
    assert not [row for row in result.rows if row.measure.startswith(("error", "kept", "top1"))]
    steady = one(result, checkpoint="coarse", measure="steady_consumed/gaussian_noise", role="value")
    assert steady.value > 0.99  # the mean of 784 pixels moves by 1/28 of the noise
    assert one(result, checkpoint="coarse", measure=f"steady_cka_consumed/{ALL}").value > 0.95
    assert one(result, checkpoint="fine", reference="coarse", measure=f"steady_consumed/{ALL}").high < 0


def test_a_plan_names_its_changes_and_refuses_what_there_is_not():
    images = Checks(0)
    assert [*PLAN.variants(images, 0)] == [
        "gaussian_noise 1", "gaussian_noise 5", "defocus_blur 1", "defocus_blur 5", "resolution 8", "crop 0.5"
    ]  # fmt: skip
    assert len(ROBUSTNESS.variants(images, 0)) == len(FEW) * 3
    with pytest.raises(UsageError, match="'rain', 'hail'"):
        Plan(("rain", "fog", "hail"))
    with pytest.raises(UsageError, match="severity 0, 6"):
        Plan(severities=(0, 1, 6))
    with pytest.raises(UsageError, match="no change"):
        Plan(())


def test_images_that_cannot_be_paired_are_refused(measured):
    given = measured[0]
    name, sets = next(iter(given.variants.items()))
    other = replace(sets[1], item_ids=("x", *sets[1].item_ids[1:]))
    with pytest.raises(DataError, match="not given the same images"):
        ROBUSTNESS.run(replace(given, variants={**given.variants, name: (sets[0], other, *sets[2:])}))
