"""Files of torch.save: equal to torch.load, no record more than needed, checksums held, nothing in them is run."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch.serialization import set_crc32_options

from visprobe.errors import CheckpointError
from visprobe.io.containers import torch_archive
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_file, open_tensors
from visprobe.io.containers.tensors import DTYPES
from visprobe.io.hub.repository import open_folder

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)


def tensors():
    every = {str(d): (torch.arange(6) % 2).reshape(2, 3).to(d) for d in DTYPES.values()}
    views = {"row": BASE[2], "column": BASE[:, 3], "tail": BASE[1:, 2:5], "turned": BASE.t(), "step": BASE[::2, ::3]}
    more = {
        "whole": BASE, "tied": BASE, "scalar": torch.tensor(3.5), "wide": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(BASE.clone()), "buffer": torch.nn.Buffer(torch.ones(2)),
        "channels": torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }  # fmt: skip
    return {**every, **views, **more}


def opened(path):
    return open_file(LocalFolder(path.parent), path.name)


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def equal(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(bits(ours[name]), bits(tensor)), name


def refused(path, message, read=False):
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(path).read_many(opened(path)) if read else opened(path)
    assert caught.value.hint and "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("piece", [7, 64 << 20])
def test_every_type_and_view_is_read_as_torch_reads_it(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(torch_archive, "_PIECE", piece)
    torch.save(tensors(), tmp_path / "a.pt")
    index = opened(tmp_path / "a.pt")
    read = index.read_many(index)
    equal(read, torch.load(tmp_path / "a.pt", weights_only=True))
    equal({name: index.read(name) for name in index}, read)
    for name, tensor in read.items():
        assert tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes == index[name].nbytes
        assert type(tensor) is torch.Tensor and not tensor.requires_grad
    read["whole"].zero_()
    assert torch.equal(read["tied"], BASE) and torch.equal(read["row"], BASE[2])


def test_modules_save_their_state_with_metadata_and_attributes(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module[0].weight.note = {"a": 1}
    torch.save(module.state_dict(keep_vars=True), tmp_path / "a.pt")
    equal(opened(tmp_path / "a.pt").read_many(module.state_dict()), module.state_dict())


@pytest.mark.parametrize("key", ["state_dict", "model", "module", None])
def test_the_state_dict_may_be_wrapped_and_the_rest_is_ignored(tmp_path, key):
    state = {"w": BASE, "epoch": 3, "name": "x", 5: BASE}
    root = {key: state, "step": torch.tensor(9), "args": {"lr": 0.1}} if key else state
    torch.save(root, tmp_path / "a.pth")
    index = opened(tmp_path / "a.pth")
    assert list(index) == ["w"] and torch.equal(index.read("w"), BASE)


@pytest.mark.parametrize("root", [BASE, [BASE], {}, {"model": {"a": 1}}, {"model": {"deep": {"w": BASE}}}])
def test_nothing_by_name(tmp_path, root):
    torch.save(root, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "holds no tensors by name")


def test_bytes_read_are_directory_pickle_and_records_asked_for(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"big": torch.zeros(1_000_000), "small": torch.zeros(10_000), "part": torch.zeros(50_000)[:10]}, path)
    index = opened(path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: info for info in archive.infolist()}
        needed = sum(30 + records[name].file_size for name in ("a/data.pkl", "a/byteorder"))
        assert index.bytes_read == path.stat().st_size - archive.start_dir + needed
    before = index.bytes_read
    index.read_many(["small", "part"])
    assert index.bytes_read == before + 30 + 40_000 + 30 + 200_000  # `part` is checked with the whole of its record


def rchar():
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts by the kernel are a Linux feature")
def test_the_kernel_counts_the_same_bytes(tmp_path):
    torch.save({"big": torch.zeros(10_000_000), "small": torch.zeros(1_000_000)}, tmp_path / "a.pt")
    before = rchar()
    opened(tmp_path / "a.pt").read("small")
    assert 4_000_000 <= rchar() - before < 4_050_000  # the tensor, pickle and directory, and /proc/self/io itself


def write_shards(folder):
    files = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    state = {f"w{n}": BASE + n for n in range(5)}
    for n, file in enumerate(files):
        torch.save({k: state[k] for k in sorted(state)[n::2]}, folder / file)
    weight_map = {name: files[n % 2] for n, name in enumerate(sorted(state))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return state, weight_map


def test_shards_are_read_through_their_index(tmp_path):
    state, weight_map = write_shards(tmp_path)
    index = open_tensors(LocalFolder(tmp_path))
    equal(index.read_many(index), state)
    assert {name: Path(index[name].file).name for name in index} == weight_map
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="not there: pytorch_model-00002"):
        open_tensors(LocalFolder(tmp_path))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"z": "pytorch_model-00002-of-00002.bin", "w0": "pytorch_model-00001-of-00002.bin"}, "promises 1 .*'z'"),
        ({"w0": "pytorch_model-00001-of-00002.bin"}, "does not name shard 2 of 2"),
        ({"w0": "../a.bin"}, "not a file below its folder"),
        ({}, "names no tensors"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, weight_map, message):
    write_shards(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(tmp_path / "pytorch_model.bin.index.json", message)


def test_the_format_before_zip_is_refused_with_the_step_that_converts_it(tmp_path):
    torch.save(tensors(), tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    assert "save_file" in refused(tmp_path / "a.bin", r"a\.bin is in the format that torch\.save wrote before").hint


class Evil:
    def __reduce__(self):
        return exec, ("import visprobe; visprobe.was_run = True",)


def test_a_class_outside_the_list_is_named_and_never_run(tmp_path):
    torch.save({"w": BASE, "x": Evil()}, tmp_path / "a.bin")
    error = refused(tmp_path / "a.bin", r"a\.bin needs (__builtin__|builtins)\.exec, which is not safe")
    assert "weights_only=False" in error.hint
    import visprobe

    assert not hasattr(visprobe, "was_run")


def rezip(source, target, changes, compression=zipfile.ZIP_STORED):
    """`source` with some records replaced, and checksums that fit."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name, old.read(name)))


def test_archives_that_are_not_of_torch_save(tmp_path):
    torch.save({"w": BASE}, tmp_path / "a.bin")
    rezip(tmp_path / "a.bin", tmp_path / "same.bin", {})
    equal(opened(tmp_path / "same.bin").read_many(["w"]), {"w": BASE})
    rezip(tmp_path / "a.bin", tmp_path / "b.bin", {"a/byteorder": b"big"})
    refused(tmp_path / "b.bin", "big-endian")
    rezip(tmp_path / "a.bin", tmp_path / "b.bin", {}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "b.bin", "is compressed")
    rezip(tmp_path / "a.bin", tmp_path / "b.bin", {"a/data/0": bytes(95)})
    refused(tmp_path / "b.bin", "not of 96 bytes")
    with zipfile.ZipFile(tmp_path / "b.bin", "w") as other:
        other.writestr("readme", "text")
    refused(tmp_path / "b.bin", "not one of torch.save")
    (tmp_path / "b.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path / "b.bin", "not a file of torch.save")
    (tmp_path / "b.bin").write_bytes(b"")
    refused(tmp_path / "b.bin", "not a file of torch.save")


class Crafted:
    """A tensor that claims a shape and a stride on the 96 bytes of record 0."""

    def __init__(self, shape, stride):
        self.claim = shape, stride

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Crafted, 0, *self.claim, False, {})


class CraftedPickler(pickle.Pickler):
    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, "0", "cpu", 24) if value is Crafted else None


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((4, 7), (6, 1)), ((5, 6), (6, 1)), ((1 << 62, 1 << 62), (6, 1)), ((1 << 40,), (0,)), ((4,), (-1,)), ((4,), ())],
)
def test_a_tensor_larger_than_its_bytes_is_refused_before_memory_is_taken(tmp_path, shape, stride):
    torch.save({"w": BASE}, tmp_path / "a.bin")
    stream = io.BytesIO()
    CraftedPickler(stream, protocol=2).dump({"w": Crafted(shape, stride)})
    rezip(tmp_path / "a.bin", tmp_path / "b.bin", {"a/data.pkl": stream.getvalue()})
    refused(tmp_path / "b.bin", r"outside of its 96 bytes|of shape \[4\] and stride|is shorter")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_a_record_is_found(tmp_path):
    path = tmp_path / "a.bin"
    torch.save({"w": BASE, "v": torch.ones(3)}, path)
    flip(path, path.read_bytes().index(bits(BASE)[40:60].numpy().tobytes()))
    assert torch.equal(opened(path).read("v"), torch.ones(3))
    assert torch.load(path, weights_only=True)["w"].ne(BASE).any()  # torch.load does not look
    refused(path, r"record a/data/\d differs from its checksum", read=True)


def test_files_saved_without_checksums_are_read_and_said(tmp_path):
    set_crc32_options(False)
    try:
        torch.save({"w": BASE}, tmp_path / "a.bin")
    finally:
        set_crc32_options(True)
    index = opened(tmp_path / "a.bin")
    assert torch.equal(index.read("w"), BASE) and "a.bin has no checksums" in index.notes[0]


def test_of_a_file_on_the_hub_only_the_records_asked_for_travel(hub):
    state = {"small": torch.arange(1000.0), "big": torch.zeros(500_000)}
    stream = io.BytesIO()
    torch.save(state, stream)
    hub.add("org/name", {"config.json": b"{}", "pytorch_model.bin": stream.getvalue()})
    index = open_tensors(open_folder("org/name"))
    assert torch.equal(index.read("small"), state["small"])
    assert hub.served["pytorch_model.bin"] < 10_000  # of 2 MB
