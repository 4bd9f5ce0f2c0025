"""Folders of torch.distributed.checkpoint: put together from chunks as torch does it, every element exactly once."""

import dataclasses
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from forked import HANGS
from test_damaged_bin import mutated, read, same
from test_torch_files import Evil, equal
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_tensors

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
STATE = {
    "a.weight": torch.arange(30, dtype=torch.float32).reshape(5, 6),
    "b.weight": torch.linspace(0, 1, 24).to(torch.bfloat16).reshape(2, 3, 4),
    "c.bias": torch.ones(7, dtype=torch.float16),
    "d": torch.tensor(5),
    "e": torch.ones(3).to(torch.float8_e4m3fn),
}
BOXES = {  # rows shared unevenly, a grid over two dimensions, whole tensors
    "a.weight": [((0, 0), (3, 6)), ((3, 0), (2, 6))],
    "b.weight": [((0, 0, 0), (2, 1, 4)), ((0, 1, 0), (1, 2, 4)), ((1, 1, 0), (1, 2, 4))],
    "c.bias": [((0,), (7,)), ((7,), (0,))],
    "d": [((), ())],
    "e": [((0,), (1,)), ((1,), (2,))],
}


def write(folder, boxes=BOXES, state=STATE, ranks=2):
    """What `ranks` processes write, each the chunks that fall to it; returns the metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    streams = [(folder / f"__{rank}_0.distcp").open("wb") for rank in range(ranks)]
    described, stored = {"step": BytesStorageMetadata()}, {}
    for name, tensor in state.items():
        chunks = [ChunkStorageMetadata(torch.Size(first), torch.Size(size)) for first, size in boxes[name]]
        described[name] = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.size(), chunks)
        for at, chunk in enumerate(chunks):
            stream = streams[at % ranks]
            part = tensor[tuple(slice(o, o + n) for o, n in zip(chunk.offsets, chunk.sizes, strict=True))].clone()
            start = stream.tell()
            torch.save(part, stream)
            place = _StorageInfo(f"__{at % ranks}_0.distcp", start, stream.tell() - start)
            stored[MetadataIndex(name, chunk.offsets, at)] = place
    for stream in streams:
        stream.close()
    metadata = Metadata(described, {}, stored)
    save(folder, metadata)
    return metadata


def save(folder, metadata):
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def opened(folder):
    return open_tensors(LocalFolder(folder))


def refused(folder, message, read=False):
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(folder).read_many(opened(folder)) if read else opened(folder)
    assert caught.value.hint and "\n" not in caught.value.message


def test_chunks_are_put_together_as_torch_does(tmp_path):
    places = write(tmp_path).storage_data
    index = opened(tmp_path)
    equal(index.read_many(index), STATE)
    theirs = {name: torch.zeros_like(tensor) for name, tensor in STATE.items()}
    dcp.load(theirs, checkpoint_id=tmp_path, no_dist=True)
    equal(theirs, STATE)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert index.bytes_read == sum(sizes) - places[MetadataIndex("c.bias", (7,))].length  # it has no rows


def test_what_torch_writes_in_one_process(tmp_path):
    state = {"model": {**STATE, "part": STATE["a.weight"][1:3, ::2]}, "step": 3, "name": "x"}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    index = opened(tmp_path)
    equal(index.read_many(index), {f"model.{name}": tensor for name, tensor in state["model"].items()})


@pytest.mark.parametrize("old", [False, True])
def test_the_folder_may_lie_in_a_checkpoint_as_accelerate_writes_it(tmp_path, old):
    metadata = write(tmp_path / "pytorch_model_fsdp_0")
    write(tmp_path / "optimizer_0", {"c.bias": BOXES["c.bias"]}, {"c.bias": torch.zeros(7)})
    if old:  # before torch 2.4 there were no version and no storage_meta, and boxes of no offset had no such field
        del metadata.__dict__["storage_meta"]
        del metadata.__dict__["version"]
        save(tmp_path / "pytorch_model_fsdp_0", metadata)
    equal(opened(tmp_path).read_many(STATE), STATE)


FSDP = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

folder = sys.argv[1]
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Conv2d(3, 5, 2), torch.nn.BatchNorm1d(1))
if dist.get_rank() == 0:
    torch.save(net.state_dict(), folder + "/whole.pt")
for part in (*net, net):
    fully_shard(part, mesh=mesh)
dcp.save({"model": get_model_state_dict(net)}, checkpoint_id=folder + "/pytorch_model_fsdp_0")
dist.barrier()
# Everything asked for is written. Threads that gloo left running have aborted the interpreter's shutdown.
os._exit(0)
"""


@pytest.mark.thorough
def test_what_two_processes_of_fsdp_write(tmp_path):
    (tmp_path / "fsdp.py").write_text(FSDP)
    torchrun = [Path(sys.executable).parent / "torchrun", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*map(str, torchrun), str(tmp_path / "fsdp.py"), str(tmp_path)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANGS)
    assert out.returncode == 0, out.stderr
    assert len(list((tmp_path / "pytorch_model_fsdp_0").glob("*.distcp"))) == 2
    index = opened(tmp_path)
    whole = torch.load(tmp_path / "whole.pt", weights_only=True)
    equal(index.read_many(index), {f"model.{name}": tensor for name, tensor in whole.items()})


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([((0,), (3,))], "do not cover each element once"),
        ([((0,), (4,)), ((3,), (4,))], "do not cover each element once"),
        ([((0,), (4,)), ((3,), (3,))], "do not cover each element once"),
        ([((0,), (3,)), ((4,), (4,))], "outside of its shape"),
        ([((0, 0), (7, 1))], "outside of its shape"),
    ],
)
def test_chunks_that_leave_or_repeat_elements(tmp_path, boxes, message):
    metadata = write(tmp_path)
    chunks = [ChunkStorageMetadata(torch.Size(first), torch.Size(size)) for first, size in boxes]
    metadata.state_dict_metadata["c.bias"].chunks = chunks
    for at, chunk in enumerate(chunks):
        metadata.storage_data[MetadataIndex("c.bias", chunk.offsets)] = _StorageInfo("__9_0.distcp", at * 5000, 5000)
    save(tmp_path, metadata)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_path": "../x"}, "a chunk lies in '../x'"),
        ({"relative_path": "__7_0.distcp"}, "has no file __7_0.distcp"),
        ({"length": 1 << 60}, "damaged: two chunks lie|the file has only"),
        ({"offset": 1 << 60}, "the file has only"),
        ({"transform_descriptors": ["zstd"]}, "stored through"),
        ({"offset": 0}, "two chunks lie"),
    ],
)
def test_places_that_cannot_be(tmp_path, change, message):
    metadata = write(tmp_path)
    key = MetadataIndex("c.bias", torch.Size([0]))
    metadata.storage_data[key] = dataclasses.replace(metadata.storage_data[key], **change)
    save(tmp_path, metadata)
    refused(tmp_path, message, read=True)


def test_a_blob_of_another_tensor(tmp_path):
    metadata = write(tmp_path)
    keys = [MetadataIndex("c.bias", torch.Size([0])), MetadataIndex("d", torch.Size([]))]
    first, second = (metadata.storage_data[key] for key in keys)
    metadata.storage_data |= {keys[0]: second, keys[1]: first}
    save(tmp_path, metadata)
    refused(tmp_path, "does not hold the part of 'c.bias'", read=True)


def test_a_class_outside_the_list_is_named_and_never_run(tmp_path):
    metadata = write(tmp_path)
    metadata.planner_data = Evil()
    save(tmp_path, metadata)
    refused(tmp_path, r"\.metadata needs builtins\.exec, which is not safe")


def test_400_mutations(tmp_path):
    write(tmp_path)
    rng, outcomes = random.Random(0), {}
    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for _ in range(200 if file.name == ".metadata" else 100):
            file.write_bytes(mutated(whole, rng))
            found = read(tmp_path)
            outcomes.setdefault(file.name, []).append(found is None)
            if found is None:
                continue
            if file.name != ".metadata":
                assert same(found[0], STATE)
            known = set(found[0]) & set(STATE)  # .metadata has no checksums: a changed letter is another name
            assert same({k: found[0][k] for k in known}, {k: STATE[k] for k in known})
        file.write_bytes(whole)
    assert all(sum(refusals) > len(refusals) / 2 for refusals in outcomes.values())
