"""Which parameters are trained, against the gradients that really arrive."""

import re

import pytest
import torch
import transformers
from tiny_families import ASKED, FAMILIES, llava, onevision, text_config

from visprobe.errors import TrainingError, UsageError
from visprobe.mllm.batches import RowEncoder, SupervisedCollator
from visprobe.mllm.parts import PARTS, blocks_to_shard, off_path, part_of, tower_block, train_only


def loss(model, processor):
    return model(**SupervisedCollator(RowEncoder(processor, ASKED))([{"row": 0}, {"row": 1}])).loss


def without_any_gradient(model, processor):
    """Names that one backward pass with every parameter trainable does not reach."""
    model.requires_grad_(True)
    loss(model, processor).backward()
    return sorted(name for name, parameter in model.named_parameters() if parameter.grad is None)


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("layer", [-1, -2, 1, [1, 2], [-1, -3]], ids=str)
@pytest.mark.parametrize("tower", ["siglip", "clip"])
def test_off_path_is_exactly_what_no_gradient_reaches(tower, layer):
    model, processor = llava(layer, tower)
    found = off_path(model)
    assert found == without_any_gradient(model, processor)
    assert any(".post_layernorm." in name for name in found)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def test_off_path_of_every_family(family):
    model, processor = family
    assert off_path(model) == without_any_gradient(model, processor)


def test_every_parameter_of_every_family_has_a_part(family):
    model, _ = family
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert set(parts.values()) == set(PARTS)
    blocks = {tower_block(name) for name in parts} - {None}
    assert blocks == {0, 1, 2}


def test_the_blocks_to_shard_are_those_of_tower_and_language_model(family):
    model, _ = family
    third = {match[1] for name, _ in model.named_parameters() if (match := re.match(r"(.+?\.2)\.", name))}
    blocks = {type(model.get_submodule(name)).__name__ for name in third if "merger" not in name}
    assert set(blocks_to_shard(model)) == blocks and len(blocks) == 2


def test_parts_of_internvl():
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": [32, 32], "patch_size": [8, 8]}  # fmt: skip
    config = transformers.InternVLConfig(vision_config=vision, text_config=text_config("qwen2"), image_seq_length=4)
    names = [name for name, _ in transformers.InternVLForConditionalGeneration(config).named_parameters()]
    assert {part_of(name) for name in names} == set(PARTS)
    assert {tower_block(name) for name in names} == {None, 0, 1}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.merger.mlp.0.weight", "projector"),
        ("model.visual.deepstack_merger_list.1.norm.weight", "projector"),
        ("model.visual.blocks.3.attn.qkv.weight", "vision_tower"),
        ("model.image_newline", "projector"),
        ("module.model.vision_tower.encoder.layers.3.mlp.fc1.weight", "vision_tower"),
        ("_orig_mod.lm_head.weight", "language_model"),
        (
            "_fsdp_wrapped_module.model.language_model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight",
            "language_model",
        ),
        ("base_model.model.model.vision_tower.encoder.layers.3.mlp.fc1.lora_A.default.weight", "vision_tower"),
    ],
)
def test_names_under_wrappers_and_inside_towers(name, part):
    assert part_of(name) == part
    assert tower_block(name) == (3 if ".3." in name else None)


def test_an_unknown_part_is_named():
    with pytest.raises(TrainingError, match="no known part"):
        part_of("model.audio_tower.weight")


def test_a_range_of_blocks_trains_these_blocks_and_no_others():
    model, processor = llava()
    train_only(model, ["vision_tower.blocks[1:3]", "projector"])
    blocks = {f"model.vision_tower.encoder.layers.{number}." for number in (1, 2)}
    assert {name for name in trained(model) if part_of(name) == "projector"}
    assert all(name.startswith((*blocks, "model.multi_modal_projector.")) for name in trained(model))
    loss(model, processor).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == trained(model)


def test_ranges_are_python_slices_and_add_up():
    model, _ = llava()
    count = 3
    for text in ("[:1]", "[2:]", "[0:3]", "[:]", "[1 : 2]"):
        train_only(model, [f"vision_tower.blocks{text}"])
        start, stop = (part.strip() for part in text.strip("[]").split(":"))
        expected = set(range(count)[slice(int(start) if start else None, int(stop) if stop else None)])
        assert {tower_block(name) for name in trained(model)} == expected
    train_only(model, ["vision_tower.blocks[0:1]", "vision_tower.blocks[2:3]"])
    assert {tower_block(name) for name in trained(model)} == {0, 2}


@pytest.mark.parametrize("text", ["[2:4]", "[3:]", "[2:2]", "[2:1]"])
def test_a_range_outside_the_tower_is_refused(text):
    with pytest.raises(UsageError, match="does not fit a tower of 3 blocks"):
        train_only(llava()[0], [f"vision_tower.blocks{text}"])


@pytest.mark.parametrize("item", ["tower", "vision_tower.blocks[-1:]", "projector.blocks[0:1]", "vision_tower[0:1]"])
def test_what_is_no_part_is_refused(item):
    with pytest.raises(UsageError, match="no such part"):
        train_only(llava()[0], [item])


def test_blocks_the_model_never_reads_are_refused():
    with pytest.raises(UsageError, match="never reads"):
        train_only(llava(-2)[0], ["vision_tower.blocks[2:3]"])


def test_what_is_off_path_stays_frozen_and_is_reported():
    model, _ = onevision()
    frozen = train_only(model, PARTS)
    assert frozen == [f"model.vision_tower.post_layernorm.{kind}" for kind in ("bias", "weight")]
    assert trained(model) == {name for name, _ in model.named_parameters()} - set(frozen)


def test_a_frozen_block_keeps_its_bits():
    model, processor = llava()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    train_only(model, ["vision_tower.blocks[0:1]"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    loss(model, processor).backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    assert {tower_block(name) for name in moved} == {0}
