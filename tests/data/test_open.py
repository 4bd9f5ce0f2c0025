"""From what a user writes after --data to image sets."""

import io
from collections import Counter

import datasets
import pytest
from PIL import Image

from visprobe.data.open import open_images
from visprobe.errors import DataError, UsageError


def png(colour=(10, 20, 30)):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, "PNG")
    return file.getvalue()


def plant(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((number, 0, 0)))
    return str(folder)


def test_train_and_val_folders_share_one_numbering(tmp_path):
    data = open_images(
        plant(tmp_path / "photos", ["train/cat/1.png", "train/dog/1.png", "val/dog/2.png", "val/emu/3.png"])
    )
    assert data.query.classes == data.support.classes == ("cat", "dog", "emu")
    assert [(item.id, item.label) for item in data.query.items] == [("dog/2.png", 1), ("emu/3.png", 2)]
    assert (data.name, data.query.name, data.support.name) == ("photos", "photos/val", "photos/train")
    assert data.query.read(0) == png((2, 0, 0))


def test_class_folders_without_splits_have_no_support(tmp_path):
    data = open_images(plant(tmp_path, ["b/1.jpg", "a/x/2.JPEG", "a/1.webp"]))
    assert data.support is None
    assert [(item.id, item.label) for item in data.query.items] == [("a/1.webp", 0), ("a/x/2.JPEG", 0), ("b/1.jpg", 1)]


def test_a_plain_folder_is_unlabelled_and_skips_what_is_no_image(tmp_path):
    data = open_images(plant(tmp_path, ["2.png", "1.png", ".hidden.png", "notes.txt", "deep/3.png"]))
    assert data.query.classes is None
    assert [item.id for item in data.query.items] == ["1.png", "2.png", "deep/3.png"]


def test_split_can_be_chosen(tmp_path):
    folder = plant(tmp_path, ["train/a/1.png", "val/a/2.png", "test/a/3.png"])
    assert open_images(folder).query.items[0].id == "a/2.png"
    assert open_images(folder, split="test").query.items[0].id == "a/3.png"
    assert open_images(folder, split="train").support is None  # prototypes of the images measured would be a leak
    with pytest.raises(UsageError, match="no split 'extra'") as error:
        open_images(folder, split="extra")
    assert "train, val, test" in error.value.hint


def test_limit_takes_evenly_over_the_classes_and_the_same_images_each_time(tmp_path):
    folder = plant(tmp_path, [f"{kind}/{i:02d}.png" for kind in "abc" for i in range(20)] + ["d/00.png"])
    data = open_images(folder, limit=10)
    assert Counter(item.label for item in data.query.items) == {0: 3, 1: 3, 2: 3, 3: 1}
    assert data.query.items == open_images(folder, limit=10).query.items
    assert data.query.items != open_images(folder, limit=10, seed=1).query.items
    assert data.query.read(3) == (tmp_path / data.query.items[3].id).read_bytes()
    with pytest.raises(UsageError, match="--limit 0"):
        open_images(folder, limit=0)


def test_digits_are_built_in():
    data = open_images("digits", limit=20)
    assert (len(data.query.items), len(data.support.items), len(data.query.classes)) == (20, 20, 10)
    assert data.query.read(0) != data.support.read(0)


@pytest.mark.parametrize("as_dict", [True, False])
def test_saved_datasets(tmp_path, as_dict):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": png((i, 0, 0)), "path": None} for i in range(4)], "label": [1, 0, 1, 0]}
    split = datasets.Dataset.from_dict(rows, features=features)
    folder = str(tmp_path / "saved")
    (datasets.DatasetDict(train=split, validation=split.select([0, 2])) if as_dict else split).save_to_disk(folder)
    data = open_images(folder)
    assert data.query.classes == ("cat", "dog")
    assert [item.label for item in data.query.items] == ([1, 1] if as_dict else [1, 0, 1, 0])
    assert data.query.read(1) == png((2 if as_dict else 1, 0, 0))
    assert (data.support is not None) == as_dict


def test_labels_that_are_plain_values_become_classes(tmp_path):
    rows = {"picture": [{"bytes": png(), "path": None}] * 3, "label": ["pear", "apple", "pear"]}
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    data = open_images(str(tmp_path / "saved"))
    assert data.query.classes == ("apple", "pear")
    assert [item.label for item in data.query.items] == [1, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent", "does not exist"),
        (lambda folder: plant(folder, ["photos.zip"]) + "/photos.zip", "is a file, not a folder"),
        (lambda folder: folder, "holds no image"),
        (lambda folder: plant(folder, ["train/a/1.png", "val/notes.txt"]), "val holds no image"),
    ],
)
def test_nothing_to_read_is_one_clear_error(tmp_path, make, message):
    with pytest.raises(DataError, match=message) as error:
        open_images(str(make(tmp_path)))
    assert error.value.hint


def test_a_dataset_without_images_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="0 image columns"):
        open_images(str(tmp_path / "saved"))


def test_a_file_that_is_no_dataset_gives_the_librarys_reason(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot read the dataset"):
        open_images(str(tmp_path))


def test_a_link_back_up_is_not_walked_again(tmp_path):
    folder = plant(tmp_path / "photos", ["a/1.png", "b/2.png"])
    (tmp_path / "photos" / "a" / "up").symlink_to("..")
    (tmp_path / "photos" / "b" / "over").symlink_to("../a")  # no loop by itself, but its "up" is one
    (tmp_path / "elsewhere").symlink_to("photos")
    expected = ["a/1.png", "b/2.png", "b/over/1.png"]
    assert [item.id for item in open_images(folder).query.items] == expected
    assert [item.id for item in open_images(str(tmp_path / "elsewhere")).query.items] == expected


def test_folders_beside_the_splits_do_no_harm(tmp_path):
    folder = plant(tmp_path, ["train/a/1.png", "train/b/1.png", "val/a/2.png", "figures/1.png"])
    assert open_images(folder).query.classes == ("a", "b")


def test_the_folder_one_is_in_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(plant(tmp_path / "photos", ["a/1.png", "b/1.png"]))
    data = open_images(".")
    assert data.name == data.query.name == "photos"


def saved(folder, labels, images):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.Dataset.from_dict({"image": images, "label": labels}, features=features).save_to_disk(str(folder))
    return str(folder)


@pytest.mark.parametrize("missing", [-1, None])
def test_labels_that_are_missing_are_no_class(tmp_path, missing):
    images = [{"bytes": png(), "path": None}] * 3
    assert open_images(saved(tmp_path / "all", [missing] * 3, images)).query.classes is None
    with pytest.raises(DataError, match="1 of 3 images of some/data have no label"):
        open_images(saved(tmp_path / "some", [0, missing, 1], images))


def test_an_empty_image_cell_is_an_unreadable_image(tmp_path):
    data = open_images(saved(tmp_path / "saved", [0, 1], [{"bytes": png(), "path": None}, None]))
    with pytest.raises(OSError, match="empty"):
        data.query.read(1)
