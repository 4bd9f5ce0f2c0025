"""Encoders taken out of their checkpoints, and towers put into others: every weight where it was, bit for bit."""

import json

import pytest
import torch
import transformers
from tiny_checkpoints import images, llava, vision_config, write, write_llava, write_original

from visprobe.encoders import load_encoder
from visprobe.encoders.export import extract_encoder
from visprobe.encoders.transplant import transplant
from visprobe.errors import CheckpointError, UsageError


def original(folder, dtype=torch.float32):
    transformers.SiglipVisionModel(vision_config("siglip", num_hidden_layers=4)).save_pretrained(
        folder / "named-siglip"
    )
    model = llava("siglip", vision_feature_layer=-1).to(dtype)
    return write_original(folder / "l", model, folder / "named-siglip")


CASES = {
    "siglip": lambda folder: write_llava(folder / "a", llava("siglip"), "A"),
    "clip in two shards": lambda folder: write_llava(folder / "b", llava("clip"), "B", shards=2),
    "several layers": lambda folder: write_llava(folder / "c", llava("siglip", vision_feature_layer=[1, 3])),
    "bfloat16": lambda folder: write_llava(folder / "d", llava("clip").to(torch.bfloat16), "D"),
    "original": original,
}


@pytest.fixture(params=CASES)
def checkpoint(request, tmp_path):
    return CASES[request.param](tmp_path / "source")


def test_an_extracted_encoder_is_read_as_its_checkpoint_was(checkpoint, tmp_path):
    written = extract_encoder(checkpoint, tmp_path / "out")
    source, back = load_encoder(checkpoint), load_encoder(tmp_path / "out")
    assert (back.tower_hash, back.projector_hash) == (source.tower_hash, source.projector_hash)
    assert (back.consumed, back.sites, back.processor_hash) == (source.consumed, source.sites, source.processor_hash)
    assert back.settings_hash == source.settings_hash
    before, after = source(images()), back(images())
    assert all(torch.equal(before[site], after[site]) for site in before)
    assert written.whole


def test_transformers_loads_the_tower_alone(checkpoint, tmp_path):
    written = extract_encoder(checkpoint, tmp_path / "out")
    tower, info = getattr(transformers, written.tower_class).from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype="auto"
    )
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert not info["missing_keys"]
    weights = load_encoder(checkpoint).weights()
    own = tower.state_dict()
    assert own.keys() == {name for name in weights if not name.startswith("projector.")}
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_the_card_says_where_the_encoder_comes_from(tmp_path):
    source = write_llava(tmp_path / "model-7b", llava("clip"))
    extract_encoder(source, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    encoder = load_encoder(source)
    for said in ("model-7b", "block_02", encoder.tower_hash, str(encoder.projector_hash), "CLIPVisionModel"):
        assert said in card
    assert str(tmp_path) not in card


def test_a_folder_with_something_in_it_is_kept(tmp_path):
    source = write_llava(tmp_path / "a", llava("clip"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    for act in (
        lambda: extract_encoder(source, tmp_path / "out"),
        lambda: transplant(source, source, tmp_path / "out"),
    ):
        with pytest.raises(CheckpointError, match="not empty"):
            act()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("layouts", [("A", "B"), ("C", "C"), ("D", "A")])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_transplant_has_the_tower_of_one_and_all_else_of_the_other(tmp_path, layouts, shards):
    giver = write_llava(tmp_path / "giver", llava("siglip", seed=1), layouts[0])
    receiver = write_llava(tmp_path / "receiver", llava("siglip", seed=2), layouts[1], shards)
    done = transplant(giver, receiver, tmp_path / "out")
    tower, rest, result = (load_encoder(path) for path in (giver, receiver, tmp_path / "out"))
    assert result.tower_hash == tower.tower_hash
    assert result.projector_hash == rest.projector_hash
    assert done.rounded == 0
    with torch.no_grad():
        model, own = (
            transformers.LlavaForConditionalGeneration.from_pretrained(path).state_dict()
            for path in (tmp_path / "out", receiver)
        )
    kept = {name for name in own if "vision_tower" not in name}
    assert all(torch.equal(model[name], own[name]) for name in kept)
    assert not all(torch.equal(model[name], own[name]) for name in own)
    assert (tmp_path / "receiver" / "config.json").read_text() == (tmp_path / "out" / "config.json").read_text()


def test_a_transplant_into_a_narrower_dtype_says_that_it_rounds(tmp_path):
    giver = write_llava(tmp_path / "giver", llava("siglip", seed=1))
    receiver = write_llava(tmp_path / "receiver", llava("siglip", seed=2).to(torch.bfloat16))
    done = transplant(giver, receiver, tmp_path / "out")
    assert done.rounded == done.tensors > 0
    assert json.loads((tmp_path / "out" / "transplant.json").read_text())["rounded"] == done.rounded
    weights, wanted = load_encoder(tmp_path / "out").weights(), load_encoder(giver).weights()
    name = "encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(weights[name], wanted[name].bfloat16())


def test_nested_checkpoints_are_not_copied(tmp_path):
    giver = write_llava(tmp_path / "giver", llava("siglip", seed=1))
    receiver = write_llava(tmp_path / "receiver", llava("siglip", seed=2))
    write_llava(receiver / "checkpoint-5", llava("siglip", seed=3))
    transplant(giver, receiver, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint-5").exists()


def test_towers_of_other_architecture_are_refused(tmp_path):
    receiver = write_llava(tmp_path / "receiver", llava("siglip"))
    with pytest.raises(UsageError, match="only one of them has"):
        transplant(write_llava(tmp_path / "clip", llava("clip")), receiver, tmp_path / "out")
    wide = llava("siglip", vision={"intermediate_size": 64})
    with pytest.raises(UsageError, match=r"is \[48, 32\], .* is \[64, 32\]|is \[48\], .* is \[64\]"):
        transplant(write_llava(tmp_path / "wide", wide), receiver, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_receiver_in_another_container_is_refused(tmp_path):
    giver = write_llava(tmp_path / "giver", llava("siglip"))
    receiver = write(tmp_path / "receiver", llava("siglip").state_dict(), llava("siglip").config)
    (receiver / "model.safetensors").unlink()
    torch.save(llava("siglip").state_dict(), receiver / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a folder of safetensors"):
        transplant(giver, receiver, tmp_path / "out")
