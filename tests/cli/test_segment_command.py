"""`visprobe segment`: one report with figure on built-in scenes and on folders of masks, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("sky", "road", "car")


def street(
    root: Path, split: str, index: int, mask: np.ndarray | None = None, size: tuple[int, int] = (20, 16)
) -> None:
    """An image whose colours are its mask: a class per quarter, the one of the last drawn at random."""
    rng = np.random.default_rng((split == "val", index))
    own = np.kron(np.array([[0, 1], [1, rng.integers(3)]]), np.ones((8, 10), np.int64)) if mask is None else mask
    colours = np.array([[90, 160, 250], [90, 90, 90], [220, 30, 30], *[[0, 0, 0]] * 253], np.uint8)
    for folder in ("images", "masks"):
        (root / folder / split).mkdir(parents=True, exist_ok=True)
    colours[255] = index, len(split), 0  # no two files are equal
    shown = own.copy()
    shown[0, 0] = 255
    Image.fromarray(colours[shown]).resize(size).save(root / "images" / split / f"{index:02d}.png")
    Image.fromarray(own.astype(np.uint8)).save(root / "masks" / split / f"{index:02d}.png")


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    root = tmp_path / "streets"
    for split, count in (("train", 10), ("val", 5)):
        for index in range(count):
            street(root, split, index)
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


SHORT = ("--seeds", 1, "--steps", 20, "--quiet")


@pytest.mark.thorough
def test_two_checkpoints_on_built_in_scenes_in_one_report(run, checkpoints, tmp_path):
    out = tmp_path / "report"
    done = run("segment", "--ckpt", checkpoints / "base", "--ckpt", checkpoints / "moved", "--data", "digits",
               "--limit", 20, "-o", out, *SHORT, "--json")  # fmt: skip
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["results"]
    rows = {(row["checkpoint"], row["measure"], row["role"]) for row in result["rows"]}
    assert {
        ("moved", "miou", "difference"),
        ("untrained", "patch_f1", "baseline"),
        ("base", "patch_recall", "value"),
    } <= rows
    assert result["settings"]["overlap"] == {"images": 0, "examples": []}
    assert result["settings"]["chosen"][0]["rate"] in result["settings"]["rates"]["linear"]
    assert (out / "figures" / "segmentation.png").stat().st_size > 5000
    assert "IoU of each class" in (out / "report.html").read_text()


@pytest.mark.thorough
def test_the_published_protocol_beside_two_layer_heads(run, checkpoints, streets, tmp_path):
    done = run("segment", "--ckpt", checkpoints / "base", "--data", streets, "--head", "mlp", "--protocol", "paper",
               "-o", tmp_path / "report", *SHORT, "--json")  # fmt: skip
    assert done.code == 0, done.err
    [result] = json.loads(done.out)["results"]
    at = {row["measure"]: row["estimate"]["value"] for row in result["rows"]
          if row["checkpoint"] == "base" and row["site"] == result["settings"]["consumed"]}  # fmt: skip
    assert at["leak_patch_recall"] == pytest.approx(at["paper_patch_recall"] - at["honest_patch_recall"])
    assert {"miou_mlp", "patch_f1_mlp"} <= at.keys() and "miou" not in at
    assert result["settings"]["class_names"] == list(NAMES)


@pytest.mark.thorough
def test_masks_that_do_not_fit_are_said_and_the_rest_is_measured(run, checkpoints, streets, tmp_path):
    street(streets, "val", 1, np.ones((4, 4), np.int64))  # smaller than its image
    for index in range(10):  # no car to learn from; some in val
        street(streets, "train", index, np.kron(np.array([[0, 1], [1, 0]]), np.ones((8, 10), np.int64)))
    street(streets, "val", 0, np.full((16, 20), 2))
    (streets / "masks" / "train" / "03.png").unlink()
    (streets / "images" / "train" / "09.png").write_bytes((streets / "images" / "val" / "02.png").read_bytes())
    done = run(
        "segment", "--ckpt", checkpoints / "base", "--data", streets, "-o", tmp_path / "report", *SHORT, "--json"
    )
    assert done.code == 3, done.err  # two images of fifteen are more than 1 %
    assert "01.png: the mask is 4x4, its image 20x16" in done.err and "03.png: there is no mask" in done.err
    [result] = json.loads(done.out)["results"]
    said = " | ".join(result["warnings"])
    assert "1 images of" in said and "01.png" in said
    assert "car: in the masks of" in said and "never in training" in said
    assert "1 of 5 images of" in said and "byte for byte" in said


@pytest.mark.parametrize(
    ("change", "options", "code", "words"),
    [
        (lambda root: street(root, "train", 2, np.full((16, 20), 7)), (), 1, "02.png holds the numbers 7 to 7"),
        (lambda root: None, ("--background", 5), 1, "no class 5"),
        (lambda root: None, ("--ignored", 0, "--ignored", 1), 1, "fewer than two classes"),
        (lambda root: None, ("--protocol", "paper"), 2, "two-layer heads"),
        (lambda root: None, ("--steps", 1), 2, "--steps"),
        (lambda root: [p.unlink() for p in (root / "masks" / "train").iterdir()], (), 1, "0 images with a usable mask"),
    ],
)
def test_what_cannot_be_measured_is_one_message(run, checkpoints, streets, tmp_path, change, options, code, words):
    change(streets)
    failed = run(
        "segment", "--ckpt", checkpoints / "base", "--data", streets, "-o", tmp_path / "report", *SHORT, *options
    )
    assert failed.code == code, failed.err
    assert words in " ".join(failed.err.replace("│", " ").split()) and "Traceback" not in failed.err


def test_images_without_masks_are_refused(run, checkpoints, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    failed = run("segment", "--ckpt", checkpoints / "base", "--data", tmp_path, "-o", tmp_path / "report", *SHORT)
    assert failed.code == 1 and "Traceback" not in failed.err and "masks" in failed.err
