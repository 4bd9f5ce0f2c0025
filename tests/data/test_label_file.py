"""--labels: the forms in which ImageNet's labels come, and what cannot be mapped."""

import io
import json
import unicodedata

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from visprobe.data.open import open_images
from visprobe.errors import DataError, UsageError

WNIDS = ("n01440764", "n01443537", "n01484850")
IDS = ("n01484850", "n01440764", "n01443537")  # ids 1, 2, 3: not the sorted order
TRUTH = [WNIDS[1], WNIDS[0], WNIDS[2], WNIDS[1]]


def image(number):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def plant(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image(number))


@pytest.fixture
def ilsvrc(tmp_path):
    """A root with train/<wnid>, a flat val and the devkit's files beside."""
    root = tmp_path / "ILSVRC2012"
    plant(root, [f"train/{wnid}/{wnid}_1.JPEG" for wnid in WNIDS])
    plant(root, [f"val/ILSVRC2012_val_0000000{n}.JPEG" for n in range(1, 5)])
    dtype = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")]
    rows = [(number, wnid, 0) for number, wnid in enumerate(IDS, start=1)] + [(4, "n00001740", 3)]
    savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=dtype)})
    (root / "synset_words.txt").write_text("".join(f"{wnid} fish {wnid[-1]}, more\n" for wnid in WNIDS))
    return root


def given(images):
    return [images.classes[item.label] for item in images.items]


NAMES = [f"ILSVRC2012_val_0000000{n}" for n in range(1, 5)]
FORMS = {
    "ids of the devkit": "".join(f"{IDS.index(wnid) + 1}\n" for wnid in TRUTH),
    "wnid per line": "".join(f"{wnid}\n" for wnid in TRUTH),
    "caffe": "".join(f"{n}.JPEG {WNIDS.index(w)}\n" for n, w in zip(NAMES, TRUTH, strict=True)),
    "file and wnid, another order": "".join(
        f"val/{n}.JPEG\t{w}\r\n" for n, w in reversed(list(zip(NAMES, TRUTH, strict=True)))
    ),
    "csv without header": "".join(f"{n}.JPEG,{w}\n" for n, w in zip(NAMES, TRUTH, strict=True)),
    "csv with header": "file_name,split,label\n"
    + "".join(f"{n}.JPEG,val,{w}\n" for n, w in zip(NAMES, TRUTH, strict=True)),
    "kaggle": "ImageId,PredictionString\n"
    + "".join(f"{n},{w} 85 1 499 272 {w} 0 0 9 9\n" for n, w in zip(NAMES, TRUTH, strict=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_classes(ilsvrc, form):
    (ilsvrc / "labels.txt").write_text(FORMS[form])
    data = open_images(str(ilsvrc), labels=ilsvrc / "labels.txt")
    assert data.query.classes == data.support.classes == WNIDS
    assert given(data.query) == TRUTH
    assert data.query.class_titles == data.support.class_titles == tuple(f"fish {w[-1]}, more" for w in WNIDS)
    assert data.notes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\n3\n", "3 lines for the 4 images"),
        ("1\n2\n2\n1\n", "classes 1 to 2 of 3: they may count from 0 or from 1"),
        ("1\n2\n3\n9\n", "class 9; the list beside it ends at 3"),
        ("0\n1\n2\n3\n", "class 3; the list beside it ends at 2"),
        ("n1\nn2\nn2\nn2\n", "2 classes of .* are not among the 3 of the training images, the first 'n1'$"),
        (
            f"{NAMES[0]}.JPEG 0\nother.JPEG 1\n",
            r"no label for 3 of the 4 .*lists 1 of 2 images that are not there.*other\.JPEG",
        ),
        ("a.JPEG 0\nother.JPEG 1\n", "does not name the 4 images of ILSVRC2012/val: .*a.JPEG.*0000001.JPEG"),
        (f"{NAMES[0]}.JPEG 0\n{NAMES[2]}.JPEG 1\n", f"no label for 2 of the 4 .* first {NAMES[1]}"),
        (f"{NAMES[0]}.JPEG 0\n{NAMES[0]}.JPEG 1\n", f"gives {NAMES[0]}.JPEG the classes 0 and 1"),
        (f"{NAMES[0]}.JPEG 0\n1\n", "row 2 has 1 fields and the first 2: '1'"),
        ("", "is empty"),
        (f"{NAMES[0]}.JPEG,0\n{NAMES[1]}.JPEG\n", "row 2 has 1 fields"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(ilsvrc, text, message):
    (ilsvrc / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        open_images(str(ilsvrc), labels=ilsvrc / "labels.txt")
    assert error.value.hint


@pytest.mark.parametrize(("form", "needed"), [("ids of the devkit", "meta.mat"), ("caffe", "synset_words.txt")])
def test_numbers_need_their_list(ilsvrc, form, needed):
    (ilsvrc / "labels.txt").write_text(FORMS[form])
    (ilsvrc / needed).unlink()
    with pytest.raises(DataError, match="has numbers, the training images have class names") as error:
        open_images(str(ilsvrc), labels=ilsvrc / "labels.txt")
    assert needed in error.value.hint
    (ilsvrc / "meta.mat").write_bytes(b"no matrix")
    if needed == "meta.mat":
        with pytest.raises(DataError, match=r"meta.mat cannot be read"):
            open_images(str(ilsvrc), labels=ilsvrc / "labels.txt")


def test_without_train_numbers_are_classes_in_the_order_of_numbers(ilsvrc):
    (ilsvrc / "labels.txt").write_text("10\n9\n10\n2\n")
    data = open_images(str(ilsvrc / "val"), labels=ilsvrc / "labels.txt")
    assert data.query.classes == ("2", "9", "10")
    assert given(data.query) == ["10", "9", "10", "2"]


def test_images_with_classes_and_missing_files_are_refused(ilsvrc):
    with pytest.raises(UsageError, match="have classes already"):
        open_images(str(ilsvrc), split="train", labels=ilsvrc / "meta.mat")
    with pytest.raises(UsageError, match="does not exist"):
        open_images(str(ilsvrc), labels=ilsvrc / "absent.txt")
    with pytest.raises(DataError, match="no text in UTF-8"):
        (ilsvrc / "labels.bin").write_bytes(b"\x89PNG\x00\xff")
        open_images(str(ilsvrc), labels=ilsvrc / "labels.bin")


def test_a_flat_val_beside_classes_is_unlabelled_and_said_so(ilsvrc):
    data = open_images(str(ilsvrc))
    assert data.query.classes is None
    assert data.notes == ("ILSVRC2012/val has no classes; --labels FILE gives them",)


@pytest.mark.parametrize("start", ["", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_layout_needs_no_option(tmp_path, start):
    root = tmp_path / "kaggle"
    data = root / "ILSVRC/Data/CLS-LOC"
    plant(data, [f"train/{w}/{w}_1.JPEG" for w in WNIDS] + [f"val/{n}.JPEG" for n in NAMES] + ["test/t.JPEG"])
    (root / "LOC_val_solution.csv").write_text(FORMS["kaggle"])
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{w} name of {w}\n" for w in WNIDS))
    found = open_images(str(root / start))
    assert given(found.query) == TRUTH
    assert [item.label for item in found.support.items] == [0, 1, 2]
    assert found.query.class_titles == tuple(f"name of {w}" for w in WNIDS)
    assert open_images(str(root / start), split="test").query.classes is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "n01440764\ttench, Tinca tinca\nn99999999\tother\n"),
        ("imagenet_class_index.json", '{"0": ["n01440764", "tench,_Tinca_tinca"]}'),
    ],
)
def test_titles_of_classes(ilsvrc, name, text):
    (ilsvrc / "synset_words.txt").unlink()
    (ilsvrc / name).write_text(text)
    assert open_images(str(ilsvrc)).support.class_titles == ("tench, Tinca tinca", *WNIDS[1:])


def test_class_folders_and_suffixes_of_ilsvrc_work_as_they_stand(tmp_path):
    plant(tmp_path, [f"{split}/{w}/{w}_1.JPEG" for split in ("train", "val") for w in WNIDS])
    data = open_images(str(tmp_path))
    assert given(data.query) == given(data.support) == list(WNIDS)


CLASSES = ("10", "blue sky", "café")
PAIRS = [(f"photo_{n}.JPEG", CLASSES[n % 3]) for n in range(6)]


def csv(rows, mark=",", header=("file", "label")):
    return "".join(f"{mark.join(row)}\n" for row in ([header] if header else []) + rows)


KINDS = {
    "index of pandas": csv([(str(n), *row) for n, row in enumerate(PAIRS)], header=("", "file", "label")),
    "index of pandas, named": csv([(str(n), *row) for n, row in enumerate(PAIRS)], header=("Unnamed: 0", "id", "y")),
    "semicolons": csv(PAIRS, ";"),
    "bars": csv(PAIRS, "|"),
    "tabs without header": csv(PAIRS, "\t", header=None),
    "other names": csv(PAIRS, header=("img", "target")),
    "label first": csv([row[::-1] for row in PAIRS], header=("label", "file")),
    "label first, no header": csv([row[::-1] for row in PAIRS], header=None),
    "blanks in classes": csv(PAIRS, " ", header=None),
    "label first, blanks": csv([row[::-1] for row in PAIRS], " ", header=None),
    "quotes and CRLF": csv([(f'"{file}"', f'"{label}"') for file, label in PAIRS]).replace("\n", "\r\n"),
    "old Mac": csv(PAIRS).replace("\n", "\r"),
    "comments and blanks": "# by hand\n\n" + csv([(f" {file} ", f" {label} ") for file, label in PAIRS]),
    "paths of another machine": csv([(f"/data/x/val/{file}", label) for file, label in PAIRS], " ", header=None),
    "paths of Windows": csv([(f"C:\\data\\val\\{file}", label) for file, label in PAIRS]),
    "no suffix": csv([(file.split(".")[0], label) for file, label in PAIRS]),
    "another suffix": csv([(file.replace("JPEG", "jpg"), label) for file, label in PAIRS]),
    "more columns": csv([(file, "val", label, "3") for file, label in PAIRS], header=("file", "split", "class", "w")),
    "more columns, none known": csv([(file, "val", label) for file, label in PAIRS], header=("file", "a", "b")),
    "twice the same": csv(PAIRS + PAIRS),
    "decomposed": unicodedata.normalize("NFD", csv(PAIRS)),
    "another order": csv(PAIRS[::-1]),
    "JSON": json.dumps(dict(PAIRS)),
    "JSON, nested": json.dumps({"labels": PAIRS}),
    "JSON of records": json.dumps([{"image": file, "category": label} for file, label in PAIRS]),
    "JSON of records by file": json.dumps({file: {"class": label, "score": 0.5} for file, label in PAIRS}),
    "JSON by columns": json.dumps({"file": [f for f, _ in PAIRS], "label": [label for _, label in PAIRS]}),
    "JSON in order": json.dumps([label for _, label in PAIRS]),
    "lines of JSON": "".join(json.dumps({"file": file, "label": label}) + "\n" for file, label in PAIRS),
    "lines": "".join(f"{label}\n" for _, label in PAIRS),
    "a column in order": csv([(str(n), label) for n, (_, label) in enumerate(PAIRS)], header=("", "label")),
}


@pytest.fixture
def photos(tmp_path):
    plant(tmp_path, [f"train/{name}/1.png" for name in CLASSES] + [f"val/{file}" for file, _ in PAIRS])
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_as_people_have_them(photos, kind, encoding):
    (photos / "labels").write_bytes(KINDS[kind].encode(encoding))
    data = open_images(str(photos), labels=photos / "labels")
    assert given(data.query) == [label for _, label in PAIRS]
    assert (data.query.classes, data.notes) == (CLASSES, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (csv([(file, f"{label}, big") for file, label in PAIRS]), "row 2 has 3 fields and the first 2"),
        (csv([(file, str(0.37 * n)) for n, (file, _) in enumerate(PAIRS)]), "label, holds decimal numbers"),
        (csv([(file, "cat|dog") for file, _ in PAIRS]), "label, holds several labels"),
        (json.dumps({file: ["cat", "dog"] for file, _ in PAIRS}), "label, holds several labels"),
        (csv([(file, "a", "b") for file, _ in PAIRS], header=("file", "x", "z")), "columns file, x, z: which"),
        (csv([(file, f"{n % 3}.0") for n, (file, _) in enumerate(PAIRS)]), "labels, label, has numbers"),
        (csv([(f"other_{file}", label) for file, label in PAIRS]), "does not name the 6 images.*photo_0"),
        (csv([(file, "-1") for file, _ in PAIRS]), "no label for 6 of the 6"),
        (csv([(file, "Blue_Sky") for file, _ in PAIRS]), r"'Blue_Sky' \(there is 'blue sky'\)"),
        (csv([*PAIRS, (PAIRS[0][0], "café")]), "gives photo_0.JPEG the classes 10 and café"),
        ('{"a": [1], "b": 2', "neither JSON nor lines of JSON"),
        ("[]", "is empty"),
        ('[1, {"file": "a"}]', "mixes records and values"),
        ('{"file": ["a"], "label": [1, 2]}', "no columns of one table"),
        ('"a', "does not name|lines for"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(photos, text, words):
    (photos / "labels").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        open_images(str(photos), labels=photos / "labels")
    assert error.value.hint


def test_files_that_are_not_there_are_counted(photos):
    (photos / "labels").write_text(csv([*PAIRS, ("gone.JPEG", "café")]))
    data = open_images(str(photos), labels=photos / "labels")
    assert data.notes == ("labels lists 1 of 7 images that are not there, first gone.JPEG",)


def test_the_list_that_numbers_need_helps(photos):
    text = csv([(file, f"{CLASSES.index(label)}.0") for file, label in PAIRS])
    (photos / "labels").write_text(text)
    (photos / "classnames.txt").write_text("\n".join(CLASSES))
    assert given(open_images(str(photos), labels=photos / "labels").query) == [label for _, label in PAIRS]


def test_numbers_are_the_folders_called_so(tmp_path):
    plant(tmp_path, [f"train/{n:05d}/1.png" for n in range(3)] + [f"val/{n:05d}.png" for n in range(3)])
    (tmp_path / "labels").write_text("Filename;Width;ClassId\n" + "".join(f"{n:05d}.png;4;{2 - n}\n" for n in range(3)))
    assert given(open_images(str(tmp_path), labels=tmp_path / "labels").query) == ["00002", "00001", "00000"]


def test_names_in_several_folders_are_told_by_their_paths(tmp_path):
    plant(tmp_path / "set", [f"{place}{n}.png" for place in ("a/", "b/", "") for n in range(2)])
    ends = ("/x/a/0.png,1\n/x/a/1.png,1\n", "b/0.png,2\nb/1.png,2\n")
    (tmp_path / "labels").write_text("".join(ends) + "0.png,3\n1.png,3\n")
    assert given(open_images(str(tmp_path / "set"), labels=tmp_path / "labels").query) == ["3", "3", "1", "1", "2", "2"]
    (tmp_path / "set/0.png").rename(tmp_path / "set/9.png")
    with pytest.raises(DataError, match=r"0\.png fits several"):
        open_images(str(tmp_path / "set"), labels=tmp_path / "labels")
