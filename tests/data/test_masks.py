"""Images with masks, as the data sets of the field lay them out; masks that do not fit are refused one by one."""

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import BadImage
from visprobe.data.labels.annotated import HasMasks
from visprobe.data.open import open_images
from visprobe.errors import DataError

MASK = np.array([[0, 1, 2], [3, 255, 1]], np.uint8)


def picture(path, size=(3, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)


def mask(path, array=MASK, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = Image.fromarray(array)
    if palette:
        drawn.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    drawn.save(path)


def camvid(folder, images="images", masks="masks", splits=("train", "val")):
    for split in splits:
        for name in ("a", "b"):
            picture(folder / images / split / f"{name}.jpg")
            mask(folder / masks / split / f"{name}.png")
    return folder


@pytest.mark.parametrize(
    ("images", "masks", "splits"),
    [("images", "masks", ("train", "val")), ("images", "annotations", ("training", "validation")),
     ("img", "ann", ("train", "test"))],
)  # fmt: skip
def test_folders_side_by_side(tmp_path, images, masks, splits):
    data = open_images(str(camvid(tmp_path, images, masks, splits)))
    for part, split in ((data.support, splits[0]), (data.query, splits[1])):
        assert isinstance(part, HasMasks)
        assert [item.id for item in part.items] == [f"{images}/{split}/a.jpg", f"{images}/{split}/b.jpg"]
        assert part.mask_classes == ("0", "1", "2", "3")  # the largest number there is; 255 is no class
        assert part.ignored == 255
        assert np.array_equal(part.mask(1), MASK)


def test_splits_around_the_pair_and_no_splits(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / "one" / split / "images" / "a.jpg")
        mask(tmp_path / "one" / split / "masks" / "a.png")
    data = open_images(str(tmp_path / "one"))
    assert np.array_equal(data.query.mask(0), MASK)
    assert data.support is not None
    picture(tmp_path / "two" / "images" / "a.jpg")
    mask(tmp_path / "two" / "masks" / "a.png")
    flat = open_images(str(tmp_path / "two"))
    assert np.array_equal(flat.query.mask(0), MASK)
    picture(tmp_path / "three" / "images" / "a.jpg")
    picture(tmp_path / "three" / "labels" / "b.jpg")
    assert open_images(str(tmp_path / "three")).query.classes == ("images", "labels")


def test_ade20k_ignores_what_has_no_label(tmp_path):
    folder = camvid(tmp_path / "ADEChallengeData2016", masks="annotations", splits=("training", "validation"))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff", "1\t0.1\t5\t6\twall", "2\t0.1\t5\t6\tbuilding, edifice"]
    (folder / "objectInfo150.txt").write_text("\n".join(rows))
    query = open_images(str(folder)).query
    assert (query.mask_classes, query.ignored) == (("unlabelled", "wall", "building"), 0)


@pytest.mark.parametrize(
    "text", ["sky\nroad\ncar\ntree\n", "0: sky\n1: road\n3: tree\n2: car\n", "0 sky\n1 road\n2 car\n3 tree"]
)
def test_names_beside_the_images(tmp_path, text):
    (camvid(tmp_path) / "classes.txt").write_text(text)
    assert open_images(str(tmp_path)).query.mask_classes == ("sky", "road", "car", "tree")


def test_pascal_voc(tmp_path):
    for stem in ("2007_1", "2007_2", "2007_3", "2007_4"):
        picture(tmp_path / "JPEGImages" / f"{stem}.jpg")
    for stem in ("2007_1", "2007_3"):
        mask(tmp_path / "SegmentationClass" / f"{stem}.png", palette=True)
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n2007_2\n")
    (lists / "val.txt").write_text("2007_3\n")
    data = open_images(str(tmp_path))
    assert [item.id for item in data.support.items] == ["JPEGImages/2007_1.jpg", "JPEGImages/2007_2.jpg"]
    assert np.array_equal(data.query.mask(0), MASK)  # places in the palette, not colours
    assert data.query.mask_classes[15] == "person"
    with pytest.raises(BadImage, match="no mask"):
        data.support.mask(1)


@pytest.mark.parametrize("images", ["", "images"])
def test_coco_stuff(tmp_path, images):
    for split in ("train2017", "val2017"):
        picture(tmp_path / images / split / "000.jpg")
        mask(tmp_path / "stuffthingmaps_trainval2017" / split / "000.png")
    data = open_images(str(tmp_path))
    assert np.array_equal(data.query.mask(0), MASK)
    assert len(data.query.mask_classes) == 182
    assert data.support is not None


def test_a_dataset_with_two_columns_of_images(tmp_path):
    import datasets

    plain = datasets.Image()
    picture(tmp_path / "a.png")
    mask(tmp_path / "m.png")
    features = datasets.Features({"image": plain, "annotation": plain, "n": datasets.Value("int64")})
    rows = {"image": [str(tmp_path / "a.png")] * 2, "annotation": [str(tmp_path / "m.png"), None], "n": [1, 2]}
    both = datasets.DatasetDict({s: datasets.Dataset.from_dict(rows, features) for s in ("train", "validation")})
    both.save_to_disk(tmp_path / "saved")
    data = open_images(str(tmp_path / "saved"))
    assert isinstance(data.query, HasMasks)
    assert np.array_equal(data.query.mask(0), MASK)
    assert data.query.mask_classes == ("0", "1", "2", "3")
    with pytest.raises(BadImage, match="empty"):
        data.support.mask(1)


def test_masks_that_do_not_fit(tmp_path):
    camvid(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree")
    places = tmp_path / "masks" / "val"
    query = open_images(str(tmp_path)).query
    mask(places / "a.png", MASK.T.copy())
    with pytest.raises(BadImage, match="the mask is 2x3, its image 3x2"):
        query.mask(0)
    Image.new("RGB", (3, 2)).save(places / "a.png")
    with pytest.raises(BadImage, match="mode RGB"):
        query.mask(0)
    (places / "a.png").write_bytes(b"x")
    with pytest.raises(BadImage, match="known format"):
        query.mask(0)
    turned = Image.Exif()
    turned[0x0112] = 6  # shown upright, this picture is 2 wide and 3 high
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "val" / "b.jpg", exif=turned)
    mask(places / "b.png", MASK.T.copy())
    assert query.mask(1).shape == (3, 2)
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="no image has a mask"):
        open_images(str(tmp_path))
