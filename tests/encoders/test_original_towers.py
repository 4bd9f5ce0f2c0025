"""Towers of original LLaVA checkpoints: the same weights and states as in the classes of transformers."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from tiny_checkpoints import filled, images, vision_config
from tiny_original import HEADS, KINDS, SHAPE, TEXT, WIDTH, mlp, shrink, through_mlp, tower, write_tower
from torch.nn.functional import gelu, interpolate, layer_norm

from visprobe.encoders import load_encoder
from visprobe.encoders.layouts.original_towers import original_tower
from visprobe.encoders.pixels import Pixels
from visprobe.errors import CheckpointError

CONSUMED = {"clip": "block_02", "mlcd": "block_02", "dinov2": "final_norm", "timm": "final_norm", "sam": "block_03"}
OFF_PATH = {"clip": ("block_03", "final_norm"), "mlcd": ("block_03", "final_norm"), "sam": ("head",)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink(monkeypatch)


def states(module, pixels):
    """All hidden states of `module` as patch tokens, and its last one."""
    with torch.no_grad():
        out = module(pixels, output_hidden_states=True)
    if module.config.model_type == "sam_vision_model":
        return [state.flatten(1, 2) for state in out.hidden_states], None
    return [state[:, 1:] for state in out.hidden_states], out.last_hidden_state[:, 1:]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_tokens_are_those_of_the_class(tmp_path, kind):
    module, named, saved = tower(kind, tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, named))
    weights = encoder.weights()
    for name, weight in module.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert {name for name in weights if not name.startswith("projector.")} == set(module.state_dict())
    tokens = encoder(images())
    blocks, last = states(module, encoder.preprocess(images()).inputs["pixel_values"])
    for number, state in enumerate(blocks):
        assert torch.equal(tokens[f"block_{number:02d}"], state)
    assert encoder.consumed == CONSUMED[kind]
    assert torch.equal(tokens["consumed"], last if CONSUMED[kind] == "final_norm" else blocks[int(CONSUMED[kind][-2:])])
    assert encoder.provenance.off_path == OFF_PATH.get(kind, ())
    if kind != "sam":  # its tokens are resampled before the projector
        # float32, sums of at most 32 products in another order
        torch.testing.assert_close(tokens["projected"], through_mlp(tokens["consumed"], mlp()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_has_its_group_and_baselines_can_be_made(tmp_path, kind):
    _, named, saved = tower(kind, tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, named))
    for name in encoder.weights():
        if "layer" in name.split(".")[:2] or "layers" in name.split(".")[:2]:
            assert encoder.weight_group(name).startswith("block_"), name
    fresh, rounded = encoder.untrained(0), encoder.rounded(torch.bfloat16)
    assert fresh.tower_hash != encoder.tower_hash != rounded.tower_hash
    spread = fresh(images())["consumed"].std(dim=1).mean()
    assert spread > 1e-4  # a tower that tells places apart
    same = encoder(images())["consumed"]
    # bfloat16 keeps 8 bits: 3 blocks of width 32 stay within a few per cent
    assert (rounded(images())["consumed"] - same).norm() < 0.1 * same.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_in_raster_order(tmp_path, kind):
    _, named, saved = tower(kind, tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, named))
    grey = encoder.preprocess([Image.new("RGB", (40, 40), (128, 128, 128))])
    columns = encoder.grid[1]
    values = grey.inputs["pixel_values"].clone()
    patch = values.shape[-1] // columns
    row, column = 1, 2
    values[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] += 1
    one, other = (encoder.forward(Pixels({"pixel_values": v}, grey.grids), ["block_00"])["block_00"][0]
                  for v in (values, grey.inputs["pixel_values"]))  # fmt: skip
    assert (one - other).norm(dim=-1).nonzero().flatten().tolist() == [row * columns + column]


def timm_forward(saved, pixels):
    """`forward_features` of timm's VisionTransformer in plain operations, without the class token."""

    def norm(x, name):
        return layer_norm(x, (WIDTH,), saved[f"{name}.weight"], saved[f"{name}.bias"], eps=1e-6)

    def linear(x, name):
        return x @ saved[f"{name}.weight"].T + saved[f"{name}.bias"]

    x = torch.nn.functional.conv2d(pixels, saved["patch_embed.proj.weight"], saved["patch_embed.proj.bias"], stride=14)
    x = torch.cat([saved["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1) + saved["pos_embed"]
    for block in (f"blocks.{n}" for n in range(3)):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / (WIDTH // HEADS) ** 0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + linear(gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 1:]


def test_timm_weights_do_what_timm_does(tmp_path):
    _, named, saved = tower("timm", tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, named))
    pixels = encoder.preprocess(images()).inputs["pixel_values"]
    # float32 through 3 blocks of width 32 and 257 tokens
    torch.testing.assert_close(encoder(images())["consumed"], timm_forward(saved, pixels), rtol=1e-4, atol=1e-4)


def test_a_classifier_on_top_is_left_out_and_said(tmp_path):
    _, _, saved = tower("timm", tmp_path)
    head = {"head.weight": torch.ones(7, WIDTH), "head.bias": torch.ones(7)}
    moco = {name: weight for name, weight in saved.items() if "patch" not in name and name != "pos_embed"}
    moco |= {"patch_embed.proj.weight": torch.ones(WIDTH, 3, 16, 16), "patch_embed.proj.bias": torch.ones(WIDTH),
             "pos_embed": torch.ones(1, 197, WIDTH)}  # fmt: skip
    encoder = load_encoder(write_tower(tmp_path / "l", moco | head, "moco-vit-b-16"))
    assert "head of the tower are left out: the MLLM's code never uses them" in encoder.provenance.warnings
    assert not any("head" in name for name in encoder.weights())
    with pytest.raises(CheckpointError, match=r"unexpected: layers\.0\.ls1\.gamma"):
        load_encoder(write_tower(tmp_path / "x", {**saved, "blocks.0.ls1.gamma.weight": torch.ones(2)}, "mae-vit-h-14"))


@pytest.mark.parametrize(
    ("name", "edge", "resample", "mean"),
    [  # the transforms that timm 1.0.31 and the MoCo tower make for these names
        ("mae-vit-h-14", 248, 3, 0.485),
        ("moco-vit-b-16", 256, 2, 0.485),
        ("supervised-vit-l-16-in21k", 248, 3, 0.5),
    ],
)
def test_images_are_cropped_as_timm_crops_them(name, edge, resample, mean):
    processor = original_tower(name).processor()
    picture = images(1, size=(edge, edge))[0]
    pixels = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])[0]
    assert pixels.shape == (3, 224, 224)
    assert int(processor.resample) == resample
    border = (edge - 224) // 2
    cropped = picture.crop((border, border, border + 224, border + 224))
    red = torch.from_numpy(np.array(cropped)[..., 0]) / 255
    std = processor.image_std[0]
    torch.testing.assert_close(pixels[0], (red - mean) / std, rtol=1e-5, atol=1e-5)  # float32


def test_dinov2_at_another_resolution_resampled_before_the_projector(tmp_path):
    module, named, saved = tower("dinov2", tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, f"{named}-res48-interp9"))
    assert encoder.grid == (6, 6)
    assert encoder.provenance.tower.endswith("-res48-interp9")
    tokens = encoder(images())
    with torch.no_grad():
        last = module(encoder.preprocess(images()).inputs["pixel_values"]).last_hidden_state[:, 1:]
    assert torch.equal(tokens["consumed"], last)
    small = interpolate(last.mT.reshape(2, WIDTH, 6, 6), (3, 3), mode="bilinear", align_corners=False)
    # float32, sums of at most 32 products in another order
    torch.testing.assert_close(tokens["projected"], through_mlp(small.flatten(2).mT, mlp()), rtol=1e-5, atol=1e-5)
    assert any("resamples the tokens to 3x3" in warning for warning in encoder.provenance.warnings)


@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_as_older_versions_of_transformers_spell_it(tmp_path, swiglu):
    config = transformers.Dinov2Config(**SHAPE, image_size=32, patch_size=8, use_swiglu_ffn=swiglu)
    module = filled(transformers.Dinov2Model(config))
    module.save_pretrained(tmp_path / "dinov2")
    saved = load_file(tmp_path / "dinov2" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in saved
    encoder = load_encoder(write_tower(tmp_path / "l", saved, tmp_path / "dinov2"))
    weights = encoder.weights()
    assert all(torch.equal(weights[name], weight) for name, weight in module.state_dict().items())


def test_sam_is_resampled_and_padded(tmp_path):
    _, named, saved = tower("sam", tmp_path)
    extra = {
        "downsamples.0.weight": torch.ones(2),
        "neck_hd.0.weight": torch.ones(2),
        "hd_alpha_downsamplers": torch.ones(1),
    }
    encoder = load_encoder(write_tower(tmp_path / "l", saved | extra, named))
    assert "downsamples, hd_alpha_downsamplers, neck_hd of the tower are left out" in encoder.provenance.warnings[1]
    wide = images(1, size=(30, 60))
    pixels = encoder.preprocess(wide).inputs["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64)
    assert pixels[0, :, 32:].abs().max() == 0
    assert pixels[0, :, :32].abs().min(dim=0).values.max() > 0
    both = encoder(wide + images(1))
    one = encoder(wide)
    # batches of other sizes reorder sums of float32
    torch.testing.assert_close(both["projected"][:1], one["projected"], rtol=1e-5, atol=1e-5)
    pooled = one["consumed"].mT.reshape(1, WIDTH, 2, 2, 2, 2).mean(dim=(3, 5)).flatten(2).mT  # 4x4 to 2x2 is the mean
    torch.testing.assert_close(one["projected"], through_mlp(pooled, mlp()), rtol=1e-5, atol=1e-5)
    assert load_encoder(write_tower(tmp_path / "d", saved, "sam_vit_b"))(wide)["projected"].shape == (1, 1024, TEXT)
    with pytest.raises(CheckpointError, match="positions for 64 pixels alone"):
        load_encoder(write_tower(tmp_path / "r", saved, "sam_vit_b-res32"))


@pytest.mark.parametrize(
    ("feature", "layers"), [("slicefour_patch", (0, 1, 2, 3)), ("slice_m25811_f6_cls_patch", (-2, -5, -8, -11, 6))]
)
def test_several_layers_side_by_side(tmp_path, feature, layers):
    module = filled(transformers.CLIPVisionModel(vision_config("clip", num_hidden_layers=10)))
    module.config.save_pretrained(tmp_path / "clip")
    if feature.startswith("slicefour"):
        layers = tuple(range(11 // 4 - 1, 11, 11 // 4))  # every second of the 11 hidden states
    projector = mlp(WIDTH * len(layers))
    folder = write_tower(tmp_path / "l", module.state_dict(), tmp_path / "clip", projector,
                         mm_vision_select_feature=feature, mm_vision_select_layer=-1)  # fmt: skip
    encoder = load_encoder(folder)
    with torch.no_grad():
        hidden = module(encoder.preprocess(images()).inputs["pixel_values"], output_hidden_states=True).hidden_states
    read = torch.cat([hidden[n][:, 1:] for n in layers], dim=-1)
    # float32, sums of at most 160 products in another order
    torch.testing.assert_close(encoder(images())["projected"], through_mlp(read, projector), rtol=1e-4, atol=1e-5)
    assert encoder.consumed == "block_09"


def test_of_several_scales_the_smallest_is_read(tmp_path):
    module, named, saved = tower("clip", tmp_path)
    folder = write_tower(tmp_path / "l", saved, named, mlp(2 * WIDTH), s2=True, s2_scales="64,32")
    encoder = load_encoder(folder)
    large = transformers.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    pixels = torch.as_tensor(large(images(), return_tensors="pt")["pixel_values"])
    with torch.no_grad():
        out = module(interpolate(pixels, (32, 32), mode="bicubic"), output_hidden_states=True)
    assert torch.equal(encoder(images())["consumed"], out.hidden_states[-2][:, 1:])
    assert not encoder.has_projector
    assert any("scales 32, 64 side by side" in warning for warning in encoder.provenance.warnings)


@pytest.mark.parametrize(("kind", "layer", "site"), [("dinov2", -2, "block_02"), ("dinov2", -1, "block_03")])
def test_hf_towers_read_the_selected_layer(tmp_path, kind, layer, site):
    module, named, saved = tower(kind, tmp_path)
    encoder = load_encoder(write_tower(tmp_path / "l", saved, f"hf:{named}", mm_vision_select_layer=layer))
    blocks, _ = states(module, encoder.preprocess(images()).inputs["pixel_values"])
    assert encoder.consumed == site
    assert torch.equal(encoder(images())["consumed"], blocks[layer])


def test_hf_towers_without_class_token_lose_a_patch_and_it_is_said(tmp_path):
    module = filled(transformers.SiglipVisionModel(vision_config("siglip", vision_use_head=False)))
    module.config.save_pretrained(tmp_path / "siglip")
    encoder = load_encoder(write_tower(tmp_path / "l", module.state_dict(), f"hf:{tmp_path / 'siglip'}"))
    assert encoder.consumed == "block_02"
    assert any("drops the first patch" in warning for warning in encoder.provenance.warnings)


def test_resamplers_are_inert(tmp_path):
    _, named, saved = tower("clip", tmp_path)
    plain = load_encoder(write_tower(tmp_path / "a", saved, named))
    extra = mlp() | {"model.vision_resampler.query": torch.ones(3, 3)}
    other = load_encoder(write_tower(tmp_path / "b", saved, named, extra, mm_resampler_type="perceiver"))
    assert (plain.tower_hash, plain.projector_hash) == (other.tower_hash, other.projector_hash)
    assert any("resampler perceiver is left out" in warning for warning in other.provenance.warnings)
    assert not any("resampler" in warning for warning in plain.provenance.warnings)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_and_squashed_images(tmp_path, kind):
    _, named, saved = tower(kind, tmp_path)
    named += "-res48" if kind == "dinov2" else ""
    wide = [Image.new("RGB", (300, 100), (255, 255, 255))]
    padded, squashed = (
        load_encoder(write_tower(tmp_path / ratio, saved, named, image_aspect_ratio=ratio))
        for ratio in ("pad", "anyres")
    )
    assert padded.grid == squashed.grid
    pixels = padded.preprocess(wide).inputs["pixel_values"][0]
    middle = len(pixels[0]) // 2
    # the bars have the mean's colour rounded down to a grey level, the deviation is at least 0.22
    assert pixels[:, 0].abs().max() < 1 / 255 / 0.22
    assert pixels[:, middle].min() > 0.9
    assert squashed.preprocess(wide).inputs["pixel_values"].min() > 0.9  # white everywhere


def test_mlcd_by_itself(tmp_path):
    module, _, _ = tower("mlcd", tmp_path)
    module.save_pretrained(tmp_path / "bare")
    encoder = load_encoder(tmp_path / "bare")
    _, last = states(module, encoder.preprocess(images()).inputs["pixel_values"])
    assert encoder.consumed == "block_03"
    assert torch.equal(encoder(images())["consumed"], last)
