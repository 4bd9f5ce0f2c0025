"""The encoder's interface: sites, order of tokens, memory, baselines, hashes."""

import json

import numpy as np
import pytest
import test_llava_next as llava_next
import torch
import transformers
from PIL import Image
from tiny_checkpoints import BLOCKS, PATCH, SIDE, filled, images, llava, spelled, vision_config, write, write_llava
from tiny_native import pixtral

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.encoder import VisionEncoder
from visprobe.errors import CheckpointError, UsageError


@pytest.fixture(params=["siglip", "clip"])
def encoder(request, tmp_path):
    return load_encoder(write_llava(tmp_path / request.param, llava(request.param)))


def test_sites_are_counted_from_the_input(encoder):
    names = [site.name for site in encoder.sites]
    norm = ["final_norm"] if encoder.prefix_tokens == 0 else []
    assert names == ["block_00", "block_01", "block_02", "block_03", *norm, "projected"]
    assert {site.name: site.norm for site in encoder.sites}.get("final_norm", "post") == "post"
    assert [site.dim for site in encoder.sites] == [32] * (len(names) - 1) + [24]
    assert all(tokens.shape == (2, 16, 24 if site == "projected" else 32) for site, tokens in encoder(images()).items())


def test_blocks_equal_the_hidden_states_of_the_tower(tmp_path):
    tower = filled(transformers.SiglipVisionModel(vision_config("siglip")))
    encoder = load_encoder(write(tmp_path, tower.state_dict(), tower.config))
    with torch.no_grad():
        out = tower(encoder.preprocess(images()).inputs["pixel_values"], output_hidden_states=True)
    tokens = encoder(images())
    assert all(torch.equal(tokens[f"block_{n:02d}"], out.hidden_states[n]) for n in range(BLOCKS + 1))
    assert torch.equal(tokens["final_norm"], out.last_hidden_state)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_patches_are_in_raster_order(encoder, row, column):
    pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    black = Image.fromarray(pixels.copy())
    pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 255
    tokens = encoder([black, Image.fromarray(pixels)])["block_00"]
    moved = (tokens[1] - tokens[0]).abs().amax(-1) > 0
    assert moved.nonzero().flatten().tolist() == [row * encoder.grid[1] + column]


def test_only_what_is_asked_for_is_kept_and_in_that_order(encoder):
    pixels = encoder.preprocess(images())
    tokens = encoder.forward(pixels, ["projected", "block_01", "consumed"])
    assert list(tokens) == ["projected", "block_01", "consumed"]
    everything = encoder(images())
    assert all(torch.equal(tokens[site], everything[site]) for site in tokens)
    assert encoder.forward(pixels, []) == {}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder._tower.modules())


def test_hooks_are_gone_after_a_failure(encoder):
    with pytest.raises(ZeroDivisionError):
        encoder.forward(encoder.preprocess(images()), ["consumed"], reduce=lambda tokens: 1 / 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder._tower.modules())


def test_reduce_sees_float32_and_its_result_is_what_remains(tmp_path):
    encoder = load_encoder(write_llava(tmp_path, llava("clip")), dtype=torch.bfloat16)
    seen = []

    def mean(tokens):
        seen.append((tokens.dtype, tuple(tokens.shape)))
        return tokens.mean(1)

    sites = ["block_01", "projected", "block_03:cls"]
    reduced = encoder.forward(encoder.preprocess(images()), sites, reduce=mean)
    assert sorted(seen) == sorted(
        [(torch.float32, (2, 16, 32)), (torch.float32, (2, 16, 24)), (torch.float32, (2, 1, 32))]
    )
    assert [reduced[site].shape for site in sites] == [(2, 32), (2, 24), (2, 32)]
    assert torch.equal(reduced["block_01"], encoder(images())["block_01"].float().mean(1))


@pytest.mark.parametrize("site", ["block_04", "block_-1", "last", "projected:cls", ""])
def test_an_unknown_site_is_a_usage_error(encoder, site):
    with pytest.raises(UsageError):
        encoder.forward(encoder.preprocess(images()), [site])


def test_a_tower_without_class_token_says_so(tmp_path):
    encoder = load_encoder(write_llava(tmp_path, llava("siglip")))
    with pytest.raises(UsageError, match="no class token at block_01"):
        encoder.forward(encoder.preprocess(images()), ["block_01:cls"])


def test_images_of_any_mode_and_size_become_the_same_shape(encoder):
    odd = [Image.new("L", (10, 90)), Image.new("RGBA", (33, 32)), Image.new("P", (5, 5)), images(1)[0]]
    pixels = encoder.preprocess(odd).inputs["pixel_values"]
    assert pixels.shape == (4, 3, SIDE, SIDE)
    assert pixels.dtype == torch.float32


def test_weight_groups_partition_the_weights(encoder):
    groups = {encoder.weight_group(name) for name in encoder.weights()}
    assert groups == {"embeddings", "block_01", "block_02", "block_03", "final_norm", "projector"}
    assert encoder.weight_group("encoder.layers.1.mlp.fc1.weight") == "block_02"
    assert encoder.weight_group("embeddings.patch_embedding.weight") == "embeddings"
    assert encoder.weight_group("projector.linear_1.bias") == "projector"


def test_a_class_tower_counts_its_first_norm_among_the_embeddings(tmp_path):
    encoder = load_encoder(write_llava(tmp_path, llava("clip")))
    assert encoder.weight_group("pre_layrnorm.weight") == "embeddings"
    assert encoder.weight_group("post_layernorm.weight") == "final_norm"


def test_untrained_is_a_fresh_draw_per_seed(encoder):
    first, again, other = encoder.untrained(0), encoder.untrained(0), encoder.untrained(1)
    assert (first.name, first.consumed, first.sites) == ("untrained", encoder.consumed, encoder.sites)
    assert first.processor_hash == encoder.processor_hash
    assert first.tower_hash == again.tower_hash
    assert first.projector_hash == again.projector_hash
    assert len({first.tower_hash, other.tower_hash, encoder.tower_hash}) == 3
    assert len({first.projector_hash, other.projector_hash, encoder.projector_hash}) == 3
    assert not torch.equal(first(images())["projected"], other(images())["projected"])


def test_untrained_leaves_the_random_state_and_the_encoder_alone(encoder):
    state, tokens = torch.get_rng_state(), encoder(images())["projected"]
    encoder.untrained(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(encoder(images())["projected"], tokens)


def test_untrained_is_initialised_as_transformers_does(tmp_path):
    weights = load_encoder(write_llava(tmp_path, llava("siglip"))).untrained(3).weights()
    norms = [w for name, w in weights.items() if "layer_norm" in name and name.endswith("weight")]
    assert all(torch.equal(w, torch.ones_like(w)) for w in norms)
    with quiet():
        own = transformers.SiglipVisionModel(vision_config("siglip", num_hidden_layers=30)).state_dict()
    name = "mlp.fc1.weight"
    spread = float(torch.cat([w.flatten() for n, w in own.items() if name in n]).std())
    # two estimates from 46080 and 4608 draws: their standard errors are 0.3 % and 1 %
    drawn = float(torch.cat([w.flatten() for n, w in weights.items() if name in n]).std())
    assert drawn == pytest.approx(spread, rel=0.05)
    # 768 draws of N(0, 0.02²): standard error of the standard deviation 2.6 %
    assert float(weights["projector.linear_1.weight"].std()) == pytest.approx(0.02, rel=0.1)
    assert not weights["projector.linear_1.bias"].any()


def test_rounded_goes_through_the_dtype_and_back(encoder):
    short = encoder.rounded(torch.bfloat16)
    assert short.name == f"{encoder.name} (bfloat16)"
    for name, weight in encoder.weights().items():
        assert torch.equal(short.weights()[name], weight.bfloat16().float())
    assert torch.equal(short.rounded(torch.bfloat16)(images())["projected"], short(images())["projected"])
    assert not torch.equal(short(images())["projected"], encoder(images())["projected"])
    assert short.tower_hash != encoder.tower_hash


def test_one_flipped_bit_changes_the_hash(tmp_path):
    model = llava("siglip")
    tensors = spelled(model, "C")
    before = load_encoder(write(tmp_path / "before", tensors, model.config))
    key = "vision_tower.encoder.layers.2.mlp.fc2.bias"
    changed = tensors[key].clone()
    changed.view(torch.int32)[5] ^= 1
    after = load_encoder(write(tmp_path / "after", {**tensors, key: changed}, model.config))
    assert after.tower_hash != before.tower_hash
    assert after.projector_hash == before.projector_hash


def test_the_settings_hash_sees_what_weights_do_not_show(tmp_path):
    def hashed(name, layout="C", **changes):
        return load_encoder(write_llava(tmp_path / name, llava("siglip", **changes), layout)).settings_hash

    base = hashed("base")
    assert hashed("layout", "B") == base
    assert hashed("layer", vision_feature_layer=-2) != base
    assert hashed("projector", projector_hidden_act="relu") != base
    assert hashed("tower", vision={"hidden_act": "relu"}) != base


def test_the_settings_hash_sees_the_epsilon_of_a_norm_in_the_connector(tmp_path):
    def hashed(name, model):
        model.save_pretrained(tmp_path / name)
        return load_encoder(tmp_path / name).settings_hash

    assert hashed("a", pixtral()) != hashed("b", pixtral(text_epsilon=1e-6))
    assert hashed("c", llava_next.tiny(kind="vipllava", vision_feature_layers=[-1])) != hashed(
        "d", llava_next.tiny(kind="vipllava", vision_feature_layers=[-1], projector_layernorm_eps=1e-3)
    )


def test_pixels_are_not_shared_between_towers_whose_connectors_join_other_squares(tmp_path):
    for kind in ("llava", "mistral3"):
        pixtral(kind).save_pretrained(tmp_path / kind)
    single, pairs = (load_encoder(tmp_path / kind) for kind in ("llava", "mistral3"))
    assert single.pixel_kind != pairs.pixel_kind
    assert single.pixel_kind == load_encoder(tmp_path / "llava").pixel_kind


def test_a_tower_without_blocks_is_refused(tmp_path):
    folder = write_llava(tmp_path, llava("siglip", vision={"num_hidden_layers": 0}))
    with pytest.raises(CheckpointError, match="without blocks"):
        load_encoder(folder)


def test_the_processor_hash_sees_pixels_only(tmp_path):
    def hashed(name, cls="SiglipImageProcessorPil", **fields):
        folder = write_llava(tmp_path / name, llava("siglip"))
        getattr(transformers, cls)(**{"size": {"height": SIDE, "width": SIDE}, **fields}).save_pretrained(folder)
        return load_encoder(folder).processor_hash

    base = hashed("base")
    assert hashed("crop-off", do_center_crop=False, crop_size={"height": 9, "width": 9}) == base
    assert hashed("bilinear", resample=2) != base
    assert hashed("mean", image_mean=[0.4, 0.5, 0.5]) != base


def test_a_full_processor_of_transformers_5_is_read(tmp_path):
    folder = write_llava(tmp_path, llava("siglip"))
    fields = json.loads((folder / "preprocessor_config.json").read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": fields, "patch_size": 8}))
    assert list(load_encoder(folder).processor.image_mean) == [0.1, 0.2, 0.3]


def test_an_old_clip_processor_with_plain_numbers(tmp_path):
    folder = write_llava(tmp_path, llava("clip"))
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    new = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    expected = new(images(), return_tensors="pt")["pixel_values"]
    assert torch.equal(load_encoder(folder).preprocess(images()).inputs["pixel_values"], expected)


@pytest.mark.parametrize("text", ["{", '{"image_processor_type": "PixtralImageProcessor"}'])
def test_a_processor_that_cannot_be_built_is_refused(tmp_path, text):
    folder = write_llava(tmp_path, llava("siglip"))
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"is not JSON|PixtralImageProcessor"):
        load_encoder(folder)


def test_a_processor_that_does_not_fit_the_tower_is_refused(tmp_path):
    folder = write_llava(tmp_path, llava("siglip"))
    transformers.SiglipImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="gives 64x64 pixels, the tower reads 32x32"):
        load_encoder(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, do_center_crop=False).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="different sizes"):
        load_encoder(folder)


def test_loading_prints_nothing_and_restores_the_progress_bars(tmp_path, capfd):
    folder = write_llava(tmp_path, llava("clip"))
    capfd.readouterr()
    encoder = load_encoder(folder)
    assert isinstance(encoder.untrained(0), VisionEncoder)
    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled()
    assert repr(encoder).startswith("VisionEncoder(")


def test_provenance_is_plain_json(encoder):
    value = json.loads(json.dumps(encoder.provenance.to_json()))
    assert value["params"] == sum(weight.numel() for weight in encoder.weights().values())
    assert value["consumed"] == encoder.consumed
