"""Encoders taken out of their checkpoints, and towers put into others: every weight where it was, bit for bit."""

import json
import stat
from pathlib import Path

import pytest
import test_dinov3 as dinov3
import test_llava_next as llava_next
import tiny_original
import torch
import transformers
from safetensors.torch import save_file
from tiny_checkpoints import images, llava, write, write_llava
from tiny_qwen import qwen, write_qwen
from whole_models import write_model
from zoo import ZOO

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.export import extract_encoder
from visprobe.encoders.exchange.transplant import transplant
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, UsageError
from visprobe.io import atomic


def next_llava(folder):
    return write_model(folder, llava_next.tiny(), processor=llava_next.processor())


def original(kind):
    def write_it(folder):
        _, named, saved = tiny_original.tower(kind, folder)
        return tiny_original.write_tower(folder, saved, named)

    return write_it


CASES = {
    **{name: write for name, (write, _, _) in ZOO.items()},
    "clip in two shards": lambda folder: write_llava(folder, llava("clip"), "B", shards=2),
    "several layers": lambda folder: write_llava(folder, llava("siglip", vision_feature_layer=[1, 3])),
    "bfloat16": lambda folder: write_llava(folder, llava("clip").to(torch.bfloat16), "D"),
    "llava-next": next_llava,
    "dinov3": lambda folder: dinov3.saved(folder, dinov3.tower(), **dinov3.STORED),
    "original with SAM": original("sam"),
    "original with timm": original("timm"),
}
TOWER_ONLY = ("internvl-original", "original with timm")  # their tensors are parts of those on disk


@pytest.mark.parametrize("case", CASES)
def test_an_extracted_encoder_is_read_as_its_checkpoint_was(case, tmp_path, monkeypatch):
    tiny_original.shrink(monkeypatch)
    resolution = Resolution(70 * 16 * 16)
    checkpoint = CASES[case](tmp_path / "source")
    written = extract_encoder(checkpoint, tmp_path / "out")
    source, back = (load_encoder(path, resolution=resolution) for path in (checkpoint, tmp_path / "out"))
    assert written.whole == (case not in TOWER_ONLY)
    assert (back.tower_hash, back.consumed) == (source.tower_hash, source.consumed)
    assert (back.processor_hash, back.pixel_kind) == (source.processor_hash, source.pixel_kind)
    if written.whole:
        assert (back.projector_hash, back.settings_hash) == (source.projector_hash, source.settings_hash)
        assert back.sites == source.sites
    before, after = (encoder.forward(encoder.preprocess(images(1)), sites(back)) for encoder in (source, back))
    assert all(torch.equal(before[site], after[site]) for site in before)
    assert_transformers_loads_the_tower(tmp_path / "out", source)


def sites(encoder):
    return [site.name for site in encoder.sites]


def assert_transformers_loads_the_tower(folder, source):
    """As the card says, with nothing missing, nothing left over and every weight equal."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    told, found = f'"{folder}", output_loading_info=True, dtype="auto"', {}
    with quiet():
        exec(code.replace('"path/to/this/folder"', told), found)
    tower, info = found["tower"]
    assert not any(info[fault] for fault in ("unexpected_keys", "mismatched_keys", "missing_keys"))
    own = tower.state_dict()
    weights = {name: tensor for name, tensor in source.weights().items() if not name.startswith("projector.")}
    assert all(torch.equal(own[name], weights[name]) for name in weights)


def test_the_image_processor_of_native_resolution_is_the_checkpoints_own(tmp_path):
    source = write_qwen(tmp_path / "source", qwen("qwen2_5_vl"))
    extract_encoder(source, tmp_path / "out")
    name = "preprocessor_config.json"
    assert (tmp_path / "out" / name).read_text() == (source / name).read_text()


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


@pytest.mark.sample(1)
@pytest.mark.parametrize(("layouts", "shards"), [(("A", "B"), 1), (("C", "C"), 3), (("D", "A"), 3)])
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


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_connector_inside_the_towers_class_stays_the_receivers(tmp_path, kind):
    giver = write_qwen(tmp_path / "giver", qwen(kind, seed=1), "Q-A")
    receiver = write_qwen(tmp_path / "receiver", qwen(kind, seed=2))
    done = transplant(giver, receiver, tmp_path / "out")
    assert done.encoder.tower_hash == load_encoder(giver).tower_hash
    assert done.encoder.projector_hash == load_encoder(receiver).projector_hash


@pytest.mark.parametrize("setting", [{"hidden_act": "relu"}, {"num_attention_heads": 2}])
def test_towers_that_run_the_same_shapes_differently_are_refused(tmp_path, setting):
    receiver = write_llava(tmp_path / "receiver", llava("siglip"))
    giver = write_llava(tmp_path / "giver", llava("siglip", vision=setting))
    with pytest.raises(UsageError, match=next(iter(setting))):
        transplant(giver, receiver, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_read_only_receiver_gives_a_copy_that_can_be_written(tmp_path):
    receiver = write_llava(tmp_path / "receiver", llava("siglip"))
    for path in receiver.iterdir():
        path.chmod(stat.S_IRUSR)
    transplant(receiver, receiver, tmp_path / "out")
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (tmp_path / "out").iterdir())


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


def test_a_receiver_with_an_adapter_is_refused(tmp_path):
    receiver = write_llava(tmp_path / "receiver", llava("siglip"))
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": str(receiver)}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    shapes = {"A": (2, 32), "B": (32, 2)}
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format(side): torch.ones(shape) for side, shape in shapes.items()}
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
    giver = write_llava(tmp_path / "giver", llava("siglip", seed=1))
    with pytest.raises(CheckpointError, match=r"not a folder of safetensors \(safetensors\+lora\)"):
        transplant(giver, tmp_path / "adapter", tmp_path / "out")  # the copy would lack the language model's adapter
    assert not (tmp_path / "out").exists()


@pytest.mark.sample(1)
@pytest.mark.parametrize("act", [lambda a, out: extract_encoder(a, out), lambda a, out: transplant(a, a, out)])
def test_what_was_interrupted_can_be_done_again_and_the_current_folder_stays(tmp_path, monkeypatch, act):
    source = write_llava(tmp_path / "a", llava("clip"))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        for folder in (Path("."), tmp_path / "out"):
            with pytest.raises(KeyboardInterrupt):
                act(source, folder)
    assert not (tmp_path / "out").exists()
    assert not any(here.iterdir())
    (here / ".new.visprobe-tmp-0").mkdir()  # what kill -9 leaves
    act(source, Path("."))
    assert load_encoder(here).tower_hash == load_encoder(source).tower_hash
    assert not any("tmp" in path.name for path in here.iterdir())
