"""What loading refuses has the same reason in its row, and no weights of a model are passed over in silence."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import llava, spelled, write, write_llava

from visprobe.encoders import load_encoder
from visprobe.encoders.listing.scan import scan
from visprobe.errors import CheckpointError

Q = "vision_tower.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def model():
    return llava("siglip")


def changed(folder, model, **tensors):
    """A checkpoint with other tensors; None leaves one out."""
    stored = spelled(model, "C") | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return write(folder, {name: tensor for name, tensor in stored.items() if tensor is not None}, model.config)


def configured(folder, model, **fields):
    return write(folder, spelled(model, "C"), model.config.to_dict() | fields)


def adapted(folder, model, rows):
    """An adapter whose B has `rows` rows, of a base beside it."""
    write_llava(folder / "base", model)
    (folder / "adapter").mkdir()
    matrices = {"A": torch.ones(2, 32), "B": torch.ones(rows, 2)}
    save_file(
        {f"base_model.model.model.{Q}.lora_{side}.weight": matrix for side, matrix in matrices.items()},
        folder / "adapter" / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "../base"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter"


def with_file(folder, model, name, content):
    write_llava(folder, model)
    (folder / name).write_bytes(content)
    return folder


def unread(folder, model, *names):
    """A folder with a configuration and files of another format."""
    write_llava(folder, model)
    (folder / "model.safetensors").unlink()
    for name in names:
        torch.save({name: torch.ones(1)}, folder / name)
    return folder


REFUSED = {
    "missing": lambda f, m: changed(f, m, **{f"{Q}.weight": None}),
    "unexpected": lambda f, m: changed(f, m, **{"vision_tower.encoder.layers.1.gate": torch.ones(3)}),
    "misshapen": lambda f, m: changed(f, m, **{f"{Q}.bias": torch.ones(7)}),
    "misshapen projector": lambda f, m: changed(f, m, **{"multi_modal_projector.linear_2.bias": torch.ones(7)}),
    "not gathered": lambda f, m: changed(f, m, **{f"{Q}.weight": torch.ones(0)}),
    "quantised": lambda f, m: changed(f, m, **{f"{Q}.weight": torch.ones(32, 32, dtype=torch.int8)}),
    "LoRA of other rows": lambda f, m: adapted(f, m, rows=31),
    "activation": lambda f, m: configured(f, m, projector_hidden_act="nonsense"),
    "heads": lambda f, m: configured(f, m, vision_config=m.config.vision_config.to_dict() | {"num_attention_heads": 3}),
    "unknown kind": lambda f, m: configured(f, m, model_type="blip-2"),
    "no JSON": lambda f, m: with_file(f, m, "config.json", b"{"),
    "BOM": lambda f, m: with_file(f, m, "config.json", b"\xef\xbb\xbf{}"),
    "UTF-16": lambda f, m: with_file(f, m, "config.json", "{}".encode("utf-16")),
    "processor": lambda f, m: with_file(f, m, "preprocessor_config.json", b'{"image_processor_type": "Odd"}'),
    "truncated": lambda f, m: with_file(f, m, "model.safetensors", b"nothing"),
    "verl": lambda f, m: unread(f, m, "model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"),
    "FSDP without metadata": lambda f, m: unread(f, m, "__0_0.distcp"),
    "Lightning": lambda f, m: unread(f, m, "last.ckpt"),
    "Megatron": lambda f, m: unread(f, m, "model_optim_rng.pt"),
    "shards without index": lambda f, m: unread(f, m, "pytorch_model-00001-of-00001.bin"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_row_has_the_reason_that_loading_gives(tmp_path, model, kind):
    folder = REFUSED[kind](tmp_path / "run", model)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(folder)
    [row] = [row for row in scan([tmp_path]) if row.path == str(folder)]
    assert (row.problem, row.hint) == (caught.value.message, caught.value.hint)


def test_what_only_the_weights_tell_is_told_with_their_hashes(tmp_path, model):
    folder = changed(tmp_path, model, **{f"{Q}.weight": torch.full((32, 32), float("nan"))})
    assert scan([folder])[0].problem is None
    [row] = scan([folder], hashes=True)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(folder)
    assert row.problem == caught.value.message and "NaN" in row.problem


# Trees of weights without a configuration beside them, and what their row must say.
SILENT = {
    "verl": (["global_step_25/actor/model_world_size_2_rank_0.pt"], "verl"),
    "actor and critic": (["s/actor/model_world_size_1_rank_0.pt", "s/critic/model_world_size_1_rank_0.pt"], "verl"),
    "accelerate": (["checkpoint_3/model.safetensors", "checkpoint_3/optimizer.bin"], "has no config.json"),
    "a state dict": (["epoch_3.pt"], "under a name of its own"),
    "a state dict of a name nobody knows": (["out/weights_final.bin"], "under a name of its own"),
    "Lightning": (["lightning_logs/version_0/checkpoints/epoch=3-step=40.ckpt"], "Lightning"),
    "DeepSpeed": (["global_step10/mp_rank_00_model_states.pt"], "has no config.json"),
    "Megatron": (["iter_0000010/mp_rank_00/model_optim_rng.pt"], "Megatron"),
    "shards": (["model-00001-of-00001.safetensors"], "without their index"),
    "open_clip": (["open_clip_pytorch_model.bin"], "open_clip"),
    "llama.cpp": (["Qwen2.5-VL-7B-Q4_K_M.gguf"], "llama.cpp"),
    "trained beside an adapter": (["non_lora_trainables.bin"], "without that adapter"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SILENT)
def test_no_weights_are_passed_over_in_silence(tmp_path, kind):
    names, said = SILENT[kind]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        state = {"visual.blocks.0.attn.qkv.weight": torch.ones(2, 2)}
        module = {"module": state} if "model_states" in name else state
        save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(module, tmp_path / name)
    rows = scan([tmp_path])
    assert len(rows) == len({name.rpartition("/")[0] for name in names})
    assert all(said in str(row.problem) and row.hint for row in rows)


def test_data_and_states_of_trainers_are_no_models(tmp_path, model):
    run = write_llava(tmp_path / "run", model)
    (run / "optimizer_0").mkdir()
    for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "optimizer_0/__0_0.distcp"):
        torch.save({"a.weight": torch.ones(1)}, run / name)
    (tmp_path / "features").mkdir()
    torch.save({"block_01": torch.ones(4, 2)}, tmp_path / "features" / "train.pt")
    (run / "original").mkdir()  # the same model as its authors published it
    torch.save({"vision.weight": torch.ones(1)}, run / "original" / "consolidated.00.pth")
    assert [(row.path, row.problem) for row in scan([tmp_path])] == [(str(run), None)]


def test_folders_of_shards_belong_to_the_index_that_names_them(tmp_path, model):
    folder = write_llava(tmp_path, model, shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for shard in set(index["weight_map"].values()):
        (folder / "layers").mkdir(exist_ok=True)
        (folder / shard).rename(folder / "layers" / shard)
    index["weight_map"] = {name: f"layers/{shard}" for name, shard in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [(row.path, row.problem) for row in scan([tmp_path])] == [(str(folder), None)]
    assert load_encoder(folder).tower_hash


def test_shards_that_were_merged_are_read_where_the_result_lies(tmp_path, model):
    actor = tmp_path / "global_step_25" / "actor"
    write_llava(actor / "huggingface", model)
    torch.save({"a.weight": torch.ones(1)}, actor / "model_world_size_1_rank_0.pt")
    assert [(row.path, row.problem) for row in scan([tmp_path])] == [(str(actor / "huggingface"), None)]


@pytest.mark.thorough
def test_a_copy_of_the_base_in_bfloat16_is_no_change(tmp_path, model):
    base = write_llava(tmp_path / "base", model) / "model.safetensors"
    for name, factor in (("copy", 1.0), ("trained", 1.3)):
        shutil.copytree(base.parent, tmp_path / name)
        tensors = {key: (tensor * factor).bfloat16() for key, tensor in load_file(base).items()}
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    rows = {row.path.rsplit("/", 1)[1]: row for row in scan([tmp_path], base=base.parent)}
    assert (rows["copy"].changed, rows["copy"].rounded) == ((), "bfloat16")
    assert "block_02" in rows["trained"].changed and rows["trained"].rounded is None
    assert (rows["base"].changed, rows["base"].rounded) == ((), None)
    [finer] = scan([base.parent], base=tmp_path / "copy")
    assert "block_02" in finer.changed  # the base has digits that its copy lost
