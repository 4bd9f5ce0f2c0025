"""Parquet and WebDataset shards, read where they lie."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visprobe.data.open import open_images
from visprobe.errors import DataError, UsageError


def png(number):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (number, 1, 2)).save(file, "PNG")
    return file.getvalue()


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "shark"])})


def write(path, start, count, labels=(0, 1), features=FEATURES, group=3, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        "image": [{"bytes": png(start + n), "path": None} for n in range(count)],
        "label": [labels[n % len(labels)] for n in range(count)],
        **more,
    }
    table = datasets.Dataset.from_dict(rows, features=features).data.table
    pq.write_table(table.replace_schema_metadata(features.arrow_schema.metadata), path, row_group_size=group)


def hub_folder(root, place="data"):
    for number in range(2):
        write(root / place / f"train-0000{number}-of-00002.parquet", 10 * number, 7)
    write(root / place / "validation-00000-of-00001.parquet", 50, 4)
    write(root / place / "test-00000-of-00001-0123456789abcdef.parquet", 60, 4, labels=(-1,))
    return root


@pytest.mark.parametrize("place", ["data", "."])
def test_parquet_shards_of_the_hub(tmp_path, place):
    data = open_images(str(hub_folder(tmp_path / "imagenet-1k", place)))
    assert (data.query.name, data.support.name) == ("imagenet-1k/validation", "imagenet-1k/train")
    assert data.query.classes == data.support.classes == ("tench", "shark")
    assert [item.label for item in data.support.items] == [0, 1, 0, 1, 0, 1, 0] * 2
    expected = [png(n) for n in [*range(7), *range(10, 17)]]
    assert [data.support.read(n) for n in range(14)] == expected
    with ThreadPoolExecutor(4) as threads:  # as images are read, and in the worst order
        order = list(np.random.default_rng(0).permutation(np.repeat(range(14), 20)))
        assert list(threads.map(data.support.read, order)) == [expected[n] for n in order]
    assert data.notes == ("imagenet-1k/test is left out; --split test measures it",)


def test_splits_of_parquet_by_either_name(tmp_path):
    folder = str(hub_folder(tmp_path))
    assert open_images(folder, split="val").query.items == open_images(folder, split="validation").query.items
    test = open_images(folder, split="test")
    assert test.query.classes is None
    assert "--labels" in test.notes[0]
    with pytest.raises(UsageError, match="no split 'extra'"):
        open_images(folder, split="extra")


def test_parquet_in_folders_of_splits_and_without_the_librarys_metadata(tmp_path):
    for split, start in (("train", 0), ("val", 9)):
        (tmp_path / split).mkdir()
        cells = pa.array([{"bytes": png(start), "path": "a"}, {"bytes": None, "path": "b"}])
        pq.write_table(pa.table({"picture": cells, "label": ["b", "a"]}), tmp_path / split / "0000.parquet")
    data = open_images(str(tmp_path))
    assert (data.query.classes, data.query.read(0)) == (("a", "b"), png(9))
    with pytest.raises(OSError, match="no image"):
        data.query.read(1)


def test_parquet_that_is_incomplete_or_damaged(tmp_path):
    folder = hub_folder(tmp_path)
    (folder / "data/train-00001-of-00002.parquet").unlink()
    assert f"{tmp_path.name}/train: 1 of 2 shards are here" in open_images(str(folder)).notes
    (folder / "data/train-00000-of-00003.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="several numberings: of 00002, 00003"):
        open_images(str(folder))
    (folder / "data/train-00000-of-00003.parquet").unlink()
    path = folder / "data/train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot read .*train-00000-of-00002"):
        open_images(str(folder))


def test_shards_beside_images_are_ambiguous(tmp_path):
    hub_folder(tmp_path, ".")
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/1.png").write_bytes(png(1))
    with pytest.raises(DataError, match=r"holds parquet files and images \(in cats\)"):
        open_images(str(tmp_path))


def test_columns_beside_images_become_targets_and_captions(tmp_path):
    several = datasets.List(datasets.ClassLabel(names=["sea", "sky", "sun"]))
    features = datasets.Features(
        {
            **FEATURES,
            "scene": several,
            "age": datasets.Value("float32"),
            "text": datasets.List(datasets.Value("string")),
        }
    )
    extra = {"scene": [[0, 2], [], [1]], "age": [1.0, 2.0, 3.0], "text": [["a", "b"], [], ["c"]]}
    write(tmp_path / "val.parquet", 0, 3, features=features, **extra)
    data = open_images(str(tmp_path))
    assert (data.query.targets.names, data.query.targets.kind) == (("sea", "sky", "sun"), "labels")
    assert np.array_equal(data.query.targets.values, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert data.query.captions == (("a", "b"), (), ("c",))
    assert "age left out" in data.notes[0]


def test_float_columns_of_a_saved_dataset_become_numbers(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "age": datasets.Value("float32")})
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "age": [1.5, None, 3.0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    targets = open_images(str(tmp_path / "saved"), limit=2).query.targets
    assert (targets.names, targets.kind, targets.values.shape) == (("age",), "numbers", (2, 1))


def tar(path, files, end=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_webdataset_shards(tmp_path):
    for shard in range(2):
        files = {}
        for n in range(3):
            files |= {f"d.1/{n:03d}.jpg": png(10 * shard + n), f"d.1/{n:03d}.cls": b"%d\n" % (9 + n)}
        tar(tmp_path / f"imagenet1k-train-{shard:04d}.tar", files)
    samples = {"x.JPEG": png(40), "x.json": json.dumps({"label": 10}).encode(), "x.txt": b"a fish"}
    tar(tmp_path / "imagenet1k-validation-00.tar", {**samples, "y.png": png(41), "y.cls": b"9", "y.seg.png": b"other"})
    data = open_images(str(tmp_path))
    assert data.query.classes == data.support.classes == ("9", "10", "11")  # by number
    assert [item.label for item in data.query.items] == [1, 0]
    assert [item.id for item in data.query.items] == [f"imagenet1k-validation-00.tar/{n}" for n in ("x.JPEG", "y.png")]
    assert [data.support.read(n) for n in range(6)] == [png(n) for n in (0, 1, 2, 10, 11, 12)]
    assert data.query.captions == (("a fish",), ())
    assert not hasattr(data.support, "captions")


def test_webdataset_in_folders_of_splits_and_without_labels(tmp_path):
    tar(tmp_path / "train/0.tar", {"a.png": png(0), "a.cls": b"1"})
    tar(tmp_path / "val/0.tar", {"a.png": png(1), "b.png": png(2)})
    (tmp_path / "labels.csv").write_text("a.png,1\nb.png,1\n")
    assert open_images(str(tmp_path)).query.classes is None
    assert [i.label for i in open_images(str(tmp_path), labels=tmp_path / "labels.csv").query.items] == [0, 0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"n01440764.tar": b"inner"}, "holds no image"),
        ({"a.png": b"1", "a.jpg": b"2"}, "sample a has two images"),
        ({"a.dng": b"1", "a.png": b"1", "a.jpg": b"2"}, "sample a has two images"),
        ({"a.png": b"1", "a.cls": b"\xff\x00"}, r"a.cls cannot be read"),
        ({"a.png": b"1", "a.json": b"{"}, r"a.json cannot be read"),
        ({"a.png": b"1", "a.cls": b"1", "a.json": b'{"cls": 2}'}, "says class 2, another file 1"),
        ({"a.png": b"1", "a.cls": b"1", "b.png": b"1"}, r"1 of 2 images .* have no label .*, the first s.tar/b.png"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, files, message):
    tar(tmp_path / "s.tar", files)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path))


def test_every_cut_of_a_shard_is_found(tmp_path):
    path = tmp_path / "s.tar"
    tar(path, {f"{n}.png": png(n) for n in range(3)})
    whole = path.read_bytes()
    content = 3 * 2 * 512  # three headers, three images in one block each
    for length in (0, 100, 512, 600, 1024, 1100, content - 1, content):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"is damaged"):
            open_images(str(tmp_path))
    path.write_bytes(whole[:1024] + b"\xff" * 512 + whole[1536:])
    with pytest.raises(DataError, match="no end mark at byte 1024"):
        open_images(str(tmp_path))


def test_names_that_say_a_split_only_here_and_there(tmp_path):
    tar(tmp_path / "train-0.tar", {"a.png": png(0)})
    tar(tmp_path / "more.tar", {"a.png": png(0)})
    with pytest.raises(DataError, match=r"1 of 2 files .* do not say their split, the first more.tar"):
        open_images(str(tmp_path))


@pytest.mark.parametrize("order", [1, -1])
def test_files_beside_the_image_of_a_sample_that_are_no_images_here(tmp_path, order):
    beside = {"a.dng": b"II*\0", "a.svg": b"<svg/>", "a.json": b'{"label": 3}', "a.txt": b"a fish", "a.png": png(7)}
    tar(tmp_path / "0.tar", {**dict(list(beside.items())[::order]), "b.dng": b"II*\0", "b.cls": b"4"})
    images = open_images(str(tmp_path)).query
    assert [(item.id, images.classes[item.label]) for item in images.items] == [
        ("0.tar/a.png", "3"),
        ("0.tar/b.dng", "4"),
    ]
    assert (images.read(0), images.captions) == (png(7), (("a fish",), ()))


def test_what_macos_puts_beside_shards_is_left_out(tmp_path):
    rubbish = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    tar(tmp_path / "flat/train-0.tar", {"a.png": png(0)})
    tar(tmp_path / "nested/train/0.tar", {"a.png": png(0)})
    write(tmp_path / "rows/train.parquet", 0, 2)
    write(tmp_path / "hub/data/train-00000-of-00001.parquet", 0, 2)
    write(tmp_path / "deep/train/0.parquet", 0, 2)
    names = ("flat/._train-0.tar", "nested/train/._0.tar", "rows/._train.parquet", "deep/train/._0.parquet")
    for name in (*names, "hub/data/._train-00000-of-00001.parquet", "rows/__MACOSX/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rubbish)
    for folder, count in (("flat", 1), ("nested", 1), ("rows", 2), ("hub", 2), ("deep", 2)):
        data = open_images(str(tmp_path / folder))
        assert (data.query.name, len(data.query.items)) == (f"{folder}/train", count)
        assert data.notes == ()


def test_shards_of_suffixed_splits_are_not_one_split(tmp_path):
    for name in ("flat/{}_small.parquet", "deep/{}_small/0.parquet"):
        write(tmp_path / name.format("train"), 0, 2)
        write(tmp_path / name.format("test"), 5, 2)
    tar(tmp_path / "tars/x_train/0.tar", {"a.png": png(0)})
    tar(tmp_path / "tars/x_test/0.tar", {"a.png": png(5)})
    for folder in ("flat", "deep", "tars"):
        data = open_images(str(tmp_path / folder))
        assert (data.support.read(0), data.query.read(0)) == (png(0), png(5))
        assert data.query.name.split("/")[1] in ("test_small", "x_test")


def test_classes_of_shards_that_look_alike_are_refused(tmp_path):
    tar(tmp_path / "tars/train-0.tar", {"a.png": png(0), "a.cls": b"gr ass"})
    tar(tmp_path / "tars/val-0.tar", {"a.png": png(1), "a.cls": b"grass"})
    words = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    write(tmp_path / "rows/train.parquet", 0, 2, labels=("gr ass", "x"), features=words)
    write(tmp_path / "rows/val.parquet", 5, 2, labels=("grass", "x"), features=words)
    for folder in ("tars", "rows"):
        with pytest.raises(DataError, match="the class 'gr ass' of train is 'grass' in val"):
            open_images(str(tmp_path / folder))
