"""Splits, classes and what lies beside them, told apart in folders as they are downloaded and unpacked."""

import io
import shutil

import pytest
from PIL import Image

from visprobe.data.layout.splits import likely_role, splits_among, with_role
from visprobe.data.open import open_images
from visprobe.data.sources.files import open_named
from visprobe.errors import DataError


def picture(number=0, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (number, 0, 0)).save(file, kind)
    return file.getvalue()


def plant(folder, *names, data=None):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number) if data is None else data)
    return str(folder)


def two_classes(folder, *splits):
    return plant(
        folder, *[f"{split}/{name}/{number}.png" for number, split in enumerate(splits) for name in ("a", "b")]
    )


def seen(images):
    """The class of each image by its path."""
    return {item.id: images.classes[item.label] if images.classes else None for item in images.items}


def refused(folder):
    with pytest.raises(DataError) as error:
        open_images(str(folder))
    assert error.value.hint
    return error.value


def move(folder, place, target):
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder / place, folder / target)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("asl_train/asl_train", "asl_test/asl_test"),
        ("asl_train/asl_alphabet_train", "asl_test/asl_alphabet_test"),
        ("asl_train/train", "asl_test/test"),
        ("train_small", "test_small"),
        ("small_train", "small_val"),
        ("imagenet-train", "imagenet-val"),
        ("train_images", "test_images"),
        ("train/train", "test/test"),
        ("train/data/images", "test/data/images"),
        ("train/pets", "test/pets"),
        ("pets_train", "birds_val"),
        ("train_full", "val"),
    ],
)
@pytest.mark.parametrize("above", ["", "dataset/", "a/b/c/d/"])
def test_wrapped_and_suffixed_splits(tmp_path, above, train, test):
    data = open_images(two_classes(tmp_path, above + train, above + test))
    assert data.query.name == f"{tmp_path.name}/{test.split('/')[0]}"
    assert data.support.name == f"{tmp_path.name}/{train.split('/')[0]}"
    assert seen(data.support) == {"a/0.png": "a", "b/0.png": "b"}
    assert seen(data.query) == {"a/1.png": "a", "b/1.png": "b"}
    assert open_images(str(tmp_path), split="train").query.name == data.support.name


def test_a_wrapped_split_of_loose_images_has_no_classes(tmp_path):
    plant(tmp_path, *[f"asl_train/asl_train/{name}/1.png" for name in "AB"])
    plant(tmp_path, "asl_test/asl_test/A_test.png", "asl_test/asl_test/B_test.png")
    data = open_images(str(tmp_path))
    assert seen(data.query) == {"A_test.png": None, "B_test.png": None}
    assert data.support.classes == ("A", "B")
    assert any("asl_test has no classes; --labels" in note for note in data.notes)


def test_one_suffixed_split_alone(tmp_path):
    images = open_images(two_classes(tmp_path / "deep", "train_small")).query
    assert (images.name, images.classes) == ("deep/train_small", ("a", "b"))
    error = refused(plant(tmp_path / "flat", "bullet train/1.png"))
    assert "bullet train may be a split or a class" in error.message
    move(tmp_path / "flat", "bullet train", "val/bullet train")
    assert open_images(str(tmp_path / "flat")).query.classes == ("bullet train",)


def test_splits_of_several_data_sets_are_refused_and_the_hint_works(tmp_path):
    names = [f"{size}_{split}" for size in ("small", "big") for split in ("train", "test")]
    error = refused(two_classes(tmp_path, *names))
    assert "big_test, big_train, small_test, small_train" in error.message
    assert "Move those of one, as big_test and big_train, into a folder of their own" in error.hint
    for name in ("big_test", "big_train"):
        move(tmp_path, name, f"one/{name}")
    assert open_images(str(tmp_path / "one")).support.classes == ("a", "b")


@pytest.mark.parametrize("others", [("bus/1.png",), ("bus/p/1.png", "bus/q/1.png")])
def test_a_suffixed_split_beside_other_folders_is_refused(tmp_path, others):
    error = refused(plant(tmp_path, "train_small/a/1.png", "train_small/b/1.png", *others))
    assert "train_small may be a split or a class" in error.message


def test_names_of_splits_in_their_family(tmp_path):
    assert [likely_role(name) for name in ("train_small", "bullet train", "bus", "train_test")] == [
        "train", "train", None, None,
    ]  # fmt: skip
    assert splits_among(["bullet train", "bus"], tmp_path) == {}
    assert splits_among(["x_train", "x_test", "figures"], tmp_path) == {"x_train": "train", "x_test": "test"}
    assert splits_among(["train", "train_small", "x_val"], tmp_path) == {"train": "train", "x_val": "val"}
    assert with_role(["val_small", "validation", "train"], "val") == ["validation", "val_small"]


def test_splits_beside_other_folders_of_images_are_no_classes(tmp_path):
    two_classes(tmp_path, "dataset/train", "dataset/test")
    data = open_images(plant(tmp_path, "figures/1.png"))
    assert data.query.classes == data.support.classes == ("a", "b")
    assert data.notes == (f"{tmp_path}: not read: figures (1 image)",)


def test_splits_of_loose_images_beside_other_folders_are_no_class(tmp_path):
    data = open_images(plant(tmp_path, "images/train/1.png", "images/val/2.png", "runs/3.png"))
    assert (seen(data.query), seen(data.support)) == ({"2.png": None}, {"1.png": None})
    assert data.notes == (f"{tmp_path}: not read: runs (1 image)",)


def test_a_link_back_up_is_no_folder_of_splits(tmp_path):
    folder = plant(tmp_path, "a/1.png")
    (tmp_path / "a/up").symlink_to("..")
    assert seen(open_images(folder).query) == {"a/1.png": "a"}


def test_the_only_folder_holds_the_classes(tmp_path):
    plant(tmp_path, *[f"101_Categories/{name}/1.png" for name in ("ant", "bass")])
    plant(tmp_path, "papers/1.pdf", data=b"%PDF")
    data = open_images(str(tmp_path))
    assert seen(data.query) == {"ant/1.png": "ant", "bass/1.png": "bass"}
    assert data.notes == (
        f"{tmp_path}: not read: papers (1 file with .pdf)",
        f"the classes of {tmp_path} are the folders in 101_Categories",
    )


@pytest.mark.parametrize("place", ["images/{}", "{}/images", "yolo/images/{}"])
def test_boxes_beside_images_are_named_and_are_no_class(tmp_path, place):
    plant(tmp_path, *[f"{place.format(split)}/{split}.png" for split in ("train", "val")])
    boxes = place.replace("images", "labels")
    plant(tmp_path, *[f"{boxes.format(split)}/{split}.txt" for split in ("train", "val")], data=b"0 .5 .5 .1 .1\n")
    data = open_images(str(tmp_path))
    assert (seen(data.query), seen(data.support)) == ({"val.png": None}, {"train.png": None})
    assert "not read: labels (" in data.notes[0]
    assert "with .txt, as boxes are stored)" in data.notes[0]


@pytest.mark.parametrize(("images", "beside"), [("images", "boxes"), ("images", "annotations"), ("JPEGImages", "Ann")])
def test_images_without_splits_beside_their_boxes(tmp_path, images, beside):
    plant(tmp_path, f"{images}/1.png")
    plant(tmp_path, f"{beside}/1.xml", data=b"<a/>")
    data = open_images(str(tmp_path))
    assert seen(data.query) == {f"{images}/1.png": None}
    assert data.notes == (f"{tmp_path}: not read: {beside} (1 file with .xml)",)


def test_the_only_folder_is_no_class_where_metadata_speaks(tmp_path):
    plant(tmp_path, "images/1.png", "images/2.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\nimages/1.png,cat\nimages/2.png,dog\n")
    assert seen(open_images(str(tmp_path)).query) == {"images/1.png": "cat", "images/2.png": "dog"}


@pytest.mark.parametrize("inside", ["", "x/", "images/"])
def test_train_beside_bus_and_car_is_a_class(tmp_path, inside):
    data = open_images(plant(tmp_path, *[f"{name}/{inside}1.png" for name in ("train", "bus", "car")]))
    assert seen(data.query) == {f"{name}/{inside}1.png": name for name in ("bus", "car", "train")}
    assert data.notes == (f"{tmp_path}: train is read as a class, as bus, car beside it are",)


def test_train_may_be_a_class_of_every_split(tmp_path):
    names = ("bus", "train")
    data = open_images(plant(tmp_path, *[f"{split}/{name}/1.png" for split in ("train", "val") for name in names]))
    assert data.query.classes == data.support.classes == names
    assert len(data.query.items) == len(data.support.items) == 2


@pytest.mark.parametrize(
    "places",
    [
        ("train/1.png", "bus/1.png"),
        ("train/x/1.png", "train/y/1.png", "bus/p/1.png", "bus/q/1.png", "car/m/1.png", "car/n/1.png"),
        ("train/x/1.png", "train/y/1.png", "bus/1.png", "car/1.png"),
        ("test/1.png", "bus/1.png", "car/1.png"),
        ("test/1.png", "train/1.png", "bus/1.png"),
    ],
)
def test_what_may_be_a_split_or_a_class_is_refused_and_both_hints_work(tmp_path, places):
    plant(tmp_path / "class", *places)
    names = sorted({place.split("/")[0] for place in places})
    splits = [name for name in names if name in ("test", "train")]
    others = [name for name in names if name not in splits]
    error = refused(tmp_path / "class")
    assert f"{', '.join(splits)} may be" in error.message
    assert f"and in {', '.join(others)}" in error.message
    shutil.copytree(tmp_path / "class", tmp_path / "split")
    for name in names:
        move(tmp_path / "class", name, f"val/{name}")
    assert open_images(str(tmp_path / "class")).query.classes == tuple(names)
    for name in others:
        move(tmp_path / "split", name, f"train/{name}" if "into a folder named train" in error.hint else "../away")
        shutil.rmtree(tmp_path / "away", ignore_errors=True)
    assert open_images(str(tmp_path / "split")).query.name == f"split/{splits[0]}"


@pytest.mark.parametrize("places", [("train", "val"), ("d/train", "d/val"), ("train/train", "val/val")])
def test_loose_images_beside_splits_are_counted(tmp_path, places):
    two_classes(tmp_path, *places)
    data = open_images(plant(tmp_path, "x.png", "y.png"))
    assert data.query.classes == ("a", "b")
    assert data.notes == (f"{tmp_path}: not read: 2 images in no folder (the first x.png)",)


def test_loose_images_beside_class_folders_are_counted(tmp_path):
    data = open_images(plant(tmp_path / "one", "a/1.png", "b/1.png", "x.png"))
    assert seen(data.query) == {"a/1.png": "a", "b/1.png": "b"}
    assert data.notes == ("one: 1 of 3 images lie in no folder (the first x.png): they are left out",)
    data = open_images(plant(tmp_path / "two", "train/a/1.png", "train/b/1.png", "train/x.png", "val/a/1.png"))
    assert seen(data.support) == {"a/1.png": "a", "b/1.png": "b"}
    assert data.notes == ("two/train: 1 of 3 images lie in no folder (the first x.png): they are left out",)


def test_a_folder_beside_many_loose_images_is_no_class(tmp_path):
    data = open_images(plant(tmp_path, "1.png", "2.png", "3.png", "a/1.png", "b/2.png"))
    assert set(seen(data.query).values()) == {None}
    assert "3 of 5 images lie in no folder (the first 1.png), so the folders are not read as classes" in data.notes[0]


def test_images_that_are_asked_for_are_not_left_out(tmp_path):
    folder = plant(tmp_path / "in", "a/1.png", "b/1.png", "x.png")
    assert list(seen(open_named([folder]).query)) == ["a/1.png", "b/1.png", "x.png"]
    (tmp_path / "labels.csv").write_text("a/1.png,0\nb/1.png,1\nx.png,1\n")
    assert list(seen(open_images(folder, labels=tmp_path / "labels.csv").query).values()) == ["0", "1", "1"]


@pytest.mark.parametrize("splits", [("train", "test"), ("train",)])
def test_splits_inside_classes_are_refused_and_the_hint_works(tmp_path, splits):
    plant(tmp_path, *[f"{name}/{split}/{split}.png" for name in ("cat", "dog") for split in splits])
    error = refused(tmp_path)
    for name in ("cat", "dog"):
        for split in splits:
            assert f"{name}/{split} to {split}/{name}" in error.hint
            move(tmp_path, f"{name}/{split}", f"{split}/{name}")
    data = open_images(str(tmp_path))
    assert data.query.classes == ("cat", "dog")
    assert data.query.name.endswith(splits[-1])
    assert (data.support is not None) == (len(splits) == 2)


def test_splits_inside_some_classes_are_refused_too(tmp_path):
    plant(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/val/4.png", "emu/5.png")
    error = refused(tmp_path)
    assert "cat/test, cat/train, dog/train, dog/val" in error.message
    assert "dog/val to val/dog, and sort emu into the splits likewise" in error.hint


def test_data_sets_side_by_side_are_refused_and_the_hint_works(tmp_path):
    for name in ("bottle", "cable"):
        plant(tmp_path / name, "train/good/1.png", "test/good/2.png", "test/broken/3.png", "ground_truth/broken/3.png")
    assert f"give {tmp_path / 'bottle'}" in refused(tmp_path).hint
    data = open_images(str(tmp_path / "bottle"))
    assert data.query.classes == ("broken", "good")
    assert [item.id for item in data.support.items] == ["good/1.png"]


def test_splits_inside_the_classes_of_a_split_are_refused(tmp_path):
    plant(
        tmp_path, *[f"train/cat/{split}/{name}/1.png" for split in ("train", "val") for name in "ab"], "val/cat/1.png"
    )
    assert "cat/train, cat/val" in refused(tmp_path).message


def test_a_split_beside_a_folder_of_splits_is_refused_and_the_hint_works(tmp_path):
    two_classes(tmp_path, "Plants/Plants/train", "Plants/Plants/valid")
    error = refused(plant(tmp_path, "test/test/1.png", "test/test/2.png"))
    assert f"Give {tmp_path / 'Plants/Plants'}" in error.hint
    data = open_images(str(tmp_path / "Plants/Plants"))
    assert (data.query.name, data.support.name) == ("Plants/valid", "Plants/train")


def test_classes_that_lie_there_twice_are_refused_and_the_hint_works(tmp_path):
    plant(tmp_path, *[f"PlantVillage/{place}{name}/1.png" for name in "abc" for place in ("", "PlantVillage/")])
    error = refused(tmp_path)
    assert "PlantVillage holds the folders a, b, c, which lie beside it too" in error.message
    assert open_images(str(tmp_path / "PlantVillage/PlantVillage")).query.classes == ("a", "b", "c")
    shutil.rmtree(tmp_path / "PlantVillage/PlantVillage")
    assert open_images(str(tmp_path)).query.classes == ("a", "b", "c")


def test_a_class_of_folders_beside_classes_of_images_is_named(tmp_path):
    data = open_images(plant(tmp_path, "dogs/husky/1.png", "dogs/pug/1.png", "cats/1.png"))
    assert data.query.classes == ("cats", "dogs")
    assert data.notes == (f"{tmp_path}: read as one class each: dogs (the folders husky, pug)",)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gr ass", "grass"),
        ("Grass", "grass"),
        ("grass ", "grass"),
        ("red_apple", "red apple"),
        ("red  apple", "red apple"),
        ("red\u00a0apple", "red apple"),
        ("red-apple", "redapple"),
        ("gr\u200bass", "grass"),
    ],
)
def test_classes_that_look_alike_are_refused_with_both_spellings(tmp_path, one, other):
    folder = plant(tmp_path, f"train/{one}/1.png", "train/x/1.png", f"val/{other}/1.png", "val/x/1.png")
    assert f"the class {one!r} of train is {other!r} in val" in refused(folder).message


def test_numbers_with_a_separator_are_other_numbers(tmp_path):
    folder = plant(tmp_path, "train/1-2/1.png", "train/x/1.png", "val/12/1.png", "val/x/1.png")
    assert open_images(folder).query.classes == ("1-2", "12", "x")


@pytest.mark.parametrize(
    ("name", "said"), [("annotations/1.xml", "1 file with .xml"), ("emu/.DS_Store", "empty"), ("emu/1.npy", "1 file")]
)
@pytest.mark.parametrize("place", ["", "train/"])
def test_folders_without_any_image_beside_classes_are_named(tmp_path, place, name, said):
    plant(tmp_path, *[f"{place}{one}/1.png" for one in "ab"])
    plant(tmp_path, place + name, data=b"<a/>")
    data = open_images(str(tmp_path))
    assert data.query.classes == ("a", "b")
    assert [f"not read: {name.split('/')[0]} ({said}" in note for note in data.notes] == [True]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("emu/1.jxl", b"\xff\x0a", "pip install pillow-jxl-plugin"),
        ("emu/1", picture(), "1 is an image without the suffix of one"),
        ("emu/1.bin", picture(kind="JPEG"), "1.bin is an image without the suffix of one"),
        ("emu/all.zip", b"PK", "all.zip is an archive"),
    ],
)
def test_folders_that_hold_images_which_cannot_be_read_are_an_error(tmp_path, name, data, reason):
    plant(tmp_path, "cat/1.png", "dog/1.png")
    plant(tmp_path, name, data=data)
    error = refused(tmp_path)
    assert error.message.startswith(f"the class emu of {tmp_path} has no image that can be read: 1 file with")
    assert reason in error.message


def test_a_class_that_another_split_has_may_not_be_empty(tmp_path):
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    (tmp_path / "val/b").mkdir()
    assert "the class b of" in (error := refused(tmp_path)).message
    assert "other splits have images of this class" in error.message


APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def test_what_macos_puts_beside_images_is_left_out(tmp_path):
    two_classes(tmp_path, "train", "val")
    plant(tmp_path, "._x.png", "._train", "train/._a", "train/a/._0.png", "train/._c/1.png", data=APPLE_DOUBLE)
    data = open_images(str(tmp_path))
    assert (seen(data.support), data.notes) == ({"a/0.png": "a", "b/0.png": "b"}, ())
