"""Every weight of every family has a class, and fused query, key and value come apart."""

import pytest
import torch
from test_bare import CASES, saved
from zoo import ZOO

from visprobe.analyses.weights.weights import weight_drift
from visprobe.encoders import load_encoder
from visprobe.encoders.families import TOWER_OF, TOWERS
from visprobe.encoders.layouts.sam import SAM
from visprobe.encoders.structure.tensor_class import CLASSES, by_class

ATTENTION = ("attention_q", "attention_k", "attention_v", "attention_out")
IN_A_BLOCK = {*ATTENTION, "mlp_in", "mlp_gate", "mlp_out", "norm", "scale"}


def check(encoder):
    found = {}
    for name, tensor in encoder.weights().items():
        group = encoder.weight_group(name)
        parts = by_class(encoder.family.tensor_class(name, group), tensor)
        assert {kind for kind, _ in parts} <= set(CLASSES) - {"other"}, name
        assert torch.equal(torch.cat([part for _, part in parts]) if len(parts) > 1 else parts[0][1], tensor)
        if group.startswith("block_"):
            assert {kind for kind, _ in parts} <= IN_A_BLOCK | {"clip_range"}, name
        for kind, part in parts:
            found.setdefault((group, kind), []).append((name, part))
    return found


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_weight_of_every_family_has_a_class(tmp_path, name):
    folder = tmp_path / "model"
    ZOO[name][0](folder)
    encoder = load_encoder(folder)
    found = check(encoder)
    width = next(site.dim for site in encoder.sites)
    for kind in ATTENTION:
        [weight] = [part for name, part in found["block_02", kind] if part.ndim == 2]
        assert weight.shape == (width, width)
    assert {kind for _, kind in found} >= {"patch_embedding", "mlp_in", "mlp_out", "norm"}
    assert {kind for group, kind in found if group == "projector"} <= {"projector"}


@pytest.mark.parametrize("case", CASES)
def test_every_weight_of_bare_towers_has_a_class(tmp_path, case):
    saved(tmp_path, case)
    assert {kind for _, kind in check(load_encoder(tmp_path))} >= {"patch_embedding", "mlp_in", "mlp_out", "norm"}


@pytest.mark.parametrize(
    ("family", "name", "kind"),
    [
        (SAM, "layers.0.attn.rel_pos_h", "position_embedding"),
        (SAM, "layers.0.mlp.lin2.weight", "mlp_out"),
        (TOWER_OF["mlcd"], "class_pos_emb", "position_embedding"),
        (TOWER_OF["dinov3_vit"], "embeddings.register_tokens", "class_token"),
        (TOWER_OF["dinov3_vit"], "model.layer.0.layer_scale1.lambda1", "scale"),
        (TOWER_OF["internvl_vision"], "encoder.layer.0.attention.q_norm.weight", "norm"),
        *((family, "something.new", "other") for family in (SAM, *TOWERS)),
    ],
)
def test_names_of_towers_that_are_not_in_the_zoo(family, name, kind):
    assert family.tensor_class(name, "block_01") == kind


def test_a_changed_query_in_a_fused_tensor_is_found_as_a_query():
    base = {"blocks.0.attn.qkv.weight": torch.ones(12, 4)}
    other = {"blocks.0.attn.qkv.weight": torch.cat([torch.full((4, 4), 1.5), torch.ones(8, 4)])}
    result = weight_drift("base", base, {"sft": other}, lambda name: "block_01")
    change = {row.site: row.estimate.value for row in result.select(measure="relative_change")}
    # sqrt(16 * 0.25 / 48) over the whole tensor; halves and ones are exact in float32.
    assert change == {"block_01": (4 / 48) ** 0.5, "tower": (4 / 48) ** 0.5, "attention_q": 0.5,
                      "attention_k": 0, "attention_v": 0}  # fmt: skip
    assert result.settings["groups"] == ["block_01", "tower"]
    assert result.settings["classes"] == ["attention_q", "attention_k", "attention_v"]


def test_infinite_clipping_ranges_are_not_weights_that_diverged():
    weights = {"encoder.layers.0.mlp.up_proj.input_max": torch.tensor(torch.inf), "patch_conv.weight": torch.ones(2, 2)}
    result = weight_drift("base", weights, {"sft": weights}, lambda name: "block_01")
    assert {row.site for row in result.rows} == {"block_01", "tower", "patch_embedding"}
