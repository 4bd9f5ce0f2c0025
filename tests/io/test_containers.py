"""Which container is read when several lie in a folder, and what is said when none does."""

import json
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from test_distcp import write as write_distcp

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_file, open_tensors

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
        ["optimizer.pt", "training_args.bin", "rng_state_0.pth"],
        ["notes.txt"],
    ],
)
def test_what_is_no_checkpoint_is_described(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(1))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor another") as caught:
        open_tensors(LocalFolder(tmp_path))
    assert all(name in caught.value.message for name in names or ["no files"])


@pytest.mark.parametrize(
    ("names", "what", "step"),
    [
        (["adapter_model.safetensors"], "an adapter without its adapter_config.json", "Copy adapter_config.json"),
        (["a.safetensors", "b.safetensors"], "several files of weights without an index", "safe_open"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "without their index",
            "Copy the index",
        ),
        (["pytorch_model-00001-of-00001.bin"], "shards without their index", "torch.load"),
        (["model-00001-of-00002.safetensors"], "number 2 of 2 is not there", "Copy the checkpoint again"),
        (["non_lora_trainables.bin"], "beside an adapter, without that adapter", "adapter_config.json"),
        (["qwen2-vl-Q4_K_M.gguf"], "a language model of llama.cpp", "mmproj"),
        (["pytorch_model-00001-of-00002.bin"], "number 2 of 2 is not there", "Copy the checkpoint again"),
        (["00000.safetensors", "00001.safetensors"], "numbered files without an index", "safe_open"),
        (["consolidated.00.pth", "consolidated.01.pth"], "tensor-parallel shards", "transformers"),
        (["model_world_size_2_rank_0.pt", "extra_state_world_size_2_rank_0.pt"], "verl", "verl.model_merger merge"),
        (["actor/model_world_size_8_rank_7.pt", "actor/huggingface/config.json"], "verl", "--local_dir .*/actor "),
        (["__0_0.distcp", "__1_0.distcp"], "without their .metadata", "earlier checkpoint"),
        (["iter_0000500/mp_rank_00/model_optim_rng.pt"], "Megatron", "Hugging Face folder"),
        (["zero_pp_rank_0_mp_rank_00_optim_states.pt"], "DeepSpeed's state without", "model_states.pt"),
        (["last.ckpt"], "PyTorch Lightning", "ln -s last.ckpt pytorch_model.bin"),
        (["open_clip_model.safetensors", "open_clip_config.json"], "open_clip", "as transformers saves it"),
        (["iter_2000.pth"], "a file of torch.save under a name of its own", "ln -s iter_2000.pth pytorch_model.bin"),
        (["flax_model.msgpack"], "Flax", "PyTorch"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_its_converter(tmp_path, names, what, step):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({name: torch.ones(1)}, tmp_path / name)
        else:
            torch.save({name: torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=re.escape(what)) as caught:
        open_tensors(LocalFolder(tmp_path))
    assert re.search(step, caught.value.hint) and names[0] in caught.value.message


def test_what_a_hint_says_is_read_afterwards(tmp_path):
    torch.save({"state_dict": one(3)}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError) as caught:
        open_tensors(LocalFolder(tmp_path))
    step = re.search(r"cd \S+ && ln -s \S+ pytorch_model.bin", caught.value.hint)
    subprocess.run(step[0], shell=True, check=True)
    assert open_tensors(LocalFolder(tmp_path)).read("w").tolist() == [3, 3]


def run_index_command(hint):
    """What a hint says, as it stands, but for the program's name."""
    command = re.search(r"cd .+ && python (-c .*\")", hint)
    there, script = re.search(r"cd (.+) && python", hint)[1], command[1]
    subprocess.run(f"cd {there} && {sys.executable} {script}", shell=True, check=True)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", ["{:05d}.safetensors", "part-{}-of-1.safetensors", "pytorch_model-{:05d}-of-00001.bin"]
)
def test_files_without_an_index_are_read_after_the_command_of_their_hint(tmp_path, name):
    folder = tmp_path / "a run"  # quoted in the command
    folder.mkdir()
    for number in range(2):
        save = torch.save if name.endswith("bin") else save_file
        save({f"w{number}": torch.full((2,), float(number))}, folder / name.format(number))
    with pytest.raises(CheckpointError) as caught:
        open_tensors(LocalFolder(folder))
    run_index_command(caught.value.hint)
    tensors = open_tensors(LocalFolder(folder))
    assert [tensors.read(f"w{number}").tolist() for number in range(2)] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("names", [("0.safetensors", "1.safetensors"), ("a.safetensors", "b.safetensors")])
def test_files_that_share_tensors_are_no_shards(tmp_path, names):
    for name in names:
        save_file(one(1), tmp_path / name)
    with pytest.raises(CheckpointError, match=f"{names[0]} and {names[1]} both have w") as caught:
        open_tensors(LocalFolder(tmp_path))
    assert "safe_open" not in caught.value.hint


def test_shards_beside_what_they_were_merged_into_point_there(tmp_path):
    actor = tmp_path / "global_step_25" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    torch.save(one(1), actor / "model_world_size_1_rank_0.pt")
    save_file(one(1), actor / "huggingface" / "model.safetensors")
    with pytest.raises(CheckpointError, match="verl") as caught:
        open_tensors(LocalFolder(actor))
    assert f"Give {actor / 'huggingface'}" in caught.value.hint


def test_a_single_file_beside_an_index_is_read_and_said(tmp_path):
    save_file(one(1), tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    tensors = open_tensors(LocalFolder(tmp_path))
    assert tensors.read("w").tolist() == [1, 1] and "and not the shards that" in tensors.notes[0]


def test_nested_checkpoints_are_not_read(tmp_path):
    for nested in ("checkpoint-5", "checkpoint-5/more"):
        (tmp_path / nested).mkdir()
        save_file(one(1), tmp_path / nested / "model.safetensors")
        torch.save(one(1), tmp_path / nested / "pytorch_model.bin")
        write_distcp(tmp_path / nested / "pytorch_model_fsdp_0", {"w": [((0,), (2,))]}, one(1))
        deepspeed(tmp_path / nested, 1)
        torch.save({"module": one(1)}, tmp_path / nested / "mp_rank_00_model_states.pt")
    with pytest.raises(CheckpointError, match="it holds checkpoint-5") as caught:
        open_tensors(LocalFolder(tmp_path))
    assert f"{tmp_path}/checkpoint-5" in caught.value.hint
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_tensors(LocalFolder(tmp_path / "gone"))
