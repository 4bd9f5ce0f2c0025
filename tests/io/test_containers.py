"""Which container is read when several lie in a folder, and what is said when none does."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from test_distcp import write as write_distcp

from visprobe.errors import CheckpointError
from visprobe.io.containers import open_file, open_tensors
from visprobe.io.folder import LocalFolder

SHARD = "{}-00001-of-00001.{}"


def one(number):
    return {"w": torch.full((2,), float(number))}


def write_index(folder, stem, ending, number):
    shard = SHARD.format(stem, ending)
    (save_file if ending == "safetensors" else torch.save)(one(number), folder / shard)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))


def deepspeed(folder, number):
    (folder / "global_step1").mkdir()
    torch.save({"module": one(number)}, folder / "global_step1" / "mp_rank_00_model_states.pt")


IN_ORDER = {
    "model.safetensors": lambda f, n: save_file(one(n), f / "model.safetensors"),
    "its index": lambda f, n: write_index(f, "model", "safetensors", n),
    "pytorch_model.bin": lambda f, n: torch.save(one(n), f / "pytorch_model.bin"),
    "its index, .bin": lambda f, n: write_index(f, "pytorch_model", "bin", n),
    "fsdp": lambda f, n: write_distcp(f / "pytorch_model_fsdp_0", {"w": [((0,), (2,))]}, one(n)),
    "distcp": lambda f, n: write_distcp(f, {"w": [((0,), (2,))]}, one(n)),
    "deepspeed": deepspeed,
    "consolidated.safetensors": lambda f, n: save_file(one(n), f / "consolidated.safetensors"),
    "consolidated.00.pth": lambda f, n: torch.save(one(n), f / "consolidated.00.pth"),
    "pytorch_model_fsdp.bin": lambda f, n: torch.save(one(n), f / "pytorch_model_fsdp.bin"),
    "mm_projector.bin": lambda f, n: torch.save(one(n), f / "mm_projector.bin"),
}


@pytest.mark.parametrize("first", range(len(IN_ORDER)), ids=list(IN_ORDER))
def test_the_first_of_those_that_are_there_is_read(tmp_path, first):
    for number, write in list(enumerate(IN_ORDER.values()))[first:]:
        write(tmp_path, number)
    assert open_tensors(LocalFolder(tmp_path)).read("w").tolist() == [first, first]


def test_a_single_file_of_any_name(tmp_path):
    save_file(one(1), tmp_path / "anything.safetensors")
    save_file(one(2), tmp_path / "adapter_model.safetensors")
    torch.save(one(3), tmp_path / "mm_projector.bin")
    folder = LocalFolder(tmp_path)
    assert open_tensors(folder).read("w").tolist() == [1, 1]
    names = ("anything.safetensors", "adapter_model.safetensors", "mm_projector.bin")
    assert [open_file(folder, name).read("w")[0] for name in names] == [1, 2, 3]
    save_file(one(4), tmp_path / "another.safetensors")
    assert open_tensors(folder).read("w").tolist() == [3, 3]


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["adapter_model.safetensors", "adapter_model.bin"],
        ["a.safetensors", "b.safetensors"],
        ["model-00001-of-00002.safetensors"],
        ["consolidated.00.pth", "consolidated.01.pth"],
        ["optimizer.pt", "training_args.bin", "non_lora_trainables.bin"],
    ],
)
def test_what_is_no_checkpoint_is_described(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(1))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor another") as caught:
        open_tensors(LocalFolder(tmp_path))
    assert all(name in caught.value.message for name in names or ["no files"])


def test_nested_checkpoints_are_not_read(tmp_path):
    for nested in ("checkpoint-5", "checkpoint-5/more"):
        (tmp_path / nested).mkdir()
        save_file(one(1), tmp_path / nested / "model.safetensors")
        torch.save(one(1), tmp_path / nested / "pytorch_model.bin")
        write_distcp(tmp_path / nested / "pytorch_model_fsdp_0", {"w": [((0,), (2,))]}, one(1))
        deepspeed(tmp_path / nested, 1)
        torch.save({"module": one(1)}, tmp_path / nested / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="it holds checkpoint-5"):
        open_tensors(LocalFolder(tmp_path))
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_tensors(LocalFolder(tmp_path / "gone"))
