"""Reading tensors by byte range: equal to safetensors, no byte more than needed, every damage named."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_tensors

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
    "d": torch.tensor([[True, False]]),
    "e": torch.linspace(0, 1, 5, dtype=torch.float16),
    "f": torch.arange(4, dtype=torch.uint8),
    "g": torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn),
}


def opened(folder):
    return open_tensors(LocalFolder(folder))


@pytest.fixture
def folder(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_every_dtype_and_shape_is_read_as_stored(folder):
    index = opened(folder)
    assert set(index) == set(TENSORS)
    for name, tensor in TENSORS.items():
        read = index.read(name)
        assert read.dtype == tensor.dtype
        assert read.shape == tensor.shape == index[name].shape
        assert read.nbytes == index[name].nbytes
        assert torch.equal(
            read.view(torch.uint8) if read.dim() else read, tensor.view(torch.uint8) if tensor.dim() else tensor
        )
    assert index["b"].file == str(folder / "model.safetensors")


def test_bytes_read_are_headers_and_tensors_asked_for(folder):
    index = opened(folder)
    size = (folder / "model.safetensors").stat().st_size
    header = size - sum(tensor.nbytes for tensor in TENSORS.values())
    assert index.bytes_read == header
    index.read_many(["a", "e"])
    assert index.bytes_read == header + 24 + 10


def rchar():
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts by the kernel are a Linux feature")
def test_the_kernel_counts_the_same_bytes(tmp_path):
    save_file({"big": torch.zeros(10_000_000), "small": torch.zeros(1_000_000)}, tmp_path / "model.safetensors")
    before = rchar()
    opened(tmp_path).read("small")
    assert 4_000_000 <= rchar() - before < 4_050_000  # the tensor, a header, and /proc/self/io itself


def test_shards_are_read_through_their_index(tmp_path):
    write_shards(tmp_path)
    index = opened(tmp_path)
    read = index.read_many(TENSORS)
    assert all(torch.equal(read[name], TENSORS[name]) for name in ("a", "b", "c", "e"))
    assert {Path(index[name].file).name for name in TENSORS} == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def write_shards(folder):
    files = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for n, file in enumerate(files):
        save_file({k: TENSORS[k] for k in sorted(TENSORS)[n::2]}, folder / file)
    weight_map = {name: files[n % 2] for n, name in enumerate(sorted(TENSORS))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_a_single_file_wins_over_an_index_as_in_transformers(folder):
    (folder / "model.safetensors.index.json").write_text("damaged")
    assert len(opened(folder)) == len(TENSORS)


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message):
        opened(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_damaged_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    refused(tmp_path, r"is not an index of shards|index\.json (is not JSON|holds no JSON object)")


def test_index_that_points_outside_its_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    refused(tmp_path, "not a file below its folder")


def test_index_that_promises_more_than_its_shards_hold(tmp_path):
    weight_map = write_shards(tmp_path) | {"z": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path, "promises 1 tensors .*'z'")


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, "truncated|promises")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1]",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.5, 4.5]}}',
        b'{"a": {"shape": [1], "data_offsets": [0, 4]}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_damaged_header(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refused(tmp_path, "damaged header")


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_checkpoint_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", max(len(data) - 4, 0)) + data)
    try:
        opened(folder)
    except CheckpointError as error:
        assert error.hint


def test_tensors_that_cannot_be_read(tmp_path):
    header = {"empty": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
              "none": {"dtype": "F32", "shape": [1, 0, 4], "data_offsets": [0, 0]},
              "odd": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}  # fmt: skip
    raw = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(1))
    index = opened(tmp_path)
    assert index.read("none").shape == (1, 0, 4)  # registers of a tower that has none: nothing is missing
    for name, message in (("empty", "no elements"), ("odd", "unknown type 'F4'"), ("gone", "has no tensor 'gone'")):
        with pytest.raises(CheckpointError, match=message):
            index.read(name)


def test_a_file_that_shrinks_while_it_is_read(folder):
    index = opened(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="ends before byte"):
        index.read_many(TENSORS)
