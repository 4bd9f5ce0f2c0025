"""Text towers: embeddings bit-equal to transformers, read without the rest, and one message where they cannot be."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_checkpoints import llava, write_llava
from tiny_two_tower import LENGTH, clip_tokenizer, two_tower

from visprobe.encoders import load_encoder
from visprobe.encoders.text.text_tower import load_text_tower, own_text_tower
from visprobe.errors import CheckpointError

TEXTS = ["a picture of a cat.", "dog", "A Long Sentence that is cut - " + "x" * LENGTH]


def features(model, inputs):
    with torch.no_grad():
        return model.get_text_features(**inputs).pooler_output


@pytest.mark.parametrize("kind", ["clip", "aimv2", "siglip", "siglip2"])
def test_embeddings_are_get_text_features(tmp_path, kind):
    projected = kind in ("clip", "aimv2")
    model = two_tower(tmp_path, kind, **({"projection_dim": 12} if projected else {}))
    tower = load_text_tower(tmp_path)
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        [text.lower() for text in TEXTS],
        padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt",
    )  # fmt: skip
    wanted = ("input_ids", "attention_mask") if projected else ("input_ids",)
    assert torch.equal(tower.embed(TEXTS), features(model, {name: own[name] for name in wanted}))
    assert tower.embed(TEXTS).shape == (3, tower.dim)
    assert tower.dim == (12 if projected else 32)


def test_each_tower_reads_the_token_that_it_was_trained_to_read(tmp_path):
    # SigLIP reads the last token, filling or not; CLIP the end of the text, so that filling changes nothing.
    siglip, clip = two_tower(tmp_path / "siglip", "siglip"), two_tower(tmp_path / "clip")
    for folder, model, equal in (("siglip", siglip, False), ("clip", clip, True)):
        tower = load_text_tower(tmp_path / folder)
        short = tower.tokens(["dog"])["input_ids"][:, :5]
        # the same numbers in sums of another length: a few float32 roundings
        assert torch.allclose(features(model, {"input_ids": short}), tower.embed(["dog"]), rtol=0, atol=1e-5) == equal


def test_the_old_and_the_new_way_to_find_the_end_of_a_text_agree(tmp_path):
    # Configurations of CLIP from before 2023 say eos_token_id 2, which means the highest token.
    new, old = two_tower(tmp_path / "new"), two_tower(tmp_path / "old", eos=2)
    old.load_state_dict(new.state_dict())
    old.save_pretrained(tmp_path / "old")
    assert torch.equal(load_text_tower(tmp_path / "new").embed(TEXTS), load_text_tower(tmp_path / "old").embed(TEXTS))


def test_only_the_text_tower_is_read(tmp_path):
    two_tower(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    needed = sum(t.nbytes for n, t in tensors.items() if n.startswith("text_") or n == "visual_projection.weight")
    header = (tmp_path / "model.safetensors").stat().st_size - sum(t.nbytes for t in tensors.values())
    assert needed <= load_text_tower(tmp_path).bytes_read <= needed + header


def test_a_tower_in_half_precision_is_run_in_float32(tmp_path):
    model = two_tower(tmp_path)
    model.half().save_pretrained(tmp_path)
    tower = load_text_tower(tmp_path)
    assert torch.equal(tower.embed(TEXTS), features(model.float(), tower.tokens(TEXTS)))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_is_found_where_the_vision_tower_is_found(tmp_path, kind):
    two_tower(tmp_path, kind)
    plain = load_text_tower(tmp_path).embed(["a cat"])
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_text_tower(tmp_path).embed(["a cat"]), plain)
    assert load_encoder(tmp_path).embeds


def test_what_has_no_text_tower(tmp_path):
    mllm = write_llava(tmp_path / "mllm", llava("clip"))
    assert own_text_tower(str(mllm)) is None
    assert own_text_tower(str(tmp_path / "gone")) is None
    with pytest.raises(CheckpointError, match=r"holds no text tower \(model_type 'llava'\)"):
        load_text_tower(mllm)


def test_of_an_expression_it_is_that_of_the_first(tmp_path):
    two_tower(tmp_path / "a", seed=1)
    two_tower(tmp_path / "b", seed=2)
    spec = f"{tmp_path / 'a'}[block 1 <- {tmp_path / 'b'}]"
    found = own_text_tower(spec)
    assert found is not None
    assert torch.equal(found.embed(TEXTS), load_text_tower(tmp_path / "a").embed(TEXTS))


def test_what_is_missing_or_foreign_is_one_message(tmp_path):
    two_tower(tmp_path / "none", tokenizer=False)
    with pytest.raises(CheckpointError, match="a text tower and no tokenizer"):
        load_text_tower(tmp_path / "none")
    (tmp_path / "none" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot read the tokenizer"):
        load_text_tower(tmp_path / "none")
    two_tower(tmp_path / "half")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    tensors.pop("text_model.final_layer_norm.weight")
    save_file(tensors, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"do not make a CLIPTextModel.*missing: final_layer_norm.weight"):
        load_text_tower(tmp_path / "half")
    two_tower(tmp_path / "foreign", eos=3)
    with pytest.raises(CheckpointError, match="tokens that its text tower does not know"):
        load_text_tower(tmp_path / "foreign").embed(["dog"])
    assert clip_tokenizer().eos_token_id != 3
