"""Original LLaVA checkpoints: the same weights as a transformers LLaVA must give the same tokens."""

import itertools

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, SIDE, images, llava, spelled, vision_config, write_llava, write_original

from visprobe.encoders import load_encoder
from visprobe.encoders.layouts.original_towers import known_tower, original_tower
from visprobe.errors import CheckpointError


@pytest.fixture
def siglip_tower(tmp_path):
    """Folder of the SigLIP that training started from: one block more than a LLaVA checkpoint keeps."""
    vision_config("siglip", num_hidden_layers=BLOCKS + 1).save_pretrained(tmp_path / "siglip-tower")
    return tmp_path / "siglip-tower"


@pytest.fixture
def clip_tower(tmp_path):
    vision_config("clip").save_pretrained(tmp_path / "clip-tower")
    return tmp_path / "clip-tower"


@pytest.mark.parametrize("shards", [1, 3])
def test_siglip_without_its_last_block(tmp_path, siglip_tower, shards):
    model = llava("siglip", vision_feature_layer=-1)
    original = load_encoder(write_original(tmp_path / "l", model, siglip_tower, shards=shards))
    reference = load_encoder(write_llava(tmp_path / "hf", model))
    assert original.provenance.layout == "L"
    assert original.consumed == "block_03"
    assert original.tower_hash == reference.tower_hash
    assert original.projector_hash == reference.projector_hash
    pixels = original.preprocess(images()).inputs["pixel_values"]
    with torch.no_grad():
        out = model.get_image_features(pixels, output_hidden_states=True)
    tokens = original(images())
    assert torch.equal(tokens["consumed"], out.hidden_states[-1])
    assert torch.equal(tokens["projected"], torch.stack(list(out.pooler_output)))
    assert "deletes the last" in original.provenance.why


@pytest.mark.parametrize(("layer", "site"), [(-2, "block_02"), (-1, "block_03"), (1, "block_01")])
def test_clip_saved_whole(tmp_path, clip_tower, layer, site):
    model = llava("clip", vision_feature_layer=layer)
    original = load_encoder(write_original(tmp_path / "l", model, clip_tower, mm_vision_select_layer=layer))
    assert original.consumed == site
    with torch.no_grad():
        out = model.get_image_features(original.preprocess(images()).inputs["pixel_values"])
    assert torch.equal(original(images())["projected"], torch.stack(list(out.pooler_output)))


def test_siglip_saved_whole_reads_the_selected_layer(tmp_path, siglip_tower):
    model = llava("siglip", vision={"num_hidden_layers": BLOCKS + 1}, vision_feature_layer=-2)
    original = load_encoder(write_original(tmp_path / "l", model, siglip_tower))
    with torch.no_grad():
        out = model.get_image_features(original.preprocess(images()).inputs["pixel_values"])
    assert original.consumed == "block_03"
    assert torch.equal(original(images())["projected"], torch.stack(list(out.pooler_output)))


def test_names_without_the_vision_model_level(tmp_path, siglip_tower):
    saved = {k.replace("vision_model.", ""): v for k, v in spelled(llava("siglip"), "L").items()}
    encoder = load_encoder(write_original(tmp_path / "l", llava("siglip"), siglip_tower, saved))
    assert encoder.tower_hash == load_encoder(write_llava(tmp_path / "hf", llava("siglip"))).tower_hash


def test_a_tower_known_by_name_takes_its_sizes_from_the_table(tmp_path):
    with pytest.raises(CheckpointError, match="holds 3 blocks of a tower that has 27"):
        load_encoder(write_original(tmp_path, llava("siglip"), "/gone/siglip2-so400m-patch16-384"))


def projected_by(layers, tokens):
    for number, (weight, bias) in enumerate(layers):
        tokens = torch.nn.functional.gelu(tokens) if number else tokens
        tokens = tokens @ weight.T + bias
    return tokens


@pytest.mark.parametrize(("kind", "depth"), [("linear", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)])
def test_every_projector(tmp_path, siglip_tower, kind, depth):
    model = llava("siglip")
    saved = {k: v for k, v in spelled(model, "L").items() if "mm_projector" not in k}
    generator = torch.Generator().manual_seed(0)
    widths = [32, 24, 24, 24][: depth + 1]
    layers = [(torch.randn(o, i, generator=generator), torch.randn(o, generator=generator))
              for i, o in itertools.pairwise(widths)]  # fmt: skip
    for number, (weight, bias) in enumerate(layers):
        place = "" if kind == "linear" else f"{2 * number}."
        saved |= {f"model.mm_projector.{place}weight": weight, f"model.mm_projector.{place}bias": bias}
    encoder = load_encoder(write_original(tmp_path / "l", model, siglip_tower, saved, mm_projector_type=kind))
    tokens = encoder(images())
    # float32 with sums of at most 32 products, in another order
    torch.testing.assert_close(tokens["projected"], projected_by(layers, tokens["consumed"]), rtol=1e-4, atol=1e-4)


def test_identity_projector(tmp_path, siglip_tower):
    saved = {k: v for k, v in spelled(llava("siglip"), "L").items() if "mm_projector" not in k}
    encoder = load_encoder(write_original(tmp_path / "l", llava(), siglip_tower, saved, mm_projector_type="identity"))
    assert not encoder.has_projector
    assert encoder.projector_hash is None
    assert "projected" not in encoder(images())


def test_image_aspect_ratio(tmp_path, clip_tower):
    def pixels(ratio):
        folder = write_original(tmp_path / ratio, llava("clip"), clip_tower, image_aspect_ratio=ratio)
        return load_encoder(folder).preprocess(images(1, size=(20, 40))).inputs["pixel_values"]

    mean = torch.tensor(transformers.image_utils.OPENAI_CLIP_MEAN)[:, None, None]
    std = torch.tensor(transformers.image_utils.OPENAI_CLIP_STD)[:, None, None]
    padded = pixels("pad")[0] * std + mean
    # padding is the mean rounded down to a whole grey level; bicubic resizing leaves it flat away from the edge
    assert (padded[:, 0] - mean[:, 0]).abs().max() <= 1 / 255 + 1e-6
    square = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    squash = transformers.CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    raw = images(1, size=(20, 40))
    assert torch.equal(pixels("square"), torch.as_tensor(square(raw, return_tensors="pt")["pixel_values"]))
    assert torch.equal(pixels("anyres_max_9"), torch.as_tensor(squash(raw, return_tensors="pt")["pixel_values"]))


def test_the_local_tower_folder_may_hold_the_processor(tmp_path, siglip_tower):
    own = transformers.SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=[0.1, 0.2, 0.3])
    own.save_pretrained(siglip_tower)
    encoder = load_encoder(write_original(tmp_path / "l", llava("siglip"), siglip_tower))
    assert torch.equal(
        encoder.preprocess(images()).inputs["pixel_values"], own(images(), return_tensors="pt")["pixel_values"]
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mm_projector_type": "mlp2x_gelu_conv2x"}, "projector of type mlp2x_gelu_conv2x"),
        ({"s2": True}, r"reads the scales \[336, 672, 1008\], its tower 32 pixels"),
        ({"mm_vision_select_feature": "cls"}, "reads the features 'cls'"),
        ({"mm_vision_select_layer": [1, 2]}, "selects vision layer"),
        ({"mm_vision_tower": "someone/nice-tower"}, "someone/nice-tower, which visprobe does not know"),
        ({"mm_vision_tower": "eva/CLIP-ViT-L-336"}, "eva/CLIP-ViT-L-336 is not supported yet"),
        ({"mm_vision_tower": "open_clip_hub:ViT-L-14"}, "open_clip_hub:ViT-L-14 is not supported yet"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, clip_tower, fields, message):
    with pytest.raises(CheckpointError, match=message):
        load_encoder(write_original(tmp_path / "l", llava("clip"), clip_tower, **fields))


@pytest.mark.parametrize(
    ("name", "parameters", "image_size"),
    [  # parameters of the vision tower as published on the model cards
        ("openai/clip-vit-base-patch16", 85_799_424, 224),
        ("openai/clip-vit-base-patch32", 87_456_000, 224),
        ("openai/clip-vit-large-patch14", 303_179_776, 224),
        ("openai/clip-vit-large-patch14-336", 303_507_456, 336),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 630_766_080, 224),
        ("google/siglip-base-patch16-224", 92_884_224, 224),
        ("google/siglip-so400m-patch14-384", 428_225_600, 384),
        ("/models/siglip2-so400m-patch14-384/", 428_225_600, 384),
        ("facebook/dinov2-small", 22_056_576, 518),
        ("facebook/dinov2-base", 86_580_480, 518),
        ("facebook/dinov2-large", 304_368_640, 518),
        ("facebook/dinov2-giant", 1_136_480_768, 518),
        ("mae-vit-l-16", 303_301_632, 224),
        ("supervised-vit-h-14-in21k", 630_764_800, 224),
        ("moco-vit-b-16", 85_798_656, 224),
    ],
)
def test_known_towers_have_their_published_size(name, parameters, image_size):
    config = known_tower(name)
    family = original_tower(name).family
    with torch.device("meta"):
        tower = family.build(config, {"layernorm.weight", "post_layernorm.weight", "head.probe"})
    assert sum(p.numel() for p in tower.parameters()) == parameters
    assert config.image_size == image_size


def test_openai_and_laion_towers_differ_in_their_activation():
    assert known_tower("openai/clip-vit-large-patch14-336").hidden_act == "quick_gelu"
    assert known_tower("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k").hidden_act == "gelu"
    assert known_tower("google/siglip2-base-patch16-naflex") is None
