"""Folders of images under the names, suffixes and beside the rubbish that people have."""

import io
import tarfile
import unicodedata

import pytest
from PIL import Image

from visprobe.data.image_set import BadImage, decode
from visprobe.data.layout.splits import role_of, with_role
from visprobe.data.open import open_images
from visprobe.data.sources.files import open_named
from visprobe.errors import DataError


def picture(kind="PNG", colour=(10, 20, 30)):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, kind)
    return file.getvalue()


def plant(folder, *names, data=None):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data or picture(colour=(number, 0, 0)))
    return str(folder)


def two_classes(folder, *splits):
    return plant(folder, *[f"{split}/{name}/{split[:2]}.png" for split in splits for name in ("cat", "dog")])


@pytest.mark.parametrize(
    ("train", "measured"),
    [
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("train", "dev"),
        ("trainset", "test_set"),
        ("imgs_train", "Validation Data"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "val/images"),
    ],
)
@pytest.mark.parametrize("above", ["", "images/", "Data/Images/"])
def test_splits_are_known_under_their_usual_names_and_nestings(tmp_path, above, train, measured):
    two_classes(tmp_path, above + train, above + measured)
    data = open_images(str(tmp_path))
    assert data.query.classes == data.support.classes == ("cat", "dog")
    assert (data.query.name, data.support.name) == tuple(
        f"{tmp_path.name}/{split.split('/')[0]}" for split in (measured, train)
    )
    assert [item.label for item in data.query.items] == [0, 1]


@pytest.mark.parametrize("name", ["bullet train", "n01440764", "training wheels", "testbed", "valley", "set", "2017"])
def test_names_of_classes_are_no_splits(name):
    assert role_of(name) is None


def test_the_plain_name_of_a_role_comes_first():
    assert with_role(["train_set", "dev", "test", "val", "Train"], "val", "test") == ["val", "dev", "test"]


def test_a_split_or_folder_that_is_left_out_is_named(tmp_path):
    two_classes(tmp_path, "train", "val", "test", "unlabelled")
    data = open_images(str(tmp_path))
    assert data.query.name.endswith("/val")
    assert any("test is left out" in note and "--split test" in note for note in data.notes)
    assert any("unlabelled" in note for note in data.notes)
    assert open_images(str(tmp_path), split="TEST").query.name.endswith("/test")


def test_a_folder_that_classes_link_to_is_not_called_left_out(tmp_path):
    two_classes(tmp_path, "train", "val")
    plant(tmp_path, "kept/1.png")
    (tmp_path / "train/emu").symlink_to(tmp_path / "kept")
    data = open_images(str(tmp_path))
    assert (data.support.classes, data.notes) == (("cat", "dog", "emu"), ())


def test_two_training_splits_are_not_used_in_silence(tmp_path):
    data = open_images(two_classes(tmp_path, "Train", "train_set", "val"))
    assert data.support.name.endswith("/Train")
    assert any("train_set is left out" in note for note in data.notes)


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("site_a", "site_b"), ("2019", "2020")])
def test_folders_that_share_their_sub_folders_are_refused_and_the_hint_works(tmp_path, names):
    folder = two_classes(tmp_path / "asked", *names)
    with pytest.raises(DataError, match=f"{names[0]}, {names[1]} all hold the folders cat, dog") as error:
        open_images(folder)
    assert "train and val" in error.value.hint
    assert "folder named val" in error.value.hint
    assert open_images(two_classes(tmp_path / "done", *[f"val/{name}" for name in names])).query.classes == names


def test_classes_that_hold_one_folder_each_are_classes(tmp_path):
    assert open_images(plant(tmp_path, "n01/images/1.png", "n02/images/2.png")).query.classes == ("n01", "n02")


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".JPE", "JPEG"), (".pgm", "PPM"), (".mpo", "MPO"), (".avif", "AVIF"), (".TGA", "TGA")],
)
def test_what_pillow_opens_is_read_in_folders_and_in_tars(tmp_path, suffix, kind):
    data = picture(kind)
    plant(tmp_path / "folder", f"a/1{suffix}", f"b/2{suffix}", data=data)
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/0.tar", "w") as archive:
        archive.add(tmp_path / "folder/a" / f"1{suffix}", f"1{suffix}")
    for folder in ("folder", "tars"):
        images = open_images(str(tmp_path / folder)).query
        assert decode(images.read(0)).size == (8, 6)


def test_an_image_that_cannot_be_read_is_listed_and_says_what_to_install(tmp_path):
    plant(tmp_path, "a/1.png", "b/1.png")
    plant(tmp_path, "a/2.jxl", data=b"\xff\x0a" + bytes(20))
    images = open_images(str(tmp_path)).query
    assert [item.id for item in images.items] == ["a/1.png", "a/2.jxl", "b/1.png"]
    with pytest.raises(BadImage, match="pip install pillow-jxl-plugin"):
        decode(images.read(1))
    plant(tmp_path, "a/3.dng", data=picture("TIFF"))
    with pytest.raises(OSError, match="convert raw files"):  # Pillow would show the thumbnail
        open_images(str(tmp_path)).query.read(2)


@pytest.mark.parametrize(("name", "data"), [("1.jxl", b"\xff\x0a"), ("1.svg", b"<svg>"), ("1", b"x"), ("1.txt", b"x")])
def test_a_class_without_any_image_that_can_be_read_is_an_error(tmp_path, name, data):
    plant(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png")
    plant(tmp_path, f"val/b/{name}", data=data)
    with pytest.raises(DataError, match=r"the class b of .*val has no image that can be read: 1 file with"):
        open_images(str(tmp_path))


def test_a_wrong_suffix_does_not_empty_a_class(tmp_path):
    folder = plant(tmp_path, "a/1.jxl", "b/1.png")  # PNG under another name
    assert len(open_images(folder).query.items) == 2


RUBBISH = ("@eaDir", "__MACOSX", ".ipynb_checkpoints", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def test_folders_of_the_system_are_no_classes(tmp_path):
    rubbish = [f"{place}{name}/1.png" for name in RUBBISH for place in ("", "a/")]
    plant(tmp_path, "a/1.png", "b/1.png", "a/._1.png", *rubbish)
    images = open_images(str(tmp_path)).query
    assert (images.classes, [item.id for item in images.items]) == (("a", "b"), ["a/1.png", "b/1.png"])
    assert len(open_named([str(tmp_path / "a"), str(tmp_path / "b/1.png")]).query.items) == 2


def test_files_of_the_system_in_a_tar_are_no_images(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in ("./1.png", "._1.png", "__MACOSX/2.png", "a/@eaDir/3.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture())
            archive.addfile(member, io.BytesIO(picture()))
    assert [item.id for item in open_images(str(tmp_path)).query.items] == ["0.tar/./1.png"]


def test_both_forms_of_unicode_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    data = open_images(plant(tmp_path, f"train/{composed}/1.png", "train/x/1.png", f"val/{apart}/2.png", "val/x/2.png"))
    assert data.query.classes == (composed, "x")
    assert [item.label for item in data.query.items] == [0, 1]
    assert data.query.read(0)


def test_small_and_capital_letters_of_one_split_are_two_classes(tmp_path):
    folder = plant(tmp_path, *[f"{split}/{name}/1.png" for split in ("train", "val") for name in "aA"])
    assert open_images(folder).query.classes == ("A", "a")
