"""`visprobe gradcam` as users run it: what is explained, what is written, what is refused."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from visprobe.attribution.storage import load
from visprobe.demo.base import BASE
from visprobe.demo.scenes import DigitScenes
from visprobe.mllm.answers import OwnAnswer
from visprobe.pipelines.attribution import run as report
from visprobe.pipelines.attribution import target as explained
from visprobe.pipelines.session import Session

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from tiny_two_tower import two_tower


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Scenes as image files: train/ and val/ with a folder per class."""
    folder = tmp_path_factory.mktemp("photos")
    for split, size in (("train", 20), ("val", 6)):
        scenes = DigitScenes(split, size)
        for number, item in enumerate(scenes.items):
            place = folder / split / scenes.classes[item.label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scenes.scene(number).image).save(place / f"{number}.png")
    return folder


def val(photos):
    return sorted((photos / "val").rglob("*.png"))


def written(folder):
    return json.loads((folder / "report.json").read_text())


def result(folder, name):
    return next(one for one in written(folder)["results"] if one["analysis"] == name)


@pytest.mark.thorough
def test_scenes_ask_about_one_digit_and_a_copy_differs_in_nothing(run, tmp_path, monkeypatch):
    shutil.copytree(BASE, tmp_path / "copy")
    flags = ["gradcam", "digits", "--ckpt", BASE, "--ckpt", tmp_path / "copy", "--limit", 4, "-o", tmp_path / "out",
             "-q", "--faithfulness", 2]  # fmt: skip
    ran = run(*flags)
    assert ran.code == 0, ran.err
    assert "copy: maps equal those of" in ran.err
    found = load(tmp_path / "out" / "maps.npz")
    assert found.controls == ("centre", "randomised") and len(set(found.images)) == 4 < len(found.images)
    assert {method for method, _ in found.maps["randomised"]} == {"gradient-norm", "gradcam"}
    assert all(region is not None and region.shape == (8, 8) for region in found.regions)
    base, copy = found.names
    for key, maps in found.maps[base].items():
        for one, other, random in zip(maps, found.maps[copy][key], found.maps["randomised"][key], strict=True):
            assert torch.equal(one.values, other.values) and not torch.equal(one.values, random.values)
            assert one.score > 0  # the model that ships knows these answers: the contrast favours the right one
    every = f"{len(found.images)} of {len(found.images)} questions for"
    likely = f"The chosen answer is more likely than the rejected one in {every} {base} and {every} {copy}."
    assert written(tmp_path / "out")["verdict"][0]["text"] == likely
    scores = result(tmp_path / "out", "attribution")
    assert scores["settings"]["target"] == "contrast" and scores["settings"]["with_region"] == len(found.images)
    apart = [row["estimate"]["value"] for row in scores["rows"] if row["role"] == "difference" and
             {row["checkpoint"], row["reference"]} == {base, copy}]  # fmt: skip
    assert apart and not any(apart)
    gains = [row for row in result(tmp_path / "out", "faithfulness")["rows"] if row["measure"] == "gain"]
    assert gains[0]["estimate"]["value"] > 0 and [row["estimate"]["value"] for row in gains if row["reference"]] == [0]
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"maps.svg", "map_differences.png", "map_contrast.csv"} <= figures
    # What is finished is not made again, and gives the same bytes.
    before = (tmp_path / "out" / "maps.npz").read_bytes()
    monkeypatch.setattr(report, "maps", None)
    assert run(*flags).code == 0 and (tmp_path / "out" / "maps.npz").read_bytes() == before


def test_without_a_question_the_models_own_answer_is_explained(run, photos, tmp_path):
    ran = run("gradcam", *val(photos)[:2], "--ckpt", BASE, "-o", tmp_path, "--prompt", "How many digits are there?",
              "--json", "-q")  # fmt: skip
    assert ran.code == 0, ran.err
    scores = next(one for one in json.loads(ran.out)["results"] if one["analysis"] == "attribution")
    assert scores["settings"]["own_answers"] == 2 and scores["settings"]["target"] == "answer"
    # It is the most likely answer, so its probability is large.
    maps = load(tmp_path / "maps.npz").maps["base_checkpoint"]["gradient-norm", "block_04"]
    assert all(one.score > np.log(0.3) for one in maps)


def test_lines_of_a_file_give_questions_and_boxes(run, photos, tmp_path):
    pictures = val(photos)[:3]
    asked = [{"image": path.name, "prompt": "How many digits are there?", "answer": "2", "rejected": "3",
              "box": [0, 0, 32, 64 if number else 65]} for number, path in enumerate(pictures)]  # fmt: skip
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    ran = run("gradcam", *pictures, tmp_path / "asked.jsonl", "--ckpt", BASE, "--target", "answer",
              "-o", tmp_path / "out", "-q")  # fmt: skip
    assert ran.code == 3  # the first box does not lie in its image
    assert "box [0, 0, 32, 65] does not lie in the image of 64x64" in ran.err
    found = load(tmp_path / "out" / "maps.npz")
    assert len(found.images) == 2 and all(region[:, :4].all() and not region[:, 4:].any() for region in found.regions)
    assert "map_contrast" not in [one["analysis"] for one in written(tmp_path / "out")["results"]]


def test_a_file_of_questions_says_which_images_of_a_folder_and_asks_several_of_one(run, photos, tmp_path):
    """So that the control by other questions about the same image is there for users' own pictures too."""
    last = val(photos)[-1].relative_to(photos)
    asked = [{"image": str(last), "prompt": "How many digits are there?", "answer": one} for one in ("2", "3")]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    options = ("--ckpt", BASE, "--target", "answer", "--method", "gradient-norm", "-q", "--limit", 1)
    assert run("gradcam", photos, tmp_path / "asked.jsonl", *options, "-o", tmp_path / "out").code == 0
    found = load(tmp_path / "out" / "maps.npz")
    assert len(found.images) == 2 and len(set(found.images)) == 1
    (photos / "alone.jsonl").write_text(json.dumps({"image": str(last), "prompt": "How many?", "answer": "2"}))
    assert run("gradcam", photos / "alone.jsonl", *options, "-o", tmp_path / "alone").code == 0
    assert len(load(tmp_path / "alone" / "maps.npz").images) == 1


@pytest.mark.thorough
def test_classes_by_prototypes_of_the_training_images(run, photos, tmp_path):
    ran = run("gradcam", photos, "--ckpt", BASE, "-o", tmp_path, "-q")
    assert ran.code == 0, ran.err
    scores = result(tmp_path, "attribution")
    assert scores["settings"]["target"] == "class" and scores["settings"]["with_region"] == 0
    assert "Gini" in ran.out and "mass_inside" not in ran.out
    named = run("gradcam", photos, "--ckpt", BASE, "--target", "class:3", "-o", tmp_path / "three", "-q")
    assert named.code == 0, named.err
    own, three = (load(folder / "maps.npz") for folder in (tmp_path, tmp_path / "three"))
    pairs = zip(own.images, *(one.maps["base_checkpoint"]["gradcam", "block_04"] for one in (own, three)), strict=True)
    assert all(torch.equal(a.values, b.values) == name.startswith("3/") for name, a, b in pairs)


def test_texts_by_a_two_tower_model(run, photos, tmp_path):
    two_tower(tmp_path / "clip")
    ran = run("gradcam", *val(photos)[:2], "--ckpt", tmp_path / "clip", "--text", "a one", "--text", "a two",
              "-o", tmp_path / "out", "-q")  # fmt: skip
    assert ran.code == 0, ran.err
    assert result(tmp_path / "out", "attribution")["settings"]["texts"] == ["a one", "a two"]


@pytest.mark.thorough
def test_one_image_is_drawn_and_not_scored(run, photos, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.png")  # a file name need not be UTF-8
    shutil.copy(val(photos)[0], odd)
    ran = run("gradcam", odd, "--ckpt", BASE, "--prompt", "How many digits are there?", "--chosen", "1",
              "-o", tmp_path, "-q")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "one image has no interval" in ran.err
    assert [one["analysis"] for one in written(tmp_path)["results"]] == ["maps"]


def test_masks_in_a_folder(run, photos, tmp_path):
    pictures, masks = val(photos)[:3], tmp_path / "masks"
    masks.mkdir()
    half = np.zeros((64, 64), np.uint8)
    half[:32] = 1
    for path, mask in zip(pictures, (half, half * 0, half[:, :9]), strict=True):
        Image.fromarray(mask).save(masks / path.name)
    ran = run("gradcam", *pictures, "--ckpt", BASE, "--prompt", "How many digits are there?", "--answer", "1",
              "--region", masks, "-o", tmp_path / "out", "--max-bad", "1", "-q")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "the mask is 9x64, its image 64x64" in ran.err
    regions = load(tmp_path / "out" / "maps.npz").regions
    assert regions[0][:4].all() and not regions[0][4:].any() and regions[1] is None


@pytest.mark.sample(8)
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "fame"], "--target fame is unknown"),
        (["--text", "a cat"], "needs a text and others"),
        (["--text", "a", "--text", "b", "--target", "class:3"], "--text and --target class explain different things"),
        (["--text", "a", "--text", "b", "--target", "answer"], "--text does not go with --target answer"),
        (["--target", "class:cat"], "--target class:cat is no class"),
        (["--region", "sky"], "--region sky is no folder of masks"),
        (["--method", "lime"], "no attribution method 'lime'"),
        (["--site", "block_99"], "no site 'block_99'"),
        (["--target", "contrast", "--prompt", "What?", "--answer", "1"], "rejected"),
        (["--target", "token:7", "--prompt", "What?", "--answer", "1"], "token"),
        (["none.jsonl"], "the file of questions none.jsonl does not exist"),
    ],
)
def test_what_is_refused(run, photos, tmp_path, flags, message):
    ran = run("gradcam", photos, "--ckpt", BASE, "-o", tmp_path, "-q", *flags)
    assert ran.code in (1, 2) and message in ran.err.replace("\n", " ")
    assert "Traceback" not in ran.err and not (tmp_path / "report.html").exists()


@pytest.mark.thorough
def test_kept_maps_belong_to_the_text_tower_and_the_prototypes_that_they_were_made_with(run, photos, tmp_path):
    for seed in (0, 1):
        two_tower(tmp_path / f"clip{seed}", seed=seed)
    asked = ["gradcam", *val(photos)[:2], "--ckpt", tmp_path / "clip0", "--text", "a one", "--text", "a two", "-q"]
    by_place = {}
    for place, seed in (("both", 0), ("both", 1), ("alone", 1)):
        assert run(*asked, "--target", f"text:{tmp_path}/clip{seed}", "-o", tmp_path / place).code == 0
        by_place[place] = (tmp_path / place / "maps.npz").read_bytes()
    assert by_place["both"] == by_place["alone"]
    for kept in (tmp_path / "alone" / "kept").iterdir():
        kept.write_bytes(kept.read_bytes()[:-9])
    assert run(*asked, "--target", f"text:{tmp_path}/clip1", "-o", tmp_path / "alone").code == 0  # made again
    assert (tmp_path / "alone" / "maps.npz").read_bytes() == by_place["alone"]
    images = tmp_path / "images"
    shutil.copytree(photos, images)
    assert run("gradcam", images, "--ckpt", BASE, "-o", tmp_path / "classes", "-q").code == 0
    before = (tmp_path / "classes" / "maps.npz").read_bytes()
    one, *_ = sorted((images / "train" / "3").iterdir())
    Image.new("RGB", (64, 64), (200, 10, 10)).save(one)
    assert run("gradcam", images, "--ckpt", BASE, "-o", tmp_path / "classes", "-q").code == 0
    assert (tmp_path / "classes" / "maps.npz").read_bytes() != before


def test_the_users_own_words_give_maps_of_a_model_that_says_nothing(run, photos, tmp_path, monkeypatch):
    """`visprobe gradcam images/ --ckpt A --ckpt B`, with nothing else."""
    said = iter([OwnAnswer("2", forced=True), OwnAnswer("red", forced=True), OwnAnswer("3")])
    monkeypatch.setattr(explained, "own_answer", lambda *_: next(said))
    shutil.copytree(BASE, tmp_path / "copy")
    images = tmp_path / "images"
    images.mkdir()
    for path in val(photos)[:3]:
        shutil.copy(path, images / path.name)
    ran = run("gradcam", images, "--ckpt", BASE, "--ckpt", tmp_path / "copy", "-o", tmp_path / "out", "-q",
              "--method", "gradient-norm")  # fmt: skip
    assert ran.code == 0, ran.err
    note = next(text for text in written(tmp_path / "out")["warnings"] if "answers" in text)
    assert note == (
        "base_checkpoint answers 2 of 3 questions with nothing: explained there is the likeliest token other than the "
        "end of the turn, most often '2', 'red'; --chosen TEXT explains an answer"
    )


@pytest.mark.thorough
def test_a_prompt_is_asked_also_where_images_have_classes(run, photos, tmp_path):
    ran = run("gradcam", photos, "--ckpt", BASE, "--prompt", "How many digits are there?", "-o", tmp_path, "-q",
              "--method", "gradient-norm")  # fmt: skip
    assert ran.code == 0, ran.err
    assert result(tmp_path, "attribution")["settings"]["target"] == "answer"


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--target", "class", "--prompt", "What?"], "--prompt: not used, explained is the class"),
        (["--target", "class", "--chosen", "1", "--rejected", "2"], "--chosen, --rejected: not used"),
        (["--target", "answer", "--chosen", "1", "--rejected", "2"], "--rejected: not used, --target answer"),
        (["--prompt", "What colour is the 3?", "--subset-per-class", "2"], "--subset-per-class: not used"),
        (["--target", "class", "--baseline", "black"], "--baseline black: not used, gradcam need"),
        (["--target", "class", "--method", "occlusion", "--site", "block_02"], "--site block_02: not used"),
    ],
)
def test_what_was_asked_for_and_is_not_used_is_said(run, photos, tmp_path, flags, said):
    ran = run("gradcam", photos, "--ckpt", BASE, "--limit", 2, "-o", tmp_path, "-q", *flags)
    assert ran.code == 0, ran.err
    assert any(said in text for text in written(tmp_path)["warnings"])


def test_questions_of_a_file_that_are_not_used_are_said(run, photos, tmp_path):
    one, other = (str(path.relative_to(photos)) for path in val(photos)[:2])
    asked = [{"image": one, "answer": "1", "rejected": "2"}, {"image": other, "answer": "3"}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    for target, said in ((None, "1 of 2 questions have a rejected answer"), ("class", "but for their boxes")):
        flags = ["--target", target] if target else ["--method", "gradient-norm"]
        ran = run("gradcam", photos, tmp_path / "asked.jsonl", "--ckpt", BASE, "-o", tmp_path, "-q", *flags)
        assert ran.code == 0, ran.err
        assert any(said in text for text in written(tmp_path)["warnings"])


@pytest.mark.thorough
def test_what_is_used_is_not_said_to_be_unused(run, photos, tmp_path):
    flags = ["--prompt", "How many digits are there?", "--chosen", "1", "--rejected", "2", "--baseline", "black",
             "--method", "occlusion", "--limit", 2]  # fmt: skip
    assert run("gradcam", photos, "--ckpt", BASE, "-o", tmp_path, "-q", *flags).code == 0
    assert not [text for text in written(tmp_path)["warnings"] if "not used" in text]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chosen", "yes", "--rejected", "yes"], "--chosen and --rejected are both 'yes'"),
        (["--chosen", "Yes", "--rejected", "yes", "--prompt", "What?"], "are the same tokens"),
        (["--chosen", " "], "--chosen is empty"),
        (["--prompt", ""], "--prompt is empty"),
    ],
)
def test_answers_that_are_one_are_refused(run, photos, tmp_path, flags, message):
    ran = run("gradcam", *val(photos)[:2], "--ckpt", BASE, "-o", tmp_path, "-q", *flags)
    assert ran.code == 2 and message in " ".join(ran.err.split())
    assert not (tmp_path / "report.html").exists()


def test_a_tower_alone_is_not_asked(run, photos, tmp_path):
    two_tower(tmp_path / "clip")
    ran = run("gradcam", photos, "--ckpt", tmp_path / "clip", "--prompt", "What?", "-o", tmp_path / "out", "-q")
    assert ran.code == 2 and "nobody answers --prompt" in " ".join(ran.err.split())
    hint = run("gradcam", photos, "--ckpt", tmp_path / "clip", "-o", tmp_path / "out", "-q", "--limit", 2)
    assert hint.code == 0, hint.err  # what the refusal says helps


@pytest.mark.thorough
def test_the_limit_is_of_pictures_and_prototypes_have_all_training_images(run, photos, tmp_path):
    """2 pictures and 10 classes: prototypes of the 2 training images that a limit of both would leave are none."""
    counts = {path.name: len(list(path.iterdir())) for path in (photos / "train").iterdir()}
    ran = run("gradcam", photos, "--ckpt", BASE, "--target", "class", "--limit", 2, "-o", tmp_path / "all", "-q")
    assert ran.code == 0, ran.err
    settings = result(tmp_path / "all", "attribution")["settings"]
    assert settings["prototype_images"] == counts and sum(counts.values()) == 20
    assert len(load(tmp_path / "all" / "maps.npz").images) == 2
    fewest = min(counts, key=lambda name: (counts[name], name))
    warned = next(text for text in written(tmp_path / "all")["warnings"] if "prototypes" in text)
    assert f"{len(counts)} of {len(counts)} prototypes are means of fewer than 10 training images" in warned
    assert f": {counts[fewest]}):" in warned
    few = run("gradcam", photos, "--ckpt", BASE, "--target", "class", "--limit", 2, "--subset-per-class", 1,
              "-o", tmp_path / "few", "-q")  # fmt: skip
    assert few.code == 0, few.err
    assert set(result(tmp_path / "few", "attribution")["settings"]["prototype_images"].values()) == {1}


def test_a_class_without_training_images_is_found_before_any_feature(run, photos, tmp_path, monkeypatch):
    images = tmp_path / "images"
    shutil.copytree(photos, images)
    lonely = images / "val" / "zebra"
    lonely.mkdir()
    shutil.copy(val(photos)[0], lonely / "z.png")
    monkeypatch.setattr(Session, "extract", None)
    ran = run("gradcam", images, "--ckpt", BASE, "--target", "class", "-o", tmp_path / "out", "-q")
    assert ran.code == 1 and "have no image in" in ran.err and "zebra" in ran.err


@pytest.mark.thorough
def test_files_with_equal_pixels_keep_their_names(run, photos, tmp_path):
    first = val(photos)[0]
    shutil.copy(first, tmp_path / "again.png")
    Image.open(first).save(tmp_path / "other.bmp")
    named = [first, tmp_path / "again.png", tmp_path / "other.bmp", val(photos)[1]]
    ran = run("gradcam", *named, "--ckpt", BASE, "--prompt", "How many?", "--chosen", "1", "-o", tmp_path, "-q",
              "--method", "gradient-norm")  # fmt: skip
    assert ran.code == 0, ran.err
    found = load(tmp_path / "maps.npz")
    assert list(found.ids) == [path.as_posix() for path in named]
    assert len(set(found.images)) == 2  # and count as one picture where intervals are made


@pytest.mark.thorough
def test_a_question_that_is_not_asked_stands_above_no_picture(run, photos, tmp_path):
    flags = ["--target", "class", "--prompt", "What?", "--limit", 2]
    assert run("gradcam", photos, "--ckpt", BASE, "-o", tmp_path, "-q", *flags).code == 0
    titles = result(tmp_path, "maps")["settings"]["sheet"]["titles"]
    assert len(titles) == 2 and all(title.endswith(".png") for title in titles)
