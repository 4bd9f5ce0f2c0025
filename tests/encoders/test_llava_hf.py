"""LLaVA and LLaVA-OneVision of transformers: what is read equals what the whole model computes, bit for bit."""

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, SIDE, images, llava, write, write_llava

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError

MODELS = [("siglip", "llava"), ("clip", "llava"), ("siglip", "llava_onevision"), ("clip", "llava_onevision")]


def whole(folder, model_type):
    name = {"llava": "Llava", "llava_onevision": "LlavaOnevision"}[model_type]
    with quiet():
        return (
            getattr(transformers, f"{name}ForConditionalGeneration")
            .from_pretrained(folder)
            .eval()
            .requires_grad_(False)
        )


def image_features(model, pixels):
    """Selected tower tokens and projected tokens by the model's own `get_image_features`."""
    with torch.no_grad():
        if model.config.model_type == "llava":
            out = model.get_image_features(pixels, output_hidden_states=True)
            projected = torch.stack(list(out.pooler_output))
        else:  # two images per sample: one view each, and a newline token after it
            out = model.get_image_features(
                pixels[:, None], torch.tensor([[SIDE, SIDE]] * len(pixels)), batch_num_images=torch.tensor([2]),
                output_hidden_states=True,
            )  # fmt: skip
            projected = torch.stack(list(out.pooler_output))[:, :-1]
    return out.hidden_states[model.config.vision_feature_layer], projected


@pytest.mark.parametrize(("family", "model_type"), MODELS)
@pytest.mark.parametrize(("layout", "shards"), [("A", 1), ("B", 3), ("C", 1), ("C", 3), ("D", 1)])
def test_tower_and_features_equal_those_of_the_whole_model(tmp_path, family, model_type, layout, shards):
    write_llava(tmp_path, llava(family, model_type), layout, shards)
    encoder, model = load_encoder(tmp_path), whole(tmp_path, model_type)
    own = {**model.model.vision_tower.state_dict()}
    own |= {f"projector.{name}": t for name, t in model.model.multi_modal_projector.state_dict().items()}
    weights = encoder.weights()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    tokens = encoder(images())
    consumed, projected = image_features(model, encoder.preprocess(images()).inputs["pixel_values"])
    assert torch.equal(tokens["consumed"], consumed[:, encoder.prefix_tokens :])
    assert torch.equal(tokens["projected"], projected)
    assert encoder.provenance.layout == layout
    assert encoder.grid == (4, 4)


@pytest.mark.parametrize("family", ["siglip", "clip"])
def test_hashes_do_not_depend_on_the_layout(tmp_path, family):
    model = llava(family)
    encoders = [load_encoder(write_llava(tmp_path / x, model, x, n)) for x, n in zip("ABCD", (1, 2, 3, 1), strict=True)]
    assert len({encoder.tower_hash for encoder in encoders}) == 1
    assert len({encoder.projector_hash for encoder in encoders}) == 1
    other = load_encoder(write_llava(tmp_path / "other", llava(family, seed=1)))
    assert other.tower_hash != encoders[0].tower_hash
    assert other.projector_hash != encoders[0].projector_hash


@pytest.mark.parametrize(("layer", "site"), [(-1, "block_03"), (-2, "block_02"), (1, "block_01"), (-4, "block_00")])
def test_the_consumed_site_is_counted_from_the_input(tmp_path, layer, site):
    model = llava("siglip", vision_feature_layer=layer)
    encoder = load_encoder(write_llava(tmp_path, model))
    assert encoder.consumed == site
    consumed, projected = image_features(model, encoder.preprocess(images()).inputs["pixel_values"])
    tokens = encoder(images())
    assert torch.equal(tokens["consumed"], consumed)
    assert torch.equal(tokens["projected"], projected)
    on_path = [s.name for s in encoder.sites if s.on_path]
    assert on_path == [f"block_{n:02d}" for n in range(layer % (BLOCKS + 1) + 1)] + ["projected"]


def test_parts_that_the_loss_never_reaches_are_named(tmp_path):
    assert load_encoder(write_llava(tmp_path, llava("clip"))).provenance.off_path == ("block_03", "final_norm")


def test_a_saved_head_is_read_and_off_the_path(tmp_path):
    encoder = load_encoder(write_llava(tmp_path, llava("siglip", vision={"vision_use_head": True})))
    assert encoder.provenance.off_path == ("final_norm", "head")
    assert "head.probe" in encoder.weights()


def test_an_absent_last_norm_is_no_fault_where_the_model_does_not_read_it(tmp_path):
    model = llava("siglip")
    kept = {k: v for k, v in model.state_dict().items() if "post_layernorm" not in k}
    with_norm = load_encoder(write_llava(tmp_path / "with", model))
    without = load_encoder(write(tmp_path / "without", kept, model.config))
    assert "final_norm" not in {site.name for site in without.sites}
    assert torch.equal(with_norm(images())["projected"], without(images())["projected"])
    assert without.untrained(0).weights().keys() == without.weights().keys()


def test_default_strategy_on_a_tower_without_class_token(tmp_path):
    model = llava("siglip", vision_feature_select_strategy="default")
    encoder = load_encoder(write_llava(tmp_path, model))
    _, projected = image_features(model, encoder.preprocess(images()).inputs["pixel_values"])
    assert torch.equal(encoder(images())["projected"][:, 1:], projected)
    assert "drop the first patch" in encoder.provenance.warnings[0]


def test_full_strategy_on_a_tower_with_class_token(tmp_path):
    model = llava("clip", vision_feature_select_strategy="full")
    encoder = load_encoder(write_llava(tmp_path, model))
    _, projected = image_features(model, encoder.preprocess(images()).inputs["pixel_values"])
    assert torch.equal(encoder(images())["projected"], projected[:, 1:])
    assert "class token" in encoder.provenance.warnings[0]


def test_the_projector_follows_its_configuration(tmp_path):
    model = llava("siglip", projector_hidden_act="relu", multimodal_projector_bias=False)
    encoder = load_encoder(write_llava(tmp_path, model))
    _, projected = image_features(model, encoder.preprocess(images()).inputs["pixel_values"])
    assert torch.equal(encoder(images())["projected"], projected)
    assert {n for n in encoder.weights() if n.startswith("projector.")} == {
        "projector.linear_1.weight",
        "projector.linear_2.weight",
    }


def test_bfloat16_weights_are_kept_as_stored(tmp_path):
    model = llava("clip").to(torch.bfloat16)
    encoder = load_encoder(write_llava(tmp_path, model))
    name = "encoder.layers.0.mlp.fc1.weight"
    assert encoder.weights()[name].dtype == torch.bfloat16
    assert torch.equal(encoder.weights()[name], model.state_dict()[f"model.vision_tower.{name}"])
    assert encoder.provenance.dtype == "bfloat16"
    assert encoder(images())["consumed"].dtype == torch.float32
    assert load_encoder(tmp_path, dtype=torch.bfloat16)(images())["consumed"].dtype == torch.bfloat16


def test_mixed_dtypes_are_kept_as_stored(tmp_path):
    model = llava("siglip")
    mixed = {
        k: v.bfloat16() if "mlp" in k else v.half() if "self_attn" in k else v for k, v in model.state_dict().items()
    }
    weights = load_encoder(write(tmp_path, mixed, model.config)).weights()
    assert all(torch.equal(v, mixed[f"model.vision_tower.{k}"]) for k, v in weights.items() if "projector" not in k)
    assert {v.dtype for v in weights.values()} == {torch.float32, torch.float16, torch.bfloat16}


def test_onevision_reads_the_base_view_of_its_own_processor(tmp_path):
    write_llava(tmp_path, llava("siglip", "llava_onevision"))
    own = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=[[SIDE, 2 * SIDE]], image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )  # fmt: skip
    own.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    expected = own(images(), return_tensors="pt")["pixel_values"][:, 0]
    assert torch.equal(encoder.preprocess(images()).inputs["pixel_values"], torch.as_tensor(expected))
    assert "base view" in encoder.provenance.warnings[0]


def test_several_vision_layers_are_concatenated_as_in_the_model(tmp_path):
    model = llava("siglip", vision_feature_layer=[1, -1])
    encoder = load_encoder(write_llava(tmp_path, model))
    with torch.no_grad():
        own = model.get_image_features(encoder.preprocess(images()).inputs["pixel_values"]).pooler_output
    tokens = encoder(images())
    assert torch.equal(tokens["projected"], torch.stack(list(own)))
    assert encoder.consumed == "block_03"
    assert "[1, -1]" in encoder.provenance.why


def test_a_layer_that_does_not_exist_is_refused(tmp_path):
    config = llava("siglip").config.to_dict() | {"vision_feature_layer": -9}
    with pytest.raises(CheckpointError, match="layer -9, the tower has 3 blocks"):
        load_encoder(write(tmp_path, llava("siglip").state_dict(), config))
