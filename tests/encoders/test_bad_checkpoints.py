"""Every fault of a checkpoint is one CheckpointError that says what was found, and a hint what to do."""

import json
import shutil

import pytest
import torch
from tiny_checkpoints import llava, spelled, write, write_llava, write_original

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError

TENSOR = "vision_tower.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def model():
    return llava("siglip")


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder)
    assert len(caught.value.hint) > 10
    assert "\n" not in caught.value.message


def test_nothing_there(tmp_path):
    refused(tmp_path / "gone", "does not exist")
    refused(tmp_path, "neither model.safetensors nor")


def test_only_bin_files(tmp_path, model):
    before = load_encoder(write_llava(tmp_path, model))
    (tmp_path / "model.safetensors").unlink()
    torch.save(spelled(model, "C"), tmp_path / "pytorch_model.bin")
    after = load_encoder(tmp_path)
    assert (after.tower_hash, after.projector_hash) == (before.tower_hash, before.projector_hash)
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")
    refused(tmp_path, "pytorch_model.bin is not a file of torch.save")


def test_configuration_missing_or_damaged(tmp_path, model):
    write_llava(tmp_path, model)
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config.json is not JSON")
    (tmp_path / "config.json").write_text("[]")
    refused(tmp_path, "config.json holds no JSON object")
    (tmp_path / "config.json").write_text("[" * 200_000)
    refused(tmp_path, "config.json is not JSON: maximum recursion depth")
    (tmp_path / "config.json").unlink()
    refused(tmp_path, "has no config.json")


def test_a_configuration_that_transformers_cannot_build(tmp_path, model):
    config = model.config.to_dict() | {"text_config": {"model_type": "no_such_llm"}}
    refused(write(tmp_path, spelled(model, "C"), config), "transformers cannot read")


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("vision_config", "hidden_act", "nonsense", "cannot build the SiglipVisionModel of config.json"),
        ("vision_config", "num_attention_heads", 3, "must be divisible"),
        ("vision_config", "patch_size", 0, "cannot build the SiglipVisionModel"),
        (None, "projector_hidden_act", "nonsense", "activation 'nonsense' is unknown"),
    ],
)
def test_a_configuration_that_makes_no_encoder(tmp_path, model, part, field, value, message):
    config = model.config.to_dict()
    (config[part] if part else config)[field] = value
    refused(write(tmp_path, spelled(model, "C"), config), message)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ([1], "holds no JSON object"),
        ({"image_processor_type": "SiglipImageProcessor", "size": "large"}, "cannot make the image processor"),
        ({"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5]}, "mean must have 3 elements"),
    ],
)
def test_a_description_that_makes_no_processor(tmp_path, model, description, message):
    write_llava(tmp_path, model)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(description))
    refused(tmp_path, message)


def test_an_adapter_is_named(tmp_path, model):
    write_llava(tmp_path, model)
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tmp_path)
    assert "LoRA" in caught.value.hint


def test_an_unknown_kind_is_described(tmp_path, model):
    config = {"model_type": "blip-2", "architectures": ["Blip2ForConditionalGeneration"]}
    write(tmp_path, {"visual.blocks.0.norm1.weight": torch.ones(2), "model.norm.weight": torch.ones(2)}, config)
    refused(tmp_path, r"model_type 'blip-2', .*Blip2ForCond.*model\.norm, visual\.blocks")


def test_a_tower_family_that_is_not_supported(tmp_path, model):
    config = model.config.to_dict() | {"vision_config": {"model_type": "siglip2_vision_model"}}
    refused(write(tmp_path, spelled(model, "C"), config), "tower of type siglip2_vision_model")


def test_language_model_only(tmp_path, model):
    tensors = {k: v for k, v in spelled(model, "C").items() if k.startswith("language_model.")}
    refused(write(tmp_path / "hf", tensors, model.config), "there is no vision tower in the files of")
    llm = {k: v for k, v in spelled(model, "L").items() if "vision_tower" not in k}
    folder = write_original(tmp_path / "l", model, "google/siglip-so400m-patch14-384", llm)
    refused(folder, "names the tower google/siglip-so400m-patch14-384, which was frozen")
    refused(
        write(tmp_path / "bare", {"text.norm": torch.ones(2)}, {"model_type": "dinov2"}), "there is no vision tower"
    )


def test_no_projector(tmp_path, model):
    tensors = {k: v for k, v in spelled(model, "C").items() if "projector" not in k}
    refused(write(tmp_path, tensors, model.config), "there is no projector in the files of")


def test_missing_unexpected_and_misshapen_tensors_are_reported_together(tmp_path, model):
    tensors = spelled(model, "C")
    tensors.pop(TENSOR)
    tensors["vision_tower.encoder.layers.1.gate"] = torch.ones(3)
    tensors["vision_tower.encoder.layers.0.mlp.fc1.bias"] = torch.ones(7)
    folder = write(tmp_path, tensors, model.config)
    refused(
        folder, r"missing: encoder.layers.1.self_attn.q_proj.weight; unexpected: .*1\.gate; of another shape: .*\[7\]"
    )


def test_fewer_blocks_than_configured(tmp_path, model):
    tensors = {k: v for k, v in spelled(model, "C").items() if ".layers.2." not in k}
    refused(write(tmp_path, tensors, model.config), "missing: encoder.layers.2.* and 13 more")


def test_a_projector_that_does_not_fit(tmp_path, model):
    tensors = spelled(model, "C") | {"multi_modal_projector.linear_1.weight": torch.ones(24, 31)}
    refused(write(tmp_path / "wide", tensors, model.config), "do not follow a tower of width 32")
    tensors = spelled(model, "C") | {"multi_modal_projector.norm.weight": torch.ones(24)}
    refused(write(tmp_path / "norm", tensors, model.config), "not a chain of linear layers")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [TENSOR, "multi_modal_projector.linear_2.bias"])
def test_numbers_that_are_none(tmp_path, model, value, name):
    tensors = spelled(model, "C")
    broken = tensors[name].clone()
    broken.view(-1)[3] = value
    refused(write(tmp_path, {**tensors, name: broken}, model.config), rf"in 1 of \d+ tensors .*{name}")


def test_a_nan_in_the_language_model_is_none_of_our_business(tmp_path, model):
    tensors = spelled(model, "C") | {"language_model.model.norm.weight": torch.full((24,), float("nan"))}
    load_encoder(write(tmp_path, tensors, model.config))


def test_quantised_weights(tmp_path, model):
    tensors = spelled(model, "C") | {TENSOR: torch.ones(32, 32, dtype=torch.int8)}
    refused(write(tmp_path, tensors, model.config), r"is quantised \(stored as I8\)")


def test_zero_element_tensors_of_zero_3(tmp_path, model):
    folder = write(tmp_path, spelled(model, "C") | {TENSOR: torch.ones(0)}, model.config)
    refused(folder, "q_proj.weight' in .* has no elements")


def test_shard_gone_from_disk_or_index(tmp_path, model):
    write_llava(tmp_path, model, shards=3)
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()
    weight_map = json.loads(whole)["weight_map"]
    short = {k: v for k, v in weight_map.items() if "00002" not in v}
    index.write_text(json.dumps({"weight_map": short}))
    refused(tmp_path, "does not name shard 2 of 3")
    index.write_text(whole)
    (tmp_path / "model-00003-of-00003.safetensors").unlink()
    refused(tmp_path, "not there: model-00003-of-00003.safetensors")


def test_a_nested_checkpoint_is_never_read(tmp_path, model):
    for shards in (1, 3):
        folder = tmp_path / f"{shards}"
        before = load_encoder(write_llava(folder, model, shards=shards))
        write_llava(folder / "checkpoint-500", llava("siglip", seed=9), shards=shards)
        after = load_encoder(folder)
        assert (after.tower_hash, after.projector_hash) == (before.tower_hash, before.projector_hash)
        assert load_encoder(folder / "checkpoint-500").tower_hash != before.tower_hash
    shutil.copytree(folder / "checkpoint-500", tmp_path / "only" / "checkpoint-500")
    refused(tmp_path / "only", "neither model.safetensors nor")


def test_the_language_model_is_not_read(tmp_path, model):
    tensors = spelled(model, "C") | {f"language_model.big.{n}": torch.zeros(500_000) for n in range(4)}
    encoder = load_encoder(write(tmp_path, tensors, model.config, shards=2))
    needed = sum(weight.nbytes for weight in encoder.weights().values())
    headers = encoder.provenance.bytes_read - needed
    assert 0 < headers < 25_000  # names, shapes and offsets of 100 tensors, twice
    assert encoder.provenance.bytes_read < 0.03 * sum(tensor.nbytes for tensor in tensors.values())
