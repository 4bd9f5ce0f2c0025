"""Questions of single images, and where their answers lie."""

import json

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import BadImage
from visprobe.data.prompts import Prompt, read_prompts, read_region
from visprobe.data.sources.files import open_named
from visprobe.errors import DataError, UsageError


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    for name in ("b.png", "x/a.png", "y/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(folder / name)
    return folder


def written(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_files_and_folders_are_one_set_in_the_order_named(pictures):
    named = [str(pictures / "y" / "a.png"), str(pictures / "x"), str(pictures / "b.png"), str(pictures / "x")]
    images = open_named(named).query
    assert [item.id.removeprefix(f"{pictures}/") for item in images.items] == ["y/a.png", "x/a.png", "b.png"]
    assert images.read(2) == (pictures / "b.png").read_bytes() and images.classes is None
    assert len(open_named(named, limit=2).query.items) == 2
    assert [item.id for item in open_named([str(pictures)]).query.items] == ["b.png", "x/a.png", "y/a.png"]
    for wrong, message in ((pictures / "z.png", "there is no"), (pictures.parent, "holds no image")):
        with pytest.raises(DataError, match=message):
            empty = pictures.parent / "empty"
            empty.mkdir(exist_ok=True)
            open_named([str(pictures / "b.png"), str(wrong if wrong.suffix else empty)])
    (pictures / "notes.txt").touch()
    with pytest.raises(DataError, match="is not an image"):
        open_named([str(pictures / "b.png"), str(pictures / "notes.txt")])


def test_lines_are_found_by_the_row_of_their_image(pictures, tmp_path):
    lines = [
        {"image": "y/a.png", "prompt": "q1", "answer": "1", "rejected": "2"},
        {"image": "b.png", "box": [1, 0, 3, 4]},
        {"image": "x/a.png"},
    ]
    asked = read_prompts(written(tmp_path / "q", *lines[:2], "", lines[2]), open_named([str(pictures)]).query)
    assert asked == {0: [Prompt(box=(1, 0, 3, 4))], 1: [Prompt()], 2: [Prompt("q1", "1", "2")]}
    region = asked[0][0].region(6, 4)
    assert region.shape == (4, 6) and region.sum() == 8 and region[:, 1:3].all() and asked[1][0].region(6, 4) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is no JSON"),
        ("[]", "line 1 names no image"),
        ({"image": "a.png"}, "no one image 'a.png'"),  # there are two of this name
        ({"image": "b.png", "prompt": 3}, "'prompt' is no text"),
        ({"image": "b.png", "question": ""}, "unknown field 'question'"),
        ({"image": "b.png", "box": [0, 1, 2]}, "not four whole numbers"),
        ("\n", "asks nothing"),
    ],
)
def test_lines_that_cannot_be(pictures, tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read_prompts(written(tmp_path / "q", line), open_named([str(pictures)]).query)


def test_several_questions_of_one_image_and_none_of_another(pictures, tmp_path):
    named = [str(pictures / name) for name in ("b.png", "x/a.png", "y/a.png")]  # ids are whole paths
    lines = [{"image": "x/a.png", "prompt": one} for one in ("q1", "q2")]
    file = written(tmp_path / "q", *lines, {"image": "b.png"})
    assert read_prompts(file, open_named(named).query) == {0: [Prompt()], 1: [Prompt("q1"), Prompt("q2")]}


def test_no_file(pictures, tmp_path):
    images = open_named([str(pictures)]).query
    with pytest.raises(UsageError, match="does not exist"):
        read_prompts(tmp_path / "none", images)


@pytest.mark.parametrize("box", [(0, 0, 0, 4), (0, 0, 7, 4), (-1, 0, 2, 4), (0, 3, 2, 3)])
def test_boxes_outside_of_the_image(box):
    with pytest.raises(BadImage, match="does not lie in the image of 6x4"):
        Prompt(box=box).region(6, 4)


def test_masks_are_found_by_path_or_by_name(tmp_path):
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 7
    (tmp_path / "x").mkdir()
    Image.fromarray(mask).save(tmp_path / "x" / "a.png")
    Image.fromarray(mask * 0 + 1).save(tmp_path / "a.png")
    assert read_region(tmp_path, "x/a.jpg", (6, 4)).sum() == 1
    assert read_region(tmp_path, "/far/away/a.jpg", (6, 4)).all()
    assert read_region(tmp_path, "b.jpg", (6, 4)) is None
    with pytest.raises(BadImage, match="the mask is 6x4, its image 4x6"):
        read_region(tmp_path, "x/a.jpg", (4, 6))
