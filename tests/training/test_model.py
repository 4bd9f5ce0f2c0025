"""What can be trained loads with its own weights; what cannot says why."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_families import FAMILIES, llava
from tiny_pieces import write_language_model
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil

from visprobe.errors import CheckpointError, PrerequisiteError, UsageError
from visprobe.mllm.load import check_processor, load_for_training, processor_for_training, read_processor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, processor = llava()
    model.save_pretrained(folder, max_shard_size="60KB")
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "base")


def refused(path, reason):
    with pytest.raises(CheckpointError, match=r"cannot load .* for training: ") as error:
        load_for_training(path)
    assert reason in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


def test_weights_and_processor_come_back_as_they_were_saved(saved):
    model, processor = load_for_training(saved)
    original, its_processor = llava()
    before, after = original.state_dict(), model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]}]
    assert processor.apply_chat_template(turns) == its_processor.apply_chat_template(turns)


def test_the_precision_is_float32_unless_asked_otherwise(saved):
    assert load_for_training(str(saved))[0].dtype == torch.float32
    assert load_for_training(saved, "bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["gemma3", "idefics3"])
def test_other_families_load(name, tmp_path):
    model, processor = FAMILIES[name]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_for_training(tmp_path)
    assert type(again) is type(model)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nowhere", "nowhere"])
def test_a_missing_folder(path):
    refused(path, "there is no such folder")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, str(tmp_path))


def test_no_processor(folder):
    for file in ("processor_config.json", "preprocessor_config.json"):
        (folder / file).unlink(missing_ok=True)
    refused(folder, "its processor does not load")


def test_no_chat_template(folder):
    (folder / "chat_template.jinja").unlink()
    refused(folder, "no chat template")


def test_a_shard_that_is_missing(folder):
    sorted(folder.glob("*.safetensors"))[0].unlink()
    refused(folder, "safetensors")


def test_a_shard_that_is_cut_off(folder):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(folder, "a file of its weights is damaged")


def test_tensors_that_no_file_holds(folder):
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    lost = [name for name in content["weight_map"] if "multi_modal_projector" in name]
    for shard in folder.glob("*.safetensors"):
        kept = {name: value for name, value in load_file(shard).items() if name not in lost}
        save_file(kept, shard, metadata={"format": "pt"})
    for name in lost:
        del content["weight_map"][name]
    index.write_text(json.dumps(content))
    refused(folder, "multi_modal_projector.linear_1.bias")


def test_weights_of_another_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["intermediate_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "mlp.fc1.bias [48], not [56]")


def test_an_adapter_is_not_a_base(folder):
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, "LoRA adapter")


def test_a_text_only_model(tmp_path):
    write_language_model(tmp_path)
    refused(tmp_path, "a tokenizer but no processor for images")


def test_a_tokenizer_without_the_image_token():
    model, processor = llava()
    processor.image_token = "<picture>"
    with pytest.raises(CheckpointError, match="has no image token '<picture>'"):
        check_processor("here", processor, model.config)


def test_a_tokenizer_of_other_weights():
    model, processor = llava()
    model.config.image_token_id = 1000
    with pytest.raises(CheckpointError, match="image_token_id 1000, the tokenizer ends at 30"):
        check_processor("here", processor, model.config)


def test_a_processor_that_needs_another_library(saved, monkeypatch):
    def without(*_, **__):
        raise ImportError("VideoProcessor requires the Torchvision library.\nSee the instructions.")

    monkeypatch.setattr("visprobe.mllm.load.AutoProcessor.from_pretrained", without)
    with pytest.raises(PrerequisiteError, match="requires the Torchvision library") as error:
        load_for_training(saved)
    assert "pip install torchvision" in error.value.hint


def test_pixels_are_pillows_and_the_tokenizer_stays_what_it_is(saved):
    """With torchvision installed transformers would take its own resizing."""
    processor = load_for_training(saved)[1]
    assert type(processor.image_processor).__name__.endswith("Pil")
    assert processor.tokenizer.backend == "tokenizers"


@pytest.mark.parametrize("name", ["llava", "gemma3", "idefics3", "smolvlm"])
def test_the_filter_of_images_is_the_one_asked_for_and_is_saved(name, tmp_path):
    model, processor = FAMILIES[name]()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    picture = Image.radial_gradient("L").convert("RGB").resize((90, 70))
    pixels = {}
    for resample in ("processor", "bilinear", "bicubic"):
        loaded = processor_for_training(tmp_path / "base", resample)[0]
        loaded.save_pretrained(tmp_path / resample)
        kept = read_processor(tmp_path / resample).image_processor
        made, again = (one([picture], return_tensors="pt")["pixel_values"] for one in (loaded.image_processor, kept))
        assert torch.equal(made, again)
        pixels[resample] = made
    assert not torch.equal(pixels["bilinear"], pixels["bicubic"])
    own = processor.image_processor([picture], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels["processor"], own)


def test_an_image_processor_that_takes_no_filter(saved, monkeypatch):
    processor = read_processor(saved)
    processor.image_processor = Pix2StructImageProcessorPil()
    monkeypatch.setattr("visprobe.mllm.load.read_processor", lambda _: processor)
    with pytest.raises(UsageError, match=r"resample bicubic: .*Pix2StructImageProcessorPil, takes no filter"):
        processor_for_training(saved, "bicubic")
