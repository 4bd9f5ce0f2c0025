"""Hugging Face datasets and published parquet folders."""

import io

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from visprobe.data.rows import BadRow, Turn
from visprobe.errors import DataError, UsageError
from visprobe.training.rows.hf import HuggingFaceRows, hf_rows, onevision_parquet


@pytest.fixture(autouse=True, scope="module")
def quiet(tmp_path_factory):
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("arrow")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = before


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def say(role, text):
    return {"role": role, "content": text}


RED, BLUE = (200, 0, 0), (0, 0, 200)
TWO = [
    {"images": [png(RED), png(BLUE)], "messages": [say("user", "Which?"), say("assistant", "Red.")]},
    {"images": [], "messages": [say("user", "2+2?"), say("assistant", "4")]},
]


def rows_of(records, **kinds):
    columns = {name: [record[name] for record in records] for name in records[0]}
    dataset = datasets.Dataset.from_dict(columns)
    for name, kind in kinds.items():
        dataset = dataset.cast_column(name, kind)
    return HuggingFaceRows(dataset, "set")


def test_messages_with_lists_of_images(colour_of):
    rows = rows_of(TWO, images=datasets.List(datasets.Image()))
    assert rows[0].turns == (Turn("user", "<image>\n<image>\nWhich?"), Turn("assistant", "Red."))
    assert [colour_of(rows.image(key)) for key in rows[0].images] == [RED, BLUE]
    assert rows[1].images == () and rows[1].turns[0].text == "2+2?"


def test_typed_content_and_a_single_image_column(colour_of):
    parts = [{"type": "text", "text": "Look:"}, {"type": "image", "text": None}]
    answer = [{"type": "text", "text": "A dog."}]
    record = {"image": png(BLUE), "prompt": [say("user", parts)], "chosen": [say("assistant", answer)]}
    record["rejected"] = [say("assistant", [{"type": "text", "text": "A cat."}])]
    rows = rows_of([record, {**record, "image": None}], image=datasets.Image())
    assert rows[0].turns == (Turn("user", "Look:<image>\n"),)
    assert (rows[0].chosen, rows[0].rejected) == ("A dog.", "A cat.")
    assert colour_of(rows.image(rows[0].images[0])) == BLUE
    with pytest.raises(BadRow, match="marks do not match the images: 1 and 0"):
        rows[1]


def test_images_as_paths_and_damaged_bytes(put_image, tmp_path, colour_of):
    put_image("a.png", kind="PNG", colour=RED)
    record = {"image": "a.png", "prompt": "What?", "chosen": "a", "rejected": "b"}
    paths = HuggingFaceRows(datasets.Dataset.from_list([record]), "set", tmp_path)
    assert colour_of(paths.image(paths[0].images[0])) == RED
    damaged = rows_of([{**record, "image": b"no image"}], image=datasets.Image())
    with pytest.raises(BadRow, match="unreadable image: set#0/0"):
        damaged.image(damaged[0].images[0])


def test_saved_folders_and_splits(tmp_path):
    one = datasets.Dataset.from_list([{"prompt": "a", "answer": "b"}])
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([0, 0])}).save_to_disk(str(tmp_path / "two"))
    assert len(hf_rows(str(tmp_path / "one"), split="train")) == 1
    assert len(hf_rows(str(tmp_path / "two"), split="test")) == 2
    assert hf_rows(str(tmp_path / "two"))[0].id == "two#0"
    with pytest.raises(UsageError) as caught:
        hf_rows(str(tmp_path / "two"), split="dev")
    assert caught.value.hint == "It has: train, test."


def test_the_hash_is_over_texts_without_decoding():
    first, same = (rows_of(TWO, images=datasets.List(datasets.Image())) for _ in range(2))
    other = rows_of([TWO[1], TWO[0]], images=datasets.List(datasets.Image()))
    assert first.content_hash() == same.content_hash() != other.content_hash()


def test_other_columns_are_named():
    with pytest.raises(DataError, match="has the columns caption"):
        rows_of([{"caption": "hi"}])


@pytest.fixture
def published(tmp_path):
    """Two subsets as LLaVA-OneVision-Data has them, one of text only; in one, two files."""
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}]
    text = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
    image, empty = {"bytes": png(RED), "path": "0.png"}, {"bytes": None, "path": None}
    subsets = {
        "chart(cauldron)/train-00000-of-00002": [{"id": "a", "image": image, "conversations": talk}],
        "chart(cauldron)/train-00001-of-00002": [{"id": "b", "image": image, "conversations": talk}] * 2,
        "magpie/train-00000-of-00001": [{"id": "c", "image": empty, "conversations": text}],
    }
    for name, rows in subsets.items():
        path = tmp_path / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{**row, "data_source": "src"} for row in rows]), path)
    return tmp_path / "data"


def test_published_parquet_folders(published, colour_of):
    rows = onevision_parquet(published)
    assert [rows[i].id for i in range(len(rows))] == [*(f"chart(cauldron)#{i}" for i in range(3)), "magpie#0"]
    assert rows[2].group == "src" and rows[2].turns[1] == Turn("assistant", "Red.")
    assert colour_of(rows.image(rows[2].images[0])) == RED
    assert rows[3].images == ()
    assert len(onevision_parquet(published / "magpie")) == 1


def test_damaged_and_absent_parquet(published):
    (published / "magpie" / "train-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="magpie"):
        onevision_parquet(published)
    with pytest.raises(DataError, match="no parquet"):
        onevision_parquet(published / "nothing")
