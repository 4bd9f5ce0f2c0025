"""MMPR: the reader, and the paper's subset against a restatement of its procedure."""

import json
import random
from collections import Counter

import pytest

from visprobe.errors import DataError, UsageError
from visprobe.training.rows.llava import llava_json
from visprobe.training.rows.mmpr import NO_LIMIT, mmpr, mmpr_subset

SIZE = 25


@pytest.fixture(params=["", "MMPR-v1.2/"], ids=["paths from the folder", "paths from above it"])
def folder(request, put_image, put_json, tmp_path):
    """Three annotation files with what the real ones hold; every row's texts are its own."""
    root = "MMPR-v1.2/images"
    for i in range(40):
        put_image(f"{root}/a/{i}.jpg")
        put_image(f"{root}/b/é{i}.png", kind="PNG")
    a = [{"image": f"{i}.jpg", **texts(f"a{i}")} for i in range(40)]
    a[3]["image"], a[4]["image"], a[5]["image"], a[6]["image"] = "3.gif", "gone.jpg", "5.webp", None
    del a[7]["image"]
    a[8]["chosen"], a[9]["rejected"] = "see <image>", "see <image>"
    a[10]["question"] = "<image>\nalready marked a10"
    a[11]["chosen"] = "long " * 50
    b = [{"image": f"é{i}.png", **texts(f'b{i} says "image": [x]')} for i in range(40)]
    b[20]["image"] = ["é20.png", "é21.png"]
    c = [{"image": ["x.jpg"], **texts("c0")}, {"image": "0.jpg", **texts("c1")}]
    meta = {}
    for name, rows in {"a": a, "b": b, "c": c}.items():
        put_json(f"MMPR-v1.2/annotations/{name}.jsonl", rows)
        where = {"root": f"{request.param}images/{name}", "annotation": f"{request.param}annotations/{name}.jsonl"}
        meta[name] = {**where, "data_augment": False, "repeat_time": 1, "length": len(rows)}
    put_json("MMPR-v1.2/meta.json", meta)
    return tmp_path / "MMPR-v1.2"


def texts(name):
    return {"question": f"what is {name}", "chosen": f"good {name}", "rejected": f"bad {name}"}


def restated(folder, size, seed, too_long=lambda text: False):
    """The published procedure on lists in memory, with stops turned into skips."""
    items = []
    for name in "abc":
        for line in (folder / "annotations" / f"{name}.jsonl").read_text().splitlines():
            item = json.loads(line)
            if isinstance(item.get("image"), list):
                break
            items.append((item, f"images/{name}"))
    random.seed(seed)
    random.shuffle(items)
    out = []
    for item, root in items:
        image = item.get("image")
        if image is None:
            continue
        image = image[:-4] + ".jpg" if image.endswith(".gif") else image
        if not image.endswith((".jpg", ".jpeg", ".png")) or not (folder / root / image).exists():
            continue
        stem = image.rsplit("/")[-1].rsplit(".", 1)[0]
        row_id = f"{root.rsplit('/')[-1]}-{stem}-{random.randint(10**4, 10**5 - 1)}"
        prompt = item["question"] if "<image>" in item["question"] else f"<image>\n{item['question']}"
        if "<image>" in item["chosen"] + item["rejected"] or too_long(f"{prompt} {item['chosen']}"):
            continue
        out.append((row_id, f"{root}/{image}", prompt, item["chosen"], item["rejected"]))
        if len(out) == size:
            break
    return out


def drawn(subset):
    return [tuple(r[name] for name in ("id", "image", "prompt", "chosen", "rejected")) for r in subset.records]


@pytest.mark.parametrize("seed", [777, 1111])
def test_the_subset_is_that_of_the_published_procedure(folder, seed):
    assert drawn(mmpr_subset(folder, size=SIZE, seed=seed)) == restated(folder, SIZE, seed)


def test_every_row_left_out_has_a_reason(folder):
    subset = mmpr_subset(folder, size=1000)
    assert subset.manifest["kept"] == 54 and subset.manifest["looked_at"] == 60
    assert subset.manifest["left_out"] == {
        "no image": 2,
        "<image> in an answer": 2,
        "missing image": 1,
        "image type other than jpg, jpeg, png": 1,
    }
    rows = {
        a["annotation"].rsplit("/")[-1]: (a["rows"], a["before_image_lists"]) for a in subset.manifest["annotations"]
    }
    assert rows == {"a.jsonl": (40, 40), "b.jsonl": (40, 20), "c.jsonl": (2, 0)}
    assert any(r["image"] == "images/a/3.jpg" and r["prompt"].endswith("a3") for r in subset.records)  # was a .gif
    assert subset.manifest["max_tokens"] == NO_LIMIT and subset.manifest["tokenizer"] is None


def test_seed_decides(folder):
    assert drawn(mmpr_subset(folder, size=SIZE, seed=1)) == drawn(mmpr_subset(folder, size=SIZE, seed=1))
    assert drawn(mmpr_subset(folder, size=SIZE, seed=1)) != drawn(mmpr_subset(folder, size=SIZE, seed=2))


def test_the_token_limit(folder, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(tmp_path / "words")
    subset = mmpr_subset(folder, size=1000, max_tokens=20, tokenizer=tmp_path / "words")
    assert drawn(subset) == restated(folder, 1000, 777, lambda text: len(text.split()) > 20)
    assert subset.manifest["left_out"]["more than 20 tokens"] == 1
    assert (subset.manifest["max_tokens"], subset.manifest["tokenizer"]) == (20, "words")
    exactly = mmpr_subset(folder, size=1000, max_tokens=6, tokenizer=tmp_path / "words")  # most rows of a: 6 words
    assert drawn(exactly) == restated(folder, 1000, 777, lambda text: len(text.split()) > 6) != []
    with pytest.raises(UsageError, match="cannot read a tokenizer"):
        mmpr_subset(folder, tokenizer=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("limits", "gone", "reasons"),
    [
        ({"no_thought": True}, "b0 b1 b2", {"a thought in an answer": 3}),
        ({"max_words": 29}, "a11 b2 b3 b4", {"an answer of more than 29 words": 4}),
        (
            {"no_thought": True, "max_words": 29},
            "a11 b0 b1 b2 b3 b4",
            {"a thought in an answer": 3, "an answer of more than 29 words": 3},
        ),
    ],
    ids=str,
)
def test_rows_with_a_thought_or_many_words_can_be_left_out(folder, put_json, limits, gone, reasons):
    """Planted in either answer; the rows that stay keep their ids and their order."""
    rows = [json.loads(line) for line in (folder / "annotations" / "b.jsonl").read_text().splitlines()]
    rows[0]["chosen"], rows[1]["rejected"] = "<think>\nhm\n</think> 3", "hm </think> 3"
    rows[2]["chosen"] = f"<think> {'hm ' * 40}</think> 3"
    rows[3]["chosen"], rows[4]["rejected"] = "word " * 30, "word\n" * 30
    rows[5]["chosen"], rows[6]["chosen"] = "word " * 29, "I think so"  # these stay
    put_json("MMPR-v1.2/annotations/b.jsonl", rows)
    whole, subset = mmpr_subset(folder, size=1000), mmpr_subset(folder, size=1000, **limits)
    left = {row[2].split()[3] for row in drawn(whole)} - {row[2].split()[3] for row in drawn(subset)}
    assert left == set(gone.split())
    assert drawn(subset) == [row for row in drawn(whole) if row[2].split()[3] not in left]
    assert subset.manifest["left_out"] == {**whole.manifest["left_out"], **reasons}
    defaults = {"max_words": None, "no_thought": False}
    assert [{key: one.manifest[key] for key in defaults} for one in (whole, subset)] == [defaults, defaults | limits]


def test_limits_that_leave_nothing_are_refused(folder):
    with pytest.raises(UsageError, match="answers of at most 0 words"):
        mmpr_subset(folder, max_words=0)
    with pytest.raises(DataError, match="an answer of more than 1 words") as error:
        mmpr_subset(folder, max_words=1)
    assert "lift the limit" in error.value.hint


def test_written_files_hold_the_same_rows_for_both_arms(folder, tmp_path):
    paths = mmpr_subset(folder, size=SIZE).write(tmp_path / "out")
    assert paths["sft"].name == "sft_mmpr_25_777.jsonl" and paths["dpo"].name == "dpo_mmpr_25_777.jsonl"
    sft, dpo = (llava_json(paths[kind], folder) for kind in ("sft", "dpo"))
    assert len(sft) == len(dpo) == SIZE
    for i in range(SIZE):
        assert sft[i].images == dpo[i].images and sft[i].turns[0] == dpo[i].turns[0]
        assert sft[i].turns[1].text == dpo[i].chosen != dpo[i].rejected
        assert dpo.image(dpo[i].images[0]).size == (12, 8)
    manifest = json.loads(paths["manifest"].read_text())
    assert set(manifest["sha256"]) == {paths["sft"].name, paths["dpo"].name}
    again = mmpr_subset(folder, size=SIZE).write(tmp_path / "again")
    assert again["dpo"].read_bytes() == paths["dpo"].read_bytes()


def test_the_reader_gives_every_row_as_published(folder):
    rows = mmpr(folder)
    assert len(rows) == 82
    assert rows[0].turns[0].text == "<image>\nwhat is a0" and rows[0].chosen == "good a0"
    assert Counter(rows[i].group for i in (0, 39, 40, 81)) == {"a": 2, "b": 1, "c": 1}
    assert rows.image(rows[41].images[0]).mode == "RGB"


def test_an_incomplete_mmpr_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="no row"):
        for image in (folder / "images").rglob("*.*g"):
            image.unlink()
        mmpr_subset(folder)
    (folder / "annotations" / "b.jsonl").unlink()
    with pytest.raises(DataError, match="1 of 3 annotation files are missing"):
        mmpr(folder)
    (folder / "meta.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"meta\.json"):
        mmpr(folder)
    with pytest.raises(UsageError):
        mmpr_subset(folder, size=0)
