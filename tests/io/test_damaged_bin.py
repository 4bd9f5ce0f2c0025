"""Damaged files of torch.save: each is one CheckpointError or reads back to the bit; nothing else, and no hang."""

import io
import pickle
import pickletools
import random
import resource
import struct
import time
import zipfile

import pytest
import torch

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_tensors

BASE = torch.arange(40, dtype=torch.float32).reshape(5, 8)
STATE = {
    "model": {
        "a.weight": BASE,
        "a.view": BASE[1:3, 2:],
        "b.weight": torch.linspace(0, 1, 30).to(torch.bfloat16).reshape(3, 10),
        "c.bias": torch.nn.Parameter(torch.ones(7)),
        "c.count": torch.tensor(5),
        "d": torch.ones(4).to(torch.float8_e4m3fn),
    },
    "step": 3,
}


def mutated(data, rng):
    """`data` with bits flipped, bytes replaced, a part cut out, doubled or moved, or the end gone."""
    data, kind = bytearray(data), rng.randrange(5)
    first, last = sorted(rng.sample(range(len(data)), 2))
    if kind == 0:
        for at in rng.sample(range(len(data)), rng.randint(1, 4)):
            data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[first : first + 8] = rng.choice([bytes(8), b"\xff" * 8, rng.randbytes(8)])
    elif kind == 2:
        del data[first:]
    elif kind == 3:
        del data[first : min(last, first + 64)]
    else:
        data[first:first] = data[last : last + 32]
    return bytes(data)


def read(folder):
    """Every tensor in `folder` and the notes, or None if it is refused as it should be."""
    try:
        index = open_tensors(LocalFolder(folder))
        return index.read_many(index), index.notes
    except CheckpointError as error:
        assert error.hint and "\n" not in error.message
        return None


def same(ours, theirs):
    return set(ours) == set(theirs) and all(
        (ours[k].dtype, ours[k].shape) == (v.dtype, v.shape)
        and torch.equal(ours[k].reshape(-1).view(torch.uint8), v.detach().contiguous().reshape(-1).view(torch.uint8))
        for k, v in theirs.items()
    )


def by_name(root):
    return {k: v for k, v in root.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def saved(state, **options):
    stream = io.BytesIO()
    torch.save(state, stream, **options)
    return stream.getvalue()


@pytest.mark.thorough
def test_300_mutations_anywhere_in_the_file(tmp_path):
    whole, rng, refused = saved(STATE), random.Random(0), 0
    for _ in range(300):
        (tmp_path / "pytorch_model.bin").write_bytes(mutated(whole, rng))
        if (found := read(tmp_path)) is None:
            refused += 1
        else:
            assert same(found[0], STATE["model"])  # the bytes changed are padding, or of no tensor
    assert refused > 200


@pytest.mark.thorough
def test_every_bit_of_every_record_counts(tmp_path):
    whole = saved(STATE)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        records = [i for i in archive.infolist() if "/data/" in i.filename or i.filename.endswith("/data.pkl")]
        contents = {i.header_offset: archive.read(i) for i in records}
    for offset, content in contents.items():
        start = whole.index(content, offset)
        for at in range(start, start + len(content), 3):
            (tmp_path / "pytorch_model.bin").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            assert read(tmp_path) is None


def test_300_mutations_of_the_pickle_with_checksums_that_fit(tmp_path):
    path, rng, accepted = tmp_path / "pytorch_model.bin", random.Random(1), 0
    with zipfile.ZipFile(io.BytesIO(saved(STATE))) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(300):
        with zipfile.ZipFile(path, "w") as new:
            for name, content in records.items():
                new.writestr(name, mutated(content, rng) if name.endswith("data.pkl") else content)
        if (found := read(tmp_path)) is None:
            continue
        accepted += 1
        root = torch.load(
            path, map_location="cpu", weights_only=True
        )  # such a file means something else, and the same to torch
        theirs = root.get("model", root)
        assert same(found[0], by_name(theirs))
    assert accepted  # the checksums fit, so that some reach the tensors


@pytest.mark.parametrize(
    "state",
    [{"offset": -4}, {"shape": (100,)}, {"shape": (10**12,), "stride": (1,)}, {"dtype": "x"}, {"storage": None}],
)
def test_a_tensor_that_was_checked_cannot_be_changed_afterwards(tmp_path, state):
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(4)}))) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as new:
        for name, content in records.items():
            if name.endswith("data.pkl"):
                rebuilt = [at for code, _, at in pickletools.genops(content) if code.name == "REDUCE"][-1] + 1
                build = pickle.dumps(state, 2)[2:-1] + pickle.BUILD
                content = content[:rebuilt] + build + content[rebuilt:]
            new.writestr(name, content)
    assert read(tmp_path) is None


def sparse_zip(path, size):
    """A file of torch.save whose pickle has `size` bytes, none of which the disk holds."""
    name, large = b"archive/data.pkl", 0xFFFFFFFF
    sizes = struct.pack("<HHQQ", 1, 16, size, size)
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, 0, large, large, len(name), 20) + name + sizes
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 1, large, large, len(name), 20, 0, 0, 0, 0, 0)
    start = len(local) + size
    length = len(entry + name + sizes)
    ends = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, length, start)
    ends += struct.pack("<4sLQL", b"PK\6\7", 0, start + length, 1)
    ends += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, length, large, 0)
    with path.open("wb") as stream:
        stream.write(local)
        stream.seek(start)
        stream.write(entry + name + sizes + ends)


def test_sizes_that_no_memory_holds_are_not_believed(tmp_path):
    for name in ("pytorch_model.bin", ".metadata", "model.safetensors.index.json", "pytorch_model.bin.index.json"):
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(1 << 40)
        if name.endswith(".bin"):
            sparse_zip(tmp_path / name, 1 << 40)
        assert read(tmp_path) is None
        (tmp_path / name).unlink()


def nest(depth):
    """A tuple of twice the tuple below it, `depth` times: two bytes a level, and 2 ** depth visits to hash it."""
    return b"K\x01\x85" + b"\x94" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86\x94" for n in range(depth))


SMALL = {
    "a key that is a nest of tuples": b"\x80\x04}(" + nest(60) + b"K\x01u.",
    "one more": b"\x80\x04}" + nest(60) + b"K\x01s.",
    "a dictionary of pairs": b"\x80\x02ccollections\nOrderedDict\n](" + nest(60) + b"K\x01\x86e\x85R.",
    "a set": b"\x80\x04\x8f(" + nest(60) + b"\x90.",
    "a frozen set": b"\x80\x04(" + nest(60) + b"\x91.",
    "a set that is made": b"\x80\x02cbuiltins\nset\n](" + nest(60) + b"e\x85R.",
    "one list copied 20,000 times": b"\x80\x02](" + b"K\x01" * 40000 + b"eq\x000" + b"ctorch\nSize\nq\x010("
    + b"h\x01h\x00\x85R" * 20000 + b"l.",
    "the same by its class": b"\x80\x02](" + b"K\x01" * 40000 + b"eq\x000" + b"ctorch\nSize\nq\x010("
    + b"h\x01h\x00\x85\x81" * 20000 + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("kind", SMALL)
def test_a_small_pickle_that_asks_for_much_ends_at_once(tmp_path, kind):
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", SMALL[kind])
        file.writestr("archive/version", "3\n")
    with pytest.raises(CheckpointError, match=r"is damaged: ValueError\(.(a key that is|it copies more)"):
        open_tensors(LocalFolder(tmp_path))
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10
