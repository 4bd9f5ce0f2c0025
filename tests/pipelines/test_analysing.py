"""Several analyses in one run: one pass for all of them, and one that cannot answer does not take the others along."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visprobe.analyses.accuracy.imagenet import IMAGENET
from visprobe.analyses.accuracy.knn import KNN
from visprobe.analyses.probes.probe import PROBE
from visprobe.data.sources.folder import ImageFolder
from visprobe.errors import DataError, UsageError
from visprobe.pipelines.compare import compare
from visprobe.pipelines.measure import measure
from visprobe.pipelines.measurement import Options

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from tiny_checkpoints import llava, write_llava


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    return [write_llava(root / name, llava("siglip", seed=seed)) for seed, name in enumerate(("base", "sft"))]


@pytest.mark.thorough
def test_one_pass_serves_every_analysis(pair, tmp_path):
    asked = ("imagenet", "drift", "similarity", "heads", "sites", "images")
    measured = compare(pair, "digits", Options(limit=60, store=tmp_path, analyses=asked))
    assert [result.analysis for result in measured.results] == list(asked)
    # 60 query and 60 support images; base, sft, untrained and rounded see the first, all but rounded the second
    assert (measured.decoded, measured.forwarded) == (120, 60 * 4 + 60 * 3)


@pytest.mark.thorough
def test_accuracies_and_drift_share_one_pass_over_three_checkpoints(pair, tmp_path):
    third = write_llava(tmp_path / "dpo", llava("siglip", seed=3))
    asked = ("imagenet", "probe", "knn", "few_labels", "drift")
    measured = compare([*pair, third], "digits", Options(limit=60, store=tmp_path / "store", analyses=asked))
    assert [result.analysis for result in measured.results] == list(asked)
    # 60 query and 60 support images; three checkpoints, untrained and rounded see the first, all but rounded the second
    assert (measured.decoded, measured.forwarded) == (120, 60 * 5 + 60 * 4)


def test_an_analysis_that_cannot_answer_is_left_out_and_said(pair, tmp_path):
    options = Options(limit=10, store=tmp_path, analyses=("drift", "geometry"))
    measured = compare(pair, "digits", options)
    assert [result.analysis for result in measured.results] == ["drift"]
    assert any("geometry was left out" in warning for warning in measured.warnings)
    with pytest.raises(DataError):
        compare(pair, "digits", Options(limit=10, store=tmp_path, analyses=("geometry",)))


def test_unknown_analyses_are_refused_before_any_work(pair):
    with pytest.raises(UsageError, match="there is no analysis"):
        compare(pair, "digits", Options(analyses=("drift", "drfit")))


def test_another_seed_of_a_recipe_is_a_baseline_and_is_said(pair, tmp_path):
    other = write_llava(tmp_path / "sft-2", llava("siglip", seed=5))
    measured = compare(pair, "digits", Options(limit=60, store=tmp_path / "store", same_recipe=(other,)))
    [drift] = [result for result in measured.results if result.analysis == "drift"]
    name = "sft-2 (same recipe)"
    [row] = drift.select(checkpoint=name, site="block_03", measure="cka")
    assert row.role == "baseline"
    alone = compare([pair[0], other], "digits", Options(limit=60, store=tmp_path / "store"))
    [same] = [r for result in alone.results for r in result.select(checkpoint="sft-2", site="block_03", measure="cka")]
    assert row.estimate == same.estimate
    assert [s.text for s in measured.verdict if s.text.startswith(f"{name}: CKA")]
    assert not [s.text for s in measured.verdict if s.text.startswith(f"{name}: the tower")]
    assert [checkpoint["name"] for checkpoint in measured.checkpoints] == ["base", "sft"]


def test_no_image_is_read_when_no_analysis_can_answer(pair, tmp_path, monkeypatch):
    for place in ("a", "b"):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{place}.png")
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(DataError, match=r"^[^:]* has no classes$"):  # said once
        measure(pair, str(tmp_path), [IMAGENET, KNN], Options(store=tmp_path / "store"))


@pytest.mark.parametrize(
    ("learned", "words"),
    [(("a", "b"), r"train has no image of c, .*val asks for"), (("c",), "a single class, c")],
)
def test_classes_that_cannot_be_learned_are_refused_before_any_image_is_read(
    pair, tmp_path, monkeypatch, learned, words
):
    for folder in (*(f"train/{name}" for name in learned), "val/a", "val/b", "val/c"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40)).save(tmp_path / folder / f"{number}.png")
    monkeypatch.setattr(ImageFolder, "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(DataError, match=words):
        measure(pair, str(tmp_path), [IMAGENET, KNN, PROBE], Options(store=tmp_path / "store"))


IMAGES = 24


def copied(folder, times):
    """IMAGES different images of three classes, each `times` times."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        picture = Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        for copy in range(times):
            path = folder / f"class_{number % 3}" / f"{number:02d}_{copy}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    return str(folder)


@pytest.mark.thorough
def test_copies_of_images_are_no_more_images(pair, tmp_path):
    asked = ("imagenet", "drift", "similarity", "robustness", "geometry")
    once, often = (
        compare(pair, copied(tmp_path / str(times), times), Options(store=tmp_path / "store", analyses=asked))
        for times in (1, 4)
    )
    for one, other in zip(once.results, often.results, strict=True):
        assert one.rows == other.rows  # every number, interval and n
        assert other.settings.get("n", IMAGES) == IMAGES
    assert [s.text for s in once.verdict] == [s.text for s in often.verdict]
    said = f"{3 * IMAGES} of {4 * IMAGES} images of 4 are copies of others, byte for byte: each is counted once"
    assert said in often.warnings and not any("copies" in text for text in once.warnings)


@pytest.mark.thorough
def test_copies_under_two_classes_are_kept_apart(pair, tmp_path):
    folder = Path(copied(tmp_path / "images", 1))
    shutil.copy(folder / "class_0" / "00_0.png", folder / "class_1" / "same.png")
    measured = compare(pair, str(folder), Options(store=tmp_path / "store", analyses=("imagenet",)))
    assert {row.estimate.n for row in measured.results[0].select(measure="top1")} == {IMAGES + 1}
