"""Damaged GGUF headers: one CheckpointError, and no tensor that lies in another one or beside its place."""

import random
import struct
import time

import gguf
import numpy as np
import pytest
import torch
from test_damaged_bin import mutated

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.gguf_file import GgufFile

STATE = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.weight": np.linspace(0, 1, 10, dtype=np.float16).reshape(2, 5),
    "c": np.arange(3, dtype=np.float32),
}
STARTS = {"a.weight": 0, "b.weight": 64, "c": 96}  # 48, 20 and 12 bytes, each filled up to a multiple of 32


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "x.gguf")


def written(path, alignment=None):
    writer = gguf.GGUFWriter(path, arch="clip")
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, values in STATE.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    opened = GgufFile(LocalFolder(path.parent), path.name)
    return opened.read_many(opened)


def moved(path, name, offset):
    """Let the header say that tensor `name` begins at byte `offset` of the data."""
    data = bytearray(path.read_bytes())
    shape, kind = STATE[name].shape, 1 if STATE[name].dtype == np.float16 else 0
    before = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
    before += struct.pack(f"<{len(shape)}QI", *reversed(shape), kind)
    at = data.index(before) + len(before)
    assert struct.unpack_from("<Q", data, at) == (STARTS[name],)
    struct.pack_into("<Q", data, at, offset)
    path.write_bytes(data)


def test_an_undamaged_file(file):
    assert {name: values.tolist() for name, values in read(file).items()} == {k: v.tolist() for k, v in STATE.items()}


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("b.weight", 0),
        ("c", 64),
        ("b.weight", 32),
        ("c", 0),
        ("b.weight", 48),
        ("b.weight", 63),
        ("c", 100),
        ("c", 128),
    ],
    ids=["another's", "another's too", "overlap", "the first's", "in padding", "unaligned", "unaligned too", "a gap"],
)
def test_offsets_that_are_not_those_of_the_layout(file, name, offset):
    with file.open("ab") as stream:
        stream.write(bytes(256))  # so that none of them ends after the file
    moved(file, name, offset)
    with pytest.raises(CheckpointError, match=r"tensor '.*' begins at byte \d+, not \d+"):
        read(file)


def test_another_alignment(file):
    """Said by the file itself, and kept: the same bytes under another alignment are another layout."""
    written(file, 64)
    assert torch.equal(read(file)["c"], torch.from_numpy(STATE["c"]))
    data = file.read_bytes()
    at = data.index(b"general.alignment") + len("general.alignment") + 4
    for alignment in (32, 0, 1, 2**31):
        file.write_bytes(data[:at] + struct.pack("<I", alignment) + data[at + 4 :])
        with pytest.raises(CheckpointError):
            read(file)


def test_1000_mutations(file):
    data, draw, refused, start = file.read_bytes(), random.Random(0), 0, time.monotonic()
    header = GgufFile(LocalFolder(file.parent), file.name).bytes_read
    for n in range(1000):
        if n % 2:
            broken = bytearray(data)
            for at in draw.sample(range(header), draw.randint(1, 4)):
                broken[at] = draw.randrange(256)
        else:
            broken = mutated(data, draw)
        file.write_bytes(broken)
        try:
            found = read(file)
        except CheckpointError as error:
            refused += 1
            assert error.hint and "\n" not in error.message
        else:  # a name or a key that nobody reads; or a type of the same size, which no header can betray
            assert all(values.numel() * values.element_size() <= len(data) for values in found.values())
    assert refused > 500 and time.monotonic() - start < 30
