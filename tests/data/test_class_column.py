"""What is a class in a table beside images, and what is named instead: several labels, numbers, other columns."""

import io
import json
import tarfile
import unicodedata

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visprobe.analyses.accuracy.task import check_classes
from visprobe.data.open import open_images
from visprobe.errors import DataError, UsageError

WORDS = ("cat", "dog", "owl") * 4
NUMBERS = tuple(n % 3 for n in range(12))
THREE = [*range(3)] * 4


def png(number):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def parquet(folder, splits=("train", "validation"), **columns):
    folder.mkdir(exist_ok=True)
    images = pa.array([{"bytes": png(n), "path": None} for n in range(12)])
    for split in splits:
        pq.write_table(pa.table({"image": images, **columns}), folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def saved(folder, kind, cells):
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(12)], "label": cells}
    datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(str(folder))
    return str(folder)


def shards(folder, make):
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        with tarfile.open(folder / split / "0.tar", "w") as archive:
            for n in range(12):
                for name, data in make(n).items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return str(folder)


def sample(n, **fields):
    return {f"s{n}.png": png(n), f"s{n}.json": json.dumps(fields).encode()}


def numbers_of(images):
    return [item.label for item in images.items]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        (pa.array(WORDS), ("cat", "dog", "owl")),
        (pa.array(WORDS).dictionary_encode(), ("cat", "dog", "owl")),  # a category of pandas
        (pa.array([word.encode() for word in WORDS], pa.binary()), ("cat", "dog", "owl")),
        (pa.array(NUMBERS, pa.uint8()), ("0", "1", "2")),
        (pa.array([f"{n:02d}" for n in NUMBERS]), ("0", "1", "2")),
        (pa.array(["8", "9", "10"] * 4), ("8", "9", "10")),
        (pa.array([unicodedata.normalize("NFD", word + "é") for word in WORDS]), ("caté", "dogé", "owlé")),
    ],
)
def test_integers_and_words_are_classes(tmp_path, column, names):
    data = open_images(parquet(tmp_path / "set", label=column))
    assert data.query.classes == data.support.classes == names
    assert numbers_of(data.query) == THREE
    assert data.notes == ()


def test_whole_numbers_with_a_point_are_classes_and_said(tmp_path):
    data = open_images(parquet(tmp_path / "set", label=[float(n) for n in NUMBERS]))
    assert (data.query.classes, numbers_of(data.query)) == (("0", "1", "2"), THREE)
    assert "decimal point" in data.notes[0]
    data = open_images(shards(tmp_path / "tar", lambda n: sample(n, label=float(NUMBERS[n]))))
    assert (data.query.classes, numbers_of(data.query)) == (("0", "1", "2"), THREE)
    assert "decimal point" in data.notes[0]


def unlabelled(spec, words):
    """The images of a set without classes, whose refusal says `words`."""
    images = open_images(spec).query
    assert images.classes is None
    with pytest.raises(DataError, match=words):
        check_classes(images, None)
    return images


@pytest.mark.parametrize("cells", [[0.37 * n for n in range(12)], [20.0 + n for n in range(12)], ["0.5", "1.5"] * 6])
def test_measured_numbers_are_a_target(tmp_path, cells):
    for spec in (
        parquet(tmp_path / "set", label=cells),
        shards(tmp_path / "tar", lambda n: sample(n, label=cells[n])),
    ):
        images = unlabelled(spec, r"label holds decimal numbers.*probe --targets numbers")
        assert (images.targets.names, images.targets.kind) == (("label",), "numbers")
        assert images.targets.values[:, 0].tolist() == [float(cell) for cell in cells]


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([[0, 1]] * 6 + [[2]] * 6, ("0", "1", "2")),
        ([["a", "b"]] * 6 + [["c"]] * 6, ("a", "b", "c")),
        ([[1, 1, 0]] * 6 + [[0, 0, 1]] * 6, ("0", "1", "2")),  # one cell for each label
        (["[a, b]"] * 6 + ["[c]"] * 6, ("a", "b", "c")),
        (["a|b"] * 6 + ["c"] * 6, ("a", "b", "c")),
    ],
)
def test_lists_are_several_labels(tmp_path, cells, names):
    for spec in (
        parquet(tmp_path / "set", label=cells),
        shards(tmp_path / "tar", lambda n: sample(n, label=cells[n])),
    ):
        images = unlabelled(spec, r"label holds several labels.*probe --targets labels")
        assert (images.targets.names, images.targets.kind) == (names, "labels")
        assert np.array_equal(images.targets.values, [[1, 1, 0]] * 6 + [[0, 0, 1]] * 6)


def test_lists_of_named_classes_are_several_labels(tmp_path):
    kind = datasets.List(datasets.ClassLabel(names=["sea", "sky"]))
    images = unlabelled(saved(tmp_path / "set", kind, [[0, 1], [1]] * 6), "several labels")
    assert images.targets.names == ("sea", "sky")
    images = unlabelled(saved(tmp_path / "one", datasets.ClassLabel(names=["sea"]), [None] * 12), "empty for all 12")
    with pytest.raises(DataError, match="label holds the class 7, and its type names 1 classes"):
        path = parquet(tmp_path / "beyond", splits=("test",), label=[0, 7] * 6)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea"])})
        file = next((tmp_path / "beyond").iterdir())
        pq.write_table(pq.read_table(file).replace_schema_metadata(features.arrow_schema.metadata), file)
        check_classes(open_images(path).query, None)


def test_labels_are_one_vocabulary_in_all_splits(tmp_path):
    parquet(tmp_path / "set", splits=("train",), label=[["a", "b"], ["c"]] * 6)
    data = open_images(parquet(tmp_path / "set", splits=("test",), label=[["a"], []] * 6))
    assert set(data.query.targets.names) == set(data.support.targets.names) == set("abc")
    assert data.query.targets.values[:2, data.query.targets.names.index("a")].tolist() == [1, 0]
    assert data.query.targets.values.sum() == 6


@pytest.mark.parametrize("cells", [[-1] * 12, ["-1"] * 12, [""] * 12, [float("nan")] * 12, [-1.0] * 12])
def test_hidden_labels_are_no_class(tmp_path, cells):
    parquet(tmp_path / "set", splits=("train",), label=NUMBERS)
    unlabelled(parquet(tmp_path / "set", splits=("test",), label=cells), "label is -1 or empty for all 12 images")


def test_some_missing_labels_are_counted_and_named(tmp_path):
    for cells in ([float("nan"), *map(float, NUMBERS[1:])], [-1, *NUMBERS[1:]], ["", *WORDS[1:]]):
        with pytest.raises(DataError, match=r"1 of 12 images of set/train have no label .*first 00000000"):
            open_images(parquet(tmp_path / "set", label=cells))


def test_the_only_column_called_as_classes_are_is_used_and_said(tmp_path):
    data = open_images(parquet(tmp_path / "set", labels=NUMBERS, id=[*map(str, range(12))]))
    assert (data.query.classes, numbers_of(data.query)) == (("0", "1", "2"), THREE)
    assert "the classes of set/validation are its column labels" in data.notes
    data = open_images(shards(tmp_path / "tar", lambda n: sample(n, **{"class": WORDS[n], "class_id": NUMBERS[n]})))
    assert data.query.classes == ("cat", "dog", "owl")  # both say the same: the one in words
    assert "the classes of tar/test are its field class" in data.notes


def test_columns_that_may_be_meant_are_named_and_one_can_be_taken(tmp_path):
    columns = {"fine_label": NUMBERS, "coarse_label": [n % 2 for n in range(12)]}
    tar = shards(tmp_path / "tar", lambda n: sample(n, **{name: cells[n] for name, cells in columns.items()}))
    for spec in (parquet(tmp_path / "set", **columns), tar):
        unlabelled(spec, "fine_label, coarse_label may each be the class: --labels NAME")
        data = open_images(spec, labels="coarse_label")
        assert data.query.classes == data.support.classes == ("0", "1")
    tar = shards(tmp_path / "names", lambda n: sample(n, breed=WORDS[n], url="x"))
    for spec in (parquet(tmp_path / "breeds", breed=WORDS, url=["x"] * 12), tar):
        unlabelled(spec, "no (column|field) is called label; there are breed, url .--labels NAME")
        assert open_images(spec, labels="breed").query.classes == ("cat", "dog", "owl")
        with pytest.raises(UsageError, match=r"brede does not exist as a file.*there are breed, url"):
            open_images(spec, labels="brede")


def test_files_of_labels_in_shards(tmp_path):
    for name, suffix in (("cls", "cls"), ("text", "cls.txt")):
        spec = shards(tmp_path / name, lambda n, s=suffix: {f"s{n}.png": png(n), f"s{n}.{s}": WORDS[n].encode()})
        assert open_images(spec).query.classes == ("cat", "dog", "owl")
    spec = shards(tmp_path / "captions", lambda n: {f"s{n}.png": png(n), f"s{n}.txt": WORDS[n].encode()})
    assert unlabelled(spec, "there are txt").captions[0] == ("cat",)
    assert open_images(spec, labels="txt").query.classes == ("cat", "dog", "owl")


def test_folders_in_archives_of_images_alone_are_classes(tmp_path):
    data = open_images(shards(tmp_path / "tar", lambda n: {f"./set/{WORDS[n]}/{n}.png": png(n)}))
    assert (data.query.classes, numbers_of(data.query)) == (("cat", "dog", "owl"), THREE)
    assert "folders" in data.notes[0]
    spec = shards(tmp_path / "both", lambda n: {f"{('train', 'val')[n % 2]}/{WORDS[n]}/{n}.png": png(n)})
    unlabelled(spec, "folders called as splits, train, val: unpack")
    spec = shards(tmp_path / "dots", lambda n: {f"photo.v2.{n}.png": png(n)})
    with pytest.raises(DataError, match=r"photo.v2.11.png is the file v2.11.png of the sample photo"):
        open_images(spec)


def test_lists_of_names_are_titles_of_numbered_classes(tmp_path):
    spec = shards(tmp_path / "tar", lambda n: {f"s{n}.png": png(n), f"s{n}.cls": b"%d" % NUMBERS[n]})
    for name, lines, titles in (
        ("classnames.txt", "a cat\na dog\nan owl", ("a cat", "a dog", "an owl")),
        ("classnames.txt", "a cat\na dog\nan owl\nno image", ("a cat", "a dog", "an owl")),
        ("classnames.txt", "a cat\na dog", None),
        ("classes.txt", "a cat\na dog\nan owl\n", ("a cat", "a dog", "an owl")),
        ("labels.txt", "a cat\na dog\nan owl\nno image", None),  # may be a label for each image
        ("labels.txt", "2\n0\n1", None),
    ):
        (tmp_path / "tar" / name).write_text(lines)
        data = open_images(spec)
        assert data.query.class_titles == data.support.class_titles == titles
        assert open_images(f"{spec}/test").query.class_titles == titles
        (tmp_path / "tar" / name).unlink()
    spec = parquet(tmp_path / "from-1", label=[n + 1 for n in NUMBERS])
    (tmp_path / "from-1/classes.txt").write_text("a cat\na dog\nan owl\n")
    assert open_images(spec).query.class_titles == ("a cat", "a dog", "an owl")


def test_classes_of_a_metadata_file(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for n in range(6):
            (tmp_path / split / f"{n}é.png").write_bytes(png(n))
    name = unicodedata.normalize("NFD", "é.png")

    def write(header, line):
        for split in ("train", "test"):
            lines = "".join(f"{n},{n}{name},{line(n)}\n" for n in range(6))
            (tmp_path / split / "metadata.csv").write_text(f",file_name,{header}\n{lines}")
        return str(tmp_path)

    data = open_images(write("label", lambda n: WORDS[n]))
    assert (data.query.classes, numbers_of(data.query)) == (("cat", "dog", "owl"), [0, 1, 2] * 2)
    assert (data.support.classes, data.notes) == (data.query.classes, ())
    assert not hasattr(data.query, "targets")  # neither the class nor the number of the row is one
    two = write("fine_label,coarse_label,age", lambda n: f"{n % 3},{n % 2},{n / 2}")
    assert unlabelled(two, "may each be the class").targets.names == ("age",)
    assert open_images(two, labels="fine_label").query.classes == ("0", "1", "2")
    images = unlabelled(write("label", lambda n: 0.37 * n), "probe --targets numbers")
    assert images.targets.names == ("label",)
