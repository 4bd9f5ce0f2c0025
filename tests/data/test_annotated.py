"""What images carry beside classes, and that subsets carry it on."""

import io

import numpy as np
import pytest
from PIL import Image

from visprobe.data.labels.annotated import HasCaptions, HasMasks, HasTargets, HasTitles
from visprobe.data.open import open_images
from visprobe.data.subset import Subset, first_spread, per_class, take
from visprobe.demo.scenes import DigitScenes
from visprobe.errors import DataError, UsageError


def plant(folder, names):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file.getvalue())
    return folder


def test_digit_scenes_carry_what_is_drawn_in_them():
    scenes = DigitScenes("val", 40)
    assert isinstance(scenes, HasTargets)
    assert isinstance(scenes, HasMasks)
    assert isinstance(scenes, HasCaptions)
    for index in range(40):
        scene, mask = scenes.scene(index), scenes.mask(index)
        present = {d.digit for d in scene.digits}
        assert set(np.flatnonzero(scenes.targets.values[index])) == present
        assert {scenes.mask_classes[n] for n in np.unique(mask)} == {"background", *(f"digit_{d}" for d in present)}
        assert all(np.array_equal(mask == d.digit + 1, scene.masks == i + 1) for i, d in enumerate(scene.digits))
        [caption] = scenes.captions[index]
        for d, part in zip(scene.digits, caption.split(", "), strict=True):
            assert part.split()[2:] == [d.colour, str(d.digit), d.cell]
            assert part.split()[1] == ("small" if d.size <= 19 else "medium" if d.size <= 24 else "large")


def test_subsets_carry_on_what_the_whole_has_and_nothing_else(tmp_path):
    scenes = DigitScenes("val", 40)
    for part in (take(scenes, 7, 1), first_spread(scenes, 7), Subset(Subset(scenes, range(20, 40)), range(7))):
        assert isinstance(part, HasTargets)
        assert isinstance(part, HasMasks)
        assert isinstance(part, HasCaptions)
        where = [scenes.items.index(item) for item in part.items]
        assert np.array_equal(part.targets.values, scenes.targets.values[where])
        assert list(part.captions) == [scenes.captions[n] for n in where]
        assert all(np.array_equal(part.mask(n), scenes.mask(w)) for n, w in enumerate(where))
        assert (part.mask_classes, part.ignored) == (scenes.mask_classes, 255)
    plain = take(open_images(str(plant(tmp_path, ["1.png", "2.png"]))).query, 1, 0)
    assert not any(isinstance(plain, kind) for kind in (HasTargets, HasMasks, HasCaptions))
    assert isinstance(plain, HasTitles)
    assert plain.class_titles is None


def test_metadata_beside_images(tmp_path):
    plant(tmp_path, ["a.png", "b/c.png", "d.png"])
    (tmp_path / "metadata.csv").write_text(
        'file_name,age,text,lens,label\n./a.png,1.5,"one, two",wide,cat\nb/c.png,,,,dog\ngone.png,3,x,,cat\n'
    )
    data = open_images(str(tmp_path))
    assert (data.query.targets.names, data.query.targets.kind) == (("age",), "numbers")
    assert np.array_equal(data.query.targets.values, [[1.5], [np.nan], [np.nan]], equal_nan=True)
    assert data.query.captions == (("one, two",), (), ())
    assert data.notes == (
        "metadata.csv lists 1 of 3 images that are not there, first gone.png",
        "metadata.csv does not list 1 of 3 images, first d.png",
        f"label of metadata.csv may be classes and are not used: 1 of 3 images of {tmp_path.name} have no label "
        "(empty, NaN or -1), the first d.png",
        "columns of metadata.csv that hold no numbers are not used: lens",
    )


def test_the_label_column_of_metadata_as_classes(tmp_path):
    plant(tmp_path, ["a.png", "d.png"])
    (tmp_path / "metadata.csv").write_text("file_name,sea,label\na.png,1,dog\nd.png,0,cat\n")
    data = open_images(str(tmp_path), labels=tmp_path / "metadata.csv")
    assert [data.query.classes[item.label] for item in data.query.items] == ["dog", "cat"]
    assert (data.query.targets.kind, data.query.targets.values.tolist()) == ("labels", [[1], [0]])
    assert data.notes == ()


def test_metadata_in_lines_of_json(tmp_path):
    plant(tmp_path, ["a.png", "d.png"])
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "a.png", "sea": 1, "captions": ["x", "y"]}\n\n{"file_name": "d.png", "sea": false}\n'
    )
    query = open_images(str(tmp_path)).query
    assert (query.targets.kind, query.targets.values.tolist()) == ("labels", [[1], [0]])
    assert query.captions == (("x", "y"), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\na.png,1\n", "row 1 has no file_name"),
        ("file_name,age\na.png,1\na.png,2\n", "lists a.png twice"),
        ("file_name,age\na.png,1,2\n", "more or fewer fields"),
        ("file_name,age\na.png\n", "more or fewer fields"),
    ],
)
def test_metadata_that_cannot_be_used(tmp_path, text, message):
    plant(tmp_path, ["a.png"])
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path))
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(DataError, match="holds both"):
        open_images(str(tmp_path))


def test_so_many_of_each_class_nested_and_of_train_alone(tmp_path):
    names = [f"train/{c}/{n:02d}.png" for c in "abc" for n in range(20)] + ["train/d/1.png", "train/d/2.png"]
    folder = str(plant(tmp_path / "set", names + [f"val/{c}/{n}.png" for c in "abcd" for n in range(6)]))
    few, more = (open_images(folder, subset_per_class=n) for n in (3, 12))
    assert [sum(i.label == c for i in few.support.items) for c in range(4)] == [3, 3, 3, 2]
    assert {i.id for i in few.support.items} < {i.id for i in more.support.items}
    assert few.support.items != open_images(folder, subset_per_class=3, seed=1).support.items
    assert len(few.query.items) == len(more.query.items) == 24
    assert few.notes == ("1 class of set/train has fewer than 3 images, the fewest d with 2",)
    assert [i.id for i in few.support.items] == sorted(i.id for i in few.support.items)
    with pytest.raises(UsageError, match="no training split"):
        open_images(folder, split="train", subset_per_class=3)
    with pytest.raises(UsageError, match="per-class 0"):
        open_images(folder, subset_per_class=0)
    with pytest.raises(UsageError, match="has no classes"):
        per_class(open_images(str(plant(tmp_path / "flat", ["1.png"]))).query, 2, 0)
