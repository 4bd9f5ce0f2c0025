"""--labels: the forms in which ImageNet's labels come, and what cannot be mapped."""

import io

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
            r"no label for 3 of the 4 .*lists 1 images that are not there.*other\.JPEG",
        ),
        ("a.JPEG 0\nother.JPEG 1\n", "names none of the 4 images of ILSVRC2012/val: .*a.JPEG.*0000001.JPEG"),
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
