"""Adapters move exactly the layers they are on, and merge into an ordinary checkpoint."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import ASKED, FAMILIES, llava
from torch import nn

from visprobe.encoders import load_encoder
from visprobe.errors import UsageError
from visprobe.mllm.batches import RowEncoder, SupervisedCollator
from visprobe.mllm.parts import PARTS, part_of, tower_block, train_only
from visprobe.training.callbacks import check_gradients
from visprobe.training.models.lora import add_adapters, merge, merged_weights
from visprobe.training.recipe import Lora

TOWER = Lora(parts=("vision_tower",), rank=2, alpha=4)


def batch_of(processor):
    return SupervisedCollator(RowEncoder(processor, ASKED))([{"row": number} for number in range(3)])


def train(model, processor, steps=3):
    batch = batch_of(processor)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model


def trained(parts, lora=TOWER, layer=-1):
    """A model trained with adapters and merged, what it was before, and its processor."""
    model, processor = llava(layer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_only(model, parts)
    add_adapters(model, lora)
    return merge(train(model, processor)), before, processor


def moved(model, before):
    assert model.state_dict().keys() == before.keys()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def linear_weights(model, part):
    return {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, nn.Linear)} & {
        name for name, _ in model.named_parameters() if part_of(name) == part
    }


def test_adapters_on_the_tower_move_its_linear_layers_and_nothing_else():
    model, before, _ = trained(["vision_tower"])
    on_path = {name for name in linear_weights(model, "vision_tower") if ".head." not in name}
    assert moved(model, before) == on_path


def test_the_change_of_each_layer_has_the_rank_asked_for():
    model, before, _ = trained(["vision_tower"])
    for name in moved(model, before):
        singular = torch.linalg.svdvals(model.state_dict()[name].double() - before[name].double())
        # Two directions by construction; what is left is the rounding of float32 sums, 1e-7 of the weights.
        assert singular[2] < 1e-6 < singular[0]


def test_other_parts_train_fully_beside_the_adapters():
    model, before, _ = trained(["vision_tower", "projector"])
    changed = moved(model, before)
    whole = {name for name in before if part_of(name) == "projector"}
    assert {name for name in changed if part_of(name) == "projector"} == whole
    assert not any(part_of(name) == "language_model" for name in changed)


def test_adapters_change_nothing_until_they_are_trained():
    model, processor = llava()
    batch = batch_of(processor)
    model.eval().requires_grad_(False)  # as the adapters leave it: kernels may depend on it
    with torch.inference_mode():
        before = model(**batch).logits
    add_adapters(model, TOWER)
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("parts", [("vision_tower",), ("projector",), ("language_model",), PARTS], ids=str)
def test_merging_keeps_the_outputs(parts):
    model, processor = llava()
    train_only(model, parts)
    add_adapters(model, Lora(parts=parts, rank=2, alpha=4))
    train(model, processor)
    batch = batch_of(processor)
    with torch.inference_mode():
        before = model.eval()(**batch).logits
        # Adding up in another order: float32 rounding of logits of about 1.
        assert torch.allclose(merge(model)(**batch).logits, before, atol=1e-5)


def test_a_merged_checkpoint_is_an_ordinary_one(tmp_path):
    base, processor = llava()
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    model, _, processor = trained(["vision_tower"])
    model.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged")]
    assert files[0].keys() == files[1].keys()
    old, new = (load_encoder(tmp_path / name) for name in ("base", "merged"))
    assert old.tower_hash != new.tower_hash
    assert old.projector_hash == new.projector_hash


def test_every_trainable_parameter_gets_a_gradient():
    """Distributed training waits for all of them; adapters behind the layer that is read would never come."""
    model, processor = llava(-2)
    train_only(model, ["vision_tower"])
    layers = add_adapters(model, TOWER)
    assert {tower_block(f"{name}.weight") for name in layers} == {0, 1}
    model(**batch_of(processor)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert check_gradients(model) == []


def test_adapters_on_a_range_of_blocks():
    blocks = ("vision_tower.blocks[1:2]",)
    model, before, _ = trained(blocks, Lora(parts=blocks, rank=2))
    assert moved(model, before) == {name for name in linear_weights(model, "vision_tower") if tower_block(name) == 1}


def test_merged_weights_are_those_that_merging_gives():
    model, processor = llava()
    plain = {name: value.clone() for name, value in merged_weights(model).items()}
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())
    train_only(model, PARTS)
    add_adapters(model, TOWER)
    train(model, processor)
    meanwhile = merged_weights(model)
    merged = merge(model).state_dict()
    assert merged.keys() == meanwhile.keys() == plain.keys()
    assert all(torch.equal(value, meanwhile[name]) for name, value in merged.items())


def test_the_head_of_the_language_model_keeps_its_weights():
    model, before, _ = trained(["language_model"], Lora(parts=("language_model",), rank=2))
    assert "lm_head.weight" not in moved(model, before)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"llava"}))
def test_other_families_take_adapters_on_their_tower(name):
    model, processor = FAMILIES[name]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_only(model, ["vision_tower"])
    add_adapters(model, TOWER)
    changed = moved(merge(train(model, processor, 2)), before)
    assert changed and {part_of(name) for name in changed} == {"vision_tower"}


def test_what_cannot_be_adapted_is_refused():
    with pytest.raises(UsageError, match="no such part: tower"):
        add_adapters(llava()[0], Lora(parts=("tower",)))
    model, _ = FAMILIES["gemma3"]()
    with pytest.raises(UsageError, match="projector has no linear layers"):
        add_adapters(model, Lora(parts=("projector",)))
