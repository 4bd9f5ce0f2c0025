"""Pixtral in LLaVA and in Mistral 3: what is read equals what the whole model computes, in raster order."""

import pytest
import torch
import transformers
from tiny_checkpoints import BLOCKS, PATCH, images, spelled, write
from tiny_native import answering, mixed, one_by_one, pixtral, together, whole

from visprobe.encoders import load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, UsageError

BUDGET = Resolution(pixels=48 * 48)
BLOCK_NAMES = [f"block_{n:02d}" for n in range(BLOCKS + 1)]
CLASS = {"llava": "LlavaForConditionalGeneration", "mistral3": "Mistral3ForConditionalGeneration"}


def saved(folder, kind, layout="C", stored=True, **changes):
    model = pixtral(kind, **changes)
    write(folder, spelled(model, layout), model.config, processor=False)
    if stored:
        own = transformers.PixtralImageProcessorPil(patch_size={"height": PATCH, "width": PATCH}, image_std=[0.3] * 3)
        own.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["C", "D"])
@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_weights_and_tokens_equal_those_of_the_whole_model(tmp_path, kind, layout):
    encoder = load_encoder(saved(tmp_path, kind, layout), resolution=BUDGET)
    model = whole(tmp_path, CLASS[kind])
    own = dict(model.model.vision_tower.state_dict())
    own |= {f"projector.{name}": t for name, t in model.model.multi_modal_projector.state_dict().items()}
    weights = encoder.weights()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    pixels = encoder.preprocess(images(1, size=(30, 80)))
    assert pixels.grids == ((2, 8),) if kind == "mistral3" else ((3, 9),)
    tokens = encoder.forward(pixels, [*BLOCK_NAMES, "projected"])
    with torch.no_grad():
        out = model.get_image_features(**pixels.inputs, output_hidden_states=True)
    assert all(torch.equal(tokens[name], out.hidden_states[n]) for n, name in enumerate(BLOCK_NAMES))
    assert torch.equal(tokens["projected"][0], out.pooler_output[0])
    assert (encoder.provenance.layout, encoder.consumed, encoder.grid) == (layout, BLOCK_NAMES[-1], None)


@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_images_of_all_sizes_in_one_batch_equal_the_packed_model_and_themselves_alone(tmp_path, kind):
    encoder = load_encoder(saved(tmp_path, kind), resolution=BUDGET)
    pictures, model = mixed(), whole(tmp_path, CLASS[kind])
    for site in ("block_00", "consumed", "projected"):
        assert torch.equal(together(encoder, pictures, site), one_by_one(encoder, pictures, site))
    with torch.no_grad():
        packed = model.get_image_features(**encoder.preprocess(pictures).inputs).pooler_output
    means = torch.stack([tokens.mean(dim=0) for tokens in packed])
    # one long masked sequence sums in another order: some float32 roundings of values near 1
    assert torch.allclose(together(encoder, pictures, "projected"), means, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "rows", "columns"), [("llava", 3, 5), ("mistral3", 4, 6)])
def test_tokens_are_in_raster_order(tmp_path, kind, rows, columns):
    encoder = load_encoder(saved(tmp_path, kind), resolution=Resolution(pixels=rows * columns * PATCH**2))
    assert answering(encoder, rows, columns) == list(range(rows * columns))


def test_hashes_do_not_depend_on_the_spelling(tmp_path):
    c, d = (load_encoder(saved(tmp_path / x, "mistral3", x)) for x in "CD")
    assert (c.tower_hash, c.projector_hash, c.settings_hash) == (d.tower_hash, d.projector_hash, d.settings_hash)


def test_a_large_square_image_gets_the_pixels_of_the_models_own_processor(tmp_path):
    encoder = load_encoder(saved(tmp_path, "llava"), resolution=BUDGET)
    (picture,) = images(1, size=(96, 96))
    fields = {"size": {"longest_edge": 48}, "patch_size": {"height": PATCH, "width": PATCH}, "image_std": [0.3] * 3}
    own = transformers.PixtralImageProcessorPil(**fields)([picture], return_tensors="pt")
    made = encoder.preprocess([picture]).inputs
    assert torch.equal(made["pixel_values"], own["pixel_values"])
    assert made["image_sizes"].tolist() == [[48, 48]]


@pytest.mark.parametrize(
    ("size", "grid"),
    [((12, 12), (6, 6)), ((480, 480), (6, 6)), ((100, 50), (8, 4)), ((4, 400), (1, 36)), ((9000, 9), (36, 1))],
)
def test_every_image_gets_one_budget_in_its_own_proportions(tmp_path, size, grid):
    encoder = load_encoder(saved(tmp_path, "llava"), resolution=BUDGET)
    assert encoder.preprocess(images(1, size=size)).grids == (grid,)


def test_the_default_processor_is_named(tmp_path):
    encoder = load_encoder(saved(tmp_path, "mistral3", stored=False), resolution=BUDGET)
    assert "default image processor" in encoder.provenance.warnings[0]
    assert encoder.processor.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert encoder.processor_hash != load_encoder(tmp_path, resolution=Resolution(pixels=1024)).processor_hash


def test_groups_controls_and_path(tmp_path):
    encoder = load_encoder(saved(tmp_path, "mistral3", vision_feature_layer=-2), resolution=BUDGET)
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert set(groups.values()) == {"embeddings", "block_01", "block_02", "block_03", "projector"}
    assert {n for n, group in groups.items() if group == "embeddings"} == {"ln_pre.weight", "patch_conv.weight"}
    assert (encoder.consumed, encoder.provenance.off_path) == ("block_02", ("block_03",))
    fresh, again = encoder.untrained(0), encoder.untrained(0)
    assert fresh.tower_hash == again.tower_hash != encoder.tower_hash
    assert encoder.rounded(torch.bfloat16)(images(1))["projected"].isfinite().all()


def test_what_cannot_be_read_is_one_message(tmp_path):
    with pytest.raises(UsageError, match="less than one cell of 16x16"):
        load_encoder(saved(tmp_path, "mistral3"), resolution=Resolution(pixels=255))
    with pytest.raises(CheckpointError, match="reads one"):
        load_encoder(saved(tmp_path / "layers", "mistral3", vision_feature_layer=[1, 2]))
    transformers.SiglipImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not give image_sizes"):
        load_encoder(tmp_path)
