"""Checkpoint expressions: which weights come from which checkpoint, and what that does to the states."""

import pytest
import torch
from tiny_checkpoints import images, llava, write_llava

from visprobe.encoders import load_encoder
from visprobe.encoders.exchange.swap import Swap, parse_swap
from visprobe.errors import UsageError


@pytest.fixture
def pair(tmp_path):
    return [write_llava(tmp_path / name, llava("siglip", seed=seed)) for seed, name in enumerate(("sft", "dpo"))]


def taken(encoder, source):
    """Weight groups of `encoder` whose every weight is that of `source`."""
    mine, theirs = encoder.weights(), load_encoder(source).weights()
    equal = {name: torch.equal(mine[name], theirs[name]) for name in mine}
    groups = {encoder.weight_group(name) for name in mine}
    return {g for g in groups if all(equal[name] for name in mine if encoder.weight_group(name) == g)}


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("parts", "groups"),
    [
        ("blocks 1-2", {"block_01", "block_02"}),
        ("block 3", {"block_03"}),
        ("blocks 0-1, projector", {"embeddings", "block_01", "projector"}),
        ("embeddings,final_norm", {"embeddings", "final_norm"}),
    ],
)
def test_the_named_parts_and_no_others_come_from_the_other_checkpoint(pair, parts, groups):
    sft, dpo = pair
    encoder = load_encoder(f"{sft}[{parts} <- {dpo}]")
    assert taken(encoder, dpo) == groups
    assert taken(encoder, sft) == {encoder.weight_group(n) for n in encoder.weights()} - groups
    assert encoder.name == f"sft[{parts} <- dpo]"
    assert encoder.provenance.path == f"{sft}[{parts} <- {dpo}]"


@pytest.mark.thorough
def test_states_up_to_the_last_swapped_block_are_those_of_the_source(pair):
    sft, dpo = pair
    swapped, source, rest = (load_encoder(x)(images()) for x in (f"{sft}[blocks 0-2 <- {dpo}]", dpo, sft))
    assert all(torch.equal(swapped[f"block_0{n}"], source[f"block_0{n}"]) for n in range(3))
    assert not torch.equal(swapped["block_03"], source["block_03"])
    assert not torch.equal(swapped["block_03"], rest["block_03"])


def test_swapping_every_part_gives_the_other_encoder(pair):
    sft, dpo = pair
    whole = load_encoder(f"{sft}[blocks 0-3, final_norm, projector <- {dpo}]")
    other = load_encoder(dpo)
    assert (whole.tower_hash, whole.projector_hash) == (other.tower_hash, other.projector_hash)


@pytest.mark.thorough
def test_expressions_can_follow_each_other(pair):
    sft, dpo = pair
    encoder = load_encoder(f"{sft}[block 1 <- {dpo}][projector <- {dpo}]")
    assert taken(encoder, dpo) == {"block_01", "projector"}


def test_a_folder_with_such_a_name_is_a_folder(tmp_path):
    folder = write_llava(tmp_path / "a[block 1 <- b]", llava("siglip"))
    assert parse_swap(str(folder)) is None
    assert load_encoder(folder).name == "a[block 1 <- b]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a[blocks 1-2 <- ]", "not a checkpoint expression"),
        ("a <- b", "not a checkpoint expression"),
        ("a[blocks 3-1 <- b]", "counts backwards"),
        ("a[layers 1 <- b]", "no part of an encoder"),
        ("a[ <- b]", "not a checkpoint expression|no part of an encoder"),
    ],
)
def test_malformed_expressions(text, message):
    with pytest.raises(UsageError, match=message):
        parse_swap(text)


def test_parts_that_the_encoder_does_not_have(pair):
    with pytest.raises(UsageError, match=r"sft has no block_04, block_05"):
        load_encoder(f"{pair[0]}[blocks 3-5 <- {pair[1]}]")


def test_encoders_of_other_shape_are_refused(tmp_path, pair):
    other = write_llava(tmp_path / "clip", llava("clip"))
    with pytest.raises(UsageError, match=r"different shape: .* against absent"):
        load_encoder(f"{pair[0]}[block 1 <- {other}]")


@pytest.mark.sample(1)
@pytest.mark.parametrize("changes", [{"vision": {"hidden_act": "relu"}}, {"projector_hidden_act": "relu"}])
def test_encoders_that_use_equal_shapes_differently_are_refused(tmp_path, pair, changes):
    other = write_llava(tmp_path / "other", llava("siglip", **changes))
    with pytest.raises(UsageError, match=r"differently: .*relu"):
        load_encoder(f"{pair[0]}[block 1 <- {other}]")


def test_block_zero_is_what_makes_site_block_00():
    assert Swap("a", "block 0", "b").groups() == {"embeddings"}
