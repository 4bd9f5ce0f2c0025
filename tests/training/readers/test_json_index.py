"""Offsets of JSON records against json.load, at every place where a window can end."""

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from visprobe.errors import DataError
from visprobe.training.rows import json_index
from visprobe.training.rows.json_index import JsonIndex, find_starts

TRICKY = [
    {"text": 'braces { } [ ] , and a "quote" and a backslash \\'},
    {"text": "escapes \u00e9 \u4f60\u597d \U0001f600 \n\t"},
    {"deep": [[{"a": [{}, [], {"b": "]"}]}]]},
    {},
    {"n": [0, -1.5e-7, 12345678901234567890, True, None]},
    {"long": "x" * 200},
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def records(path, window, kind="array"):
    """What the index finds, restated: the bytes between two starts, less separators."""
    starts, data = find_starts(path, kind, window), path.read_bytes()
    pieces = [data[a:b].decode() for a, b in pairwise(starts)]
    return [json.JSONDecoder().raw_decode(piece)[0] for piece in pieces]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("window", [*range(1, 20), 64, 1 << 20])
def test_every_window_gives_the_records_of_json_load(tmp_path, window, indent, ascii_only):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(TRICKY, indent=indent, ensure_ascii=ascii_only))
    assert records(path, window) == json.loads(path.read_text())


@pytest.mark.thorough
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(values, max_size=6), window=st.integers(1, 64), indent=st.sampled_from([None, 1]))
def test_any_array_is_read_as_json_load_reads_it(tmp_path, rows, window, indent):
    path = tmp_path / "any.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert records(path, window) == rows


@pytest.mark.parametrize("text", ["[]", " [ ] ", "\ufeff[]"])
def test_an_empty_array_has_no_record(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert len(JsonIndex(path)) == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_json_lines_are_known_by_content_too(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": "\xe4\xbd\xa0"}\n{"a": 3}')
    index = JsonIndex(path)
    assert [index.record(i) for i in range(len(index))] == [{"a": 1}, {"a": "你"}, {"a": 3}]
    with pytest.raises(IndexError):
        index.record(3)
    with pytest.raises(IndexError):
        index.record(-1)


def test_a_damaged_line_costs_one_record(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 2} x\n{"a": "\xff"}\n{"a": 3}\n')
    index = JsonIndex(path)
    assert index.record(0) == {"a": 1} and index.record(4) == {"a": 3}
    for damaged in (1, 2, 3):
        with pytest.raises(ValueError):
            index.record(damaged)


@pytest.mark.parametrize(
    "text, reason",
    [
        ('[{"a": 1}, {"a"', "byte 11"),
        ('[{"a": 1} {"a": 2}]', "byte 10: expected , or ]"),
        ('[{"a": 1},]', "byte 10"),
        ('[{"a": 1}', "byte 1: the file ends"),
        ('[{"a": 1}] x', "after the end"),
        ("", "expected [, found the end"),
        ("not json", "expected [, found n"),
        ('{\n"a": 1}', "one JSON object"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_damaged_arrays_name_the_byte(tmp_path, text, reason):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        JsonIndex(path)
    assert reason in caught.value.message and str(path) in caught.value.message


def test_a_brace_that_never_closes_is_not_sought_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(json_index, "MAX_RECORD", 5_000)
    path = tmp_path / "rows.json"
    path.write_text('[{"a": "' + "x" * 2_000_000)
    tracemalloc.start()
    with pytest.raises(DataError):
        find_starts(path, "array", window=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000  # a tenth of the file; the window grows to about 10,000 characters


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        JsonIndex(tmp_path / "no.json")


def test_offsets_are_found_once_and_follow_the_content(tmp_path, cache, monkeypatch):
    first = tmp_path / "rows.json"
    first.write_text(json.dumps(TRICKY))
    assert len(JsonIndex(first)) == len(TRICKY)
    (kept,) = (cache / "json-index").iterdir()
    moved = first.rename(tmp_path / "other.json")
    monkeypatch.setattr(json_index, "find_starts", lambda *_: pytest.fail("found again"))
    assert JsonIndex(moved).record(2) == TRICKY[2]
    monkeypatch.undo()
    monkeypatch.setenv("VISPROBE_CACHE", str(cache))
    moved.write_text(json.dumps(TRICKY[:2]))
    assert len(JsonIndex(moved)) == 2
    kept.write_bytes(b"damaged")
    first.write_text(json.dumps(TRICKY))
    assert JsonIndex(first).record(5) == TRICKY[5]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "file"))
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(TRICKY))
    assert len(JsonIndex(path)) == len(TRICKY)


@pytest.mark.thorough
def test_rows_are_never_held_in_memory(tmp_path):
    path = tmp_path / "many.json"
    rows = 50_000
    path.write_text("[" + ",\n".join(json.dumps({"id": i, "text": "word " * 30}) for i in range(rows)) + "]")
    size = path.stat().st_size
    tracemalloc.start()
    starts = find_starts(path, "array", window=1 << 16)
    index = JsonIndex(path)
    assert [index.record(i)["id"] for i in range(0, rows, 997)] == list(range(0, rows, 997))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(starts) == rows + 1 and starts.dtype == np.int64
    # Offsets are 8 bytes a row, held at most three times (as they grow, and in two indices), beside one file
    # window of 4 MiB and its text; the rows as Python objects would be more than twice the file.
    assert size > 8_000_000
    assert peak < 3 * 8 * rows + 3 * json_index.WINDOW < 2 * size


def test_flipped_bits_in_the_kept_offsets_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    rows = [{"id": number, "text": "x" * number} for number in range(40)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    JsonIndex(path)
    [kept] = (tmp_path / "cache").rglob("*.npy")
    whole = kept.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        kept.write_bytes(damaged)
        index = JsonIndex(path)
        assert [index.record(number) for number in range(len(index))] == rows
