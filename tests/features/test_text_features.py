"""Features of captions: equal to the model's own hidden states averaged one caption at a time, and kept by content."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError, DataError
from visprobe.features.store import FeatureStore
from visprobe.features.text import LanguageModel

CAPTIONS = ["a red 3", "a blue 7 and a green 4", "red", "a red 3"] * 5  # more than a batch, of unequal lengths


def write_model(folder, seed=0, pad=True):
    """A tiny LLaMA with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "<unk>", "a", "red", "blue", "green", "and", "3", "7", "4"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "<pad>"} if pad else {}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", padding_side="left", **marks
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    with quiet():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", [True, False])
def test_every_layer_is_the_mean_over_the_tokens_of_the_caption_alone(tmp_path, pad):
    folder = write_model(tmp_path / "lm", pad=pad)
    found = LanguageModel(str(folder)).features(CAPTIONS, FeatureStore(tmp_path / "store"))
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert list(found.layers) == [f"layer_{i:02d}" for i in range(4)]
    for row, caption in enumerate(CAPTIONS):
        with torch.no_grad():
            states = model(**tokenizer(caption, return_tensors="pt"), output_hidden_states=True).hidden_states
        for layer, state in zip(found.layers.values(), states, strict=True):
            # Padding changes the order of float32 sums of 16 numbers.
            np.testing.assert_allclose(layer[row], state[0].mean(0).numpy(), rtol=0, atol=1e-5)


def test_what_is_stored_is_found_by_content_and_not_by_name(tmp_path):
    store, folder = FeatureStore(tmp_path / "store"), write_model(tmp_path / "lm")
    first = LanguageModel(str(folder)).features(CAPTIONS, store)
    assert first.forwarded == len(CAPTIONS)
    again = LanguageModel(str(shutil.copytree(folder, tmp_path / "copy"))).features(CAPTIONS, store)
    assert again.forwarded == 0 and again.content == first.content
    assert np.array_equal(again.layers["layer_02"], first.layers["layer_02"])
    assert LanguageModel(str(folder)).features([*CAPTIONS[:-1], "blue"], store).forwarded == len(CAPTIONS)
    assert LanguageModel(str(folder), dtype=torch.bfloat16).features(CAPTIONS, store).forwarded == len(CAPTIONS)
    write_model(folder, seed=1)  # the same name, other weights
    changed = LanguageModel(str(folder)).features(CAPTIONS, store)
    assert changed.forwarded == len(CAPTIONS) and changed.content != first.content


def test_the_language_model_of_a_multimodal_checkpoint_is_one_too(tmp_path):
    from visprobe.demo.small_llava import build_model, build_processor

    processor = build_processor()
    model = build_model(processor, seed=0).eval()
    model.save_pretrained(tmp_path / "mllm")
    processor.save_pretrained(tmp_path / "mllm")
    found = LanguageModel(str(tmp_path / "mllm")).features(["red", "how many digits"], FeatureStore(tmp_path / "s"))
    with torch.no_grad():
        ids = processor.tokenizer("how many digits", return_tensors="pt")["input_ids"]
        states = model.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(found.layers) == len(states)
    for layer, state in zip(found.layers.values(), states, strict=True):
        np.testing.assert_allclose(layer[1], state[0].mean(0).numpy(), rtol=0, atol=1e-5)  # as above


def test_what_is_no_language_model_is_refused_in_one_message(tmp_path):
    folder = write_model(tmp_path / "lm")
    with pytest.raises(DataError, match="has no token"):
        LanguageModel(str(folder)).features(["red", "  "], FeatureStore(tmp_path / "store"))
    silent = shutil.copytree(folder, tmp_path / "silent")
    (silent / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        LanguageModel(str(silent))
    with pytest.raises(CheckpointError, match="does not exist"):
        LanguageModel(str(tmp_path / "nowhere"))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be loaded as a language model"):
        LanguageModel(str(folder)).features(["red"], FeatureStore(tmp_path / "store"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights are missing"):
        LanguageModel(str(folder))
    (silent / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(CheckpointError, match="no decoder of text"):
        LanguageModel(str(silent))
