"""What is there decides how it is read; where nothing is, the error says what was found."""

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from visprobe.cli.training.data import app
from visprobe.errors import DataError
from visprobe.training.rows.open import open_rows

ROW = {"prompt": "q", "answer": "a"}


@pytest.fixture
def everything(put_json, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    put_json("rows.json", [ROW])
    put_json("rows.jsonl", [ROW])
    (tmp_path / "mix.yaml").write_text("datasets: [{json_path: rows.json}]")
    (tmp_path / "mmpr").mkdir()
    put_json("mmpr/meta.json", {"a": {"root": "images", "annotation": "a.jsonl"}})
    put_json("mmpr/a.jsonl", [ROW])
    (tmp_path / "parquet").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), tmp_path / "parquet" / "train.parquet")
    datasets.Dataset.from_list([ROW]).save_to_disk(str(tmp_path / "saved"))
    return tmp_path


@pytest.mark.parametrize(
    "spec", ["rows.json", "rows.jsonl", "{rows,rows}.json", "mix.yaml", "mmpr", "parquet", "saved"]
)
def test_every_format_is_known_by_what_is_there(everything, spec):
    rows = open_rows(str(everything / spec))
    assert len(rows) == 1 + spec.startswith("{")
    assert rows[0].turns[0].text == "q" and rows[0].answer == "a"
    assert len(rows.content_hash()) == 64 and rows.name


def test_the_built_in_scenes():
    rows = open_rows("digits", seed=1)
    assert rows[0].chosen and rows.image(rows[0].images[0]).mode == "RGB"


def test_what_cannot_be_read_is_named(everything):
    (everything / "empty").mkdir()
    (everything / "photos").mkdir()
    (everything / "photos" / "dog.jpg").write_bytes(b"")
    (everything / "rows.csv").write_text("")
    for spec, found in [
        ("empty", "only: nothing"),
        ("photos", "only: dog.jpg"),
        ("rows.csv", "a .csv file"),
        ("gone/", "does not exist"),
        ("gone.json", "cannot read"),
    ]:
        with pytest.raises(DataError) as caught:
            open_rows(f"{everything}/{spec}")
        assert found in caught.value.message and caught.value.hint


def test_the_command_writes_rows_and_says_what_was_left_out(put_image, put_json, tmp_path):
    put_image("mmpr/images/0.jpg")
    pair = {"question": "q", "chosen": "a", "rejected": "b"}
    put_json("mmpr/a.jsonl", [{"image": "0.jpg", **pair}, {"image": "1.jpg", **pair}])
    put_json("mmpr/meta.json", {"a": {"root": "images", "annotation": "a.jsonl"}})
    out = tmp_path / "out"
    ran = CliRunner().invoke(app, ["mmpr", str(tmp_path / "mmpr"), "-o", str(out), "--size", "5", "--quiet"])
    assert ran.exit_code == 0
    assert "1 rows kept of 2 looked at" in ran.stdout and "1  left out: missing image" in ran.stdout
    assert "only 1 rows could be kept" in ran.stderr and "--tokenizer" in ran.stderr
    names = sorted(path.name for path in out.iterdir())
    assert names == ["dpo_mmpr_5_777.jsonl", "mmpr_5_777.json", "sft_mmpr_5_777.jsonl"]
    assert len(open_rows(str(out / names[0]), tmp_path / "mmpr")) == 1
