"""Token embeddings are those of the whole model to the bit, in every spelling, and nothing else is read."""

import json
import math

import pytest
import torch
import transformers
from tiny_checkpoints import llava, write, write_llava, write_original
from tiny_internvl import original, original_config, tiny
from tiny_qwen import qwen, write_qwen
from whole_models import from_pretrained

from visprobe.encoders.checkpoint.opened import open_checkpoint
from visprobe.encoders.text.words import read_words
from visprobe.errors import CheckpointError


def embeddings_of(cls, folder):
    return from_pretrained(cls, folder).get_input_embeddings().weight


@pytest.mark.parametrize("layout", "ABCD")
def test_llava_in_every_spelling(tmp_path, layout):
    write_llava(tmp_path, llava(), layout, shards=3)
    words = read_words(tmp_path)
    assert torch.equal(words.embeddings, embeddings_of("LlavaForConditionalGeneration", tmp_path))
    assert words.bytes_read == words.embeddings.nbytes and words.scale == 1
    assert words.spoken == list(range(50)) and words.spelled(7) == "#7"  # no tokenizer: numbers


@pytest.mark.parametrize(("kind", "layout"), [("qwen2_vl", "Q-A"), ("qwen2_5_vl", "Q-D"), ("qwen3_vl", "Q-D")])
def test_qwen(tmp_path, kind, layout):
    model = qwen(kind)
    write_qwen(tmp_path, model, layout)
    assert torch.equal(read_words(tmp_path).embeddings, model.get_input_embeddings().weight)


def test_internvl_and_originals(tmp_path):
    model = tiny()
    write(tmp_path / "hf", model.state_dict(), model.config)
    write(tmp_path / "original", original(model), original_config())
    expected = model.get_input_embeddings().weight
    for name in ("hf", "original"):
        words = read_words(tmp_path / name)
        assert torch.equal(words.embeddings, expected) and words.bytes_read == expected.nbytes
    model = llava()
    write_original(tmp_path / "llava", model, "tower")
    assert torch.equal(read_words(tmp_path / "llava").embeddings, model.get_input_embeddings().weight)


def test_gemma_multiplies_its_words_by_the_root_of_their_width(tmp_path):
    text = transformers.Gemma3TextConfig(
        vocab_size=50, hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=12,
        num_key_value_heads=2,
    )  # fmt: skip
    table = transformers.AutoModel.from_config(text).get_input_embeddings()
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}
    write(tmp_path, {"language_model.model.embed_tokens.weight": table.weight}, config)
    words = read_words(tmp_path)
    assert words.scale == math.sqrt(24)
    torch.testing.assert_close(words.embeddings * words.scale, table(torch.arange(50)), rtol=1e-6, atol=0)


def test_of_tied_weights_either_name_may_be_stored(tmp_path):
    table = torch.randn(5, 4)
    write(tmp_path, {"lm_head.weight": table}, {"model_type": "llava", "text_config": {"tie_word_embeddings": True}})
    assert torch.equal(read_words(tmp_path).embeddings, table)


def test_words_of_a_tokenizer_are_spelled_and_special_ones_are_not_spoken(tmp_path):
    from visprobe.demo.small_llava import build_model, build_processor

    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    words = read_words(tmp_path)
    assert words.spelled(processor.tokenizer.convert_tokens_to_ids("red")) == "red"
    special = set(processor.tokenizer.all_special_ids)
    assert special and not special & set(words.spoken)
    assert len(words.spoken) == len(processor.tokenizer) - len(special)
    assert read_words(f"{tmp_path}[blocks 0-1 <- {tmp_path}]").tensor == words.tensor


def test_checkpoints_without_a_clear_table_are_refused(tmp_path):
    cases = {
        "no language model": {"vision_model.x": torch.ones(2, 2)},
        "not clear": {"a.embed_tokens.weight": torch.ones(2, 2), "b.embed_tokens.weight": torch.ones(2, 2)},
        "no table of finite": {"embed_tokens.weight": torch.full((2, 2), math.nan)},
        "float32, bfloat16 or float16": {"embed_tokens.weight": torch.ones(2, 2, dtype=torch.int8)},
    }
    for number, (message, tensors) in enumerate(cases.items()):
        write(tmp_path / str(number), tensors, {"model_type": "siglip_vision_model"})
        with pytest.raises(CheckpointError) as raised:
            read_words(tmp_path / str(number))
        assert message in f"{raised.value.message} {raised.value.hint}"


def test_a_broken_tokenizer_leaves_numbers(tmp_path):
    write_llava(tmp_path, llava())
    (tmp_path / "tokenizer.json").write_text("{")
    assert json.loads((tmp_path / "config.json").read_text())
    assert read_words(tmp_path).spelled(3) == "#3" and open_checkpoint(tmp_path).spec
