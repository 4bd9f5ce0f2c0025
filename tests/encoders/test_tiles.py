"""Tiles on request: the model's own tiles, forwarded as the model does, put together to one grid of the image."""

import re
from math import ceil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from test_aya_vision import processor as aya_processor
from test_aya_vision import tiny as aya_vision
from test_gemma import tiny as gemma
from test_idefics import processor as idefics_processor
from test_idefics import tiny as idefics
from test_llava_next import processor as next_processor
from test_llava_next import tiny as llava_next
from test_mllama import processor as mllama_processor
from test_mllama import tiny as mllama
from tiny_checkpoints import PATCH, SIDE, llava, vision_config, write, write_llava, write_original
from tiny_internvl import original, original_config
from tiny_internvl import tiny as internvl
from transformers.models.llava_next.modeling_llava_next import unpad_image
from whole_models import bright_patch, noise, write_model

from visprobe.encoders import load_encoder
from visprobe.encoders.pixels import Mosaic, Pixels
from visprobe.encoders.processor import Resolution
from visprobe.encoders.structure.anyres import AnyRes
from visprobe.errors import CheckpointError, UsageError

PINPOINTS = [[r * SIDE, c * SIDE] for r in (1, 2, 3) for c in (1, 2, 3)]
TILES = Resolution(tiles=True)
EDGE = SIDE // PATCH
SIZES = [(48, 96), (20, 90), (10, 7), (100, 37)]  # one is smaller than a tile


def onevision_processor():
    square = {"height": SIDE, "width": SIDE}
    return transformers.LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=PINPOINTS)


def internvl_processor():
    return transformers.GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE})


KINDS = {
    "llava_next": (llava_next, lambda: next_processor(image_grid_pinpoints=PINPOINTS)),
    "llava_onevision": (lambda: llava("siglip", "llava_onevision", vision_aspect_ratio="anyres_max_9"),
                        onevision_processor),
    "internvl": (internvl, internvl_processor),
    "aya_vision": (aya_vision, aya_processor),
    "idefics3": (lambda: idefics("idefics3"), lambda: idefics_processor("idefics3")),
    "smolvlm": (lambda: idefics("smolvlm"), lambda: idefics_processor("smolvlm")),
    "mllama": (mllama, mllama_processor),
}  # fmt: skip
# An image of which no pixel is resized and none padded inside a patch, and rows and columns of its tokens.
WHOLE = {kind: ((64, 96), (8, 12)) for kind in KINDS} | {
    "llava_next": ((48, 96), (6, 12)),  # padded by 8 pixels above and below
    "llava_onevision": ((96, 48), (12, 6)),
    "mllama": ((32, 80), (4, 10)),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    whole = KINDS[kind][0]()
    if kind.startswith("llava"):
        whole.config.image_grid_pinpoints = PINPOINTS
    return whole


@pytest.fixture(scope="module")
def folder(kind, model, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp(kind), model, processor=KINDS[kind][1]())


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(folder, resolution=TILES)


def own_views(kind, image):
    """What the model's own processor makes of one image, by the names of its outputs."""
    options = {"crop_to_patches": True} if kind in ("internvl", "aya_vision") else {}
    options |= {"return_row_col_info": True} if kind in ("idefics3", "smolvlm") else {}
    return KINDS[kind][1]()([[image]] if kind in ("idefics3", "smolvlm", "mllama") else image,
                            return_tensors="pt", **options)  # fmt: skip


def own_tiles(kind, made):
    """The tiles among them, without the view of the whole image."""
    values = made["pixel_values"]
    if kind in ("internvl", "aya_vision"):
        return values[: max(1, len(values) - 1)]
    if kind.startswith("llava"):
        return values[0][1:]
    return values if kind == "mllama" else values[0][: max(1, values.shape[1] - 1)]


def laid_out(tokens, rows, columns):
    """Tokens (tiles, n, D) placed one by one, shape (rows of tokens, columns of tokens, D)."""
    edge = round(tokens.shape[1] ** 0.5)
    whole = torch.full((rows * edge, columns * edge, tokens.shape[2]), torch.nan)
    for tile, r, c in np.ndindex(len(tokens), edge, edge):
        whole[tile // columns * edge + r, tile % columns * edge + c] = tokens[tile, r * edge + c]
    return whole


def projected(kind, model, made, size, mosaic):
    """The tiles' projected tokens by the model's own functions, without newlines: (rows, columns, D)."""
    with torch.no_grad():
        if kind.startswith("llava"):
            tokens = model.get_image_features(made["pixel_values"], torch.tensor([size])).pooler_output[0]
            return tokens[EDGE**2 :].view(mosaic.grid[0], mosaic.grid[1] + 1, -1)[:, :-1]
        if kind == "mllama":
            inputs = {name: made[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
            states = model.model.vision_model(**inputs).last_hidden_state
            tokens = model.model.multi_modal_projector(states)[0, 0, : mosaic.rows * mosaic.columns, 1:]
        elif kind in ("internvl", "aya_vision"):
            tokens = model.get_image_features(made["pixel_values"]).pooler_output
        else:
            (tokens,) = model.model.get_image_features(made["pixel_values"]).pooler_output
            tokens = tokens.reshape(made["pixel_values"].shape[1], -1, tokens.shape[-1])
    whole = laid_out(tokens[: mosaic.rows * mosaic.columns], mosaic.rows, mosaic.columns)
    return whole[: mosaic.window[2], : mosaic.window[3]]


@pytest.mark.parametrize("size", [*SIZES, (64, 96), (300, 200)])
def test_pixels_and_projected_tokens_are_those_of_the_whole_model(kind, model, encoder, size):
    (image,) = noise(size)
    made, pixels = own_views(kind, image), encoder.preprocess([image])
    assert torch.equal(pixels.inputs["pixel_values"], torch.as_tensor(own_tiles(kind, made)))
    expected = projected(kind, model, made, size, pixels.mosaics[0])
    found = encoder.forward(pixels, ["projected"])["projected"][0]
    # the model forwards the whole image beside the tiles: float32 products in another order, values near 1
    torch.testing.assert_close(found, expected.flatten(0, 1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mllama"], indirect=True)
def test_every_site_holds_the_tokens_of_the_tiles_in_their_places(kind, folder, encoder):
    (image,) = noise((64, 96))
    pixels, base = encoder.preprocess([image]), load_encoder(folder)
    (mosaic,) = pixels.mosaics
    names = [site.name for site in base.sites]
    alone = base.forward(Pixels(pixels.inputs, (mosaic.tile,) * len(pixels.inputs["pixel_values"])), names)
    tokens = encoder.forward(pixels, names)
    means = encoder.forward(pixels, names, reduce=lambda t: t.mean(1))
    assert mosaic.rows * mosaic.columns == 6
    for name in names:
        assert torch.equal(tokens[name][0], laid_out(alone[name], 2, 3).flatten(0, 1))
        # sums of 96 values near 1 in another order
        torch.testing.assert_close(means[name][0], alone[name].flatten(0, 1).mean(0), rtol=0, atol=2e-6)


def test_states_of_llamas_tiles_are_those_of_its_tower(tmp_path):
    (image,) = noise((40, 90))
    encoder = load_encoder(write_model(tmp_path, model := mllama(), processor=mllama_processor()), resolution=TILES)
    made, seen = own_views("mllama", image), encoder([image])
    with torch.no_grad():
        inputs = {name: made[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
        own = laid_out(model.model.vision_model(**inputs).last_hidden_state[0, 0, :3, 1:], 1, 3)
    assert made["num_tiles"] == [[3]]
    own = own[: ceil(32 / PATCH), : ceil(72 / PATCH)].flatten(0, 1)  # 40 x 90 pixels become 32 x 72
    assert torch.equal(seen["block_05"][0], own[:, :32])
    assert torch.equal(seen["block_01"][0], own[:, 32::2])
    assert torch.equal(seen["block_03"][0], own[:, 33::2])


@pytest.mark.parametrize("place", [(0, 0), (3, 9), (2, 5), (5, 0), (1, 4)])
def test_the_answering_token_is_at_the_place_of_the_patch(kind, encoder, place):
    size, (rows, columns) = WHOLE[kind]
    row, column = place[0] % rows, place[1] % columns
    grey, bright = Image.new("RGB", size[::-1], (128,) * 3), bright_patch(size, PATCH, row, column)
    assert encoder.preprocess([bright]).grids == ((rows, columns),)
    tokens = encoder([grey, bright])
    for site in ("block_00", "projected"):
        change = (tokens[site][1] - tokens[site][0]).norm(dim=-1)
        factor = round((rows * columns / len(change)) ** 0.5)
        assert divmod(int(change.argmax()), columns // factor) == (row // factor, column // factor)


def test_images_of_different_arrangements_in_one_batch(kind, encoder):
    images = noise(*SIZES)
    names, mean = ["block_01", "consumed", "projected"], lambda tokens: tokens.mean(1)
    together = encoder.forward(encoder.preprocess(images), names, mean)
    joined = Pixels.join([encoder.preprocess([image]) for image in images])
    assert len({(m.rows, m.columns) for m in joined.mosaics}) > 1
    assert joined.mosaics == encoder.preprocess(images).mosaics
    for number, image in enumerate(images):
        alone = encoder.forward(encoder.preprocess([image]), names, mean)
        assert all(torch.equal(together[name][number], alone[name][0]) for name in names)
    assert all(torch.equal(encoder.forward(joined, names, mean)[name], together[name]) for name in names)
    with pytest.raises(UsageError, match="own number of tokens"):
        encoder.forward(joined, names)


def test_what_is_said_of_tiles(kind, folder, encoder):
    base = load_encoder(folder)
    assert (encoder.grid, base.grid) == (None, (EDGE, EDGE))
    assert not any("tiles that" in w or "one tile" in w for w in encoder.provenance.warnings)
    assert encoder.provenance.warnings != base.provenance.warnings
    assert (encoder.tower_hash, encoder.projector_hash) == (base.tower_hash, base.projector_hash)
    assert encoder.settings_hash != base.settings_hash
    assert encoder.pixel_kind != base.pixel_kind
    with pytest.raises(UsageError, match="no class token"):
        encoder.forward(encoder.preprocess(noise((40, 50))), ["block_01:cls"])


def test_a_model_without_tiles_says_so_and_is_read_whole(tmp_path):
    folder = write_llava(tmp_path, llava("siglip"))
    base, asked = load_encoder(folder), load_encoder(folder, resolution=TILES)
    assert asked.provenance.warnings[-1].startswith("this model has no tiles")
    assert torch.equal(asked(noise((40, 50)))["projected"], base(noise((40, 50)))["projected"])


def test_crops_that_are_no_grid_are_refused(tmp_path):
    folder = write_model(tmp_path, gemma("gemma3"))
    assert "pan and scan" in " ".join(load_encoder(folder).provenance.warnings)
    with pytest.raises(UsageError, match="do not make up one grid"):
        load_encoder(folder, resolution=TILES)


@pytest.mark.parametrize(
    ("edge", "message"),
    [(16, "tiles of 16x16 pixels, the tower reads 32x32"), (48, "cuts 4 tiles where the model expects 1x1")],
)
def test_tiles_of_another_size_than_the_towers_are_refused(tmp_path, edge, message):
    wrong = next_processor(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    with pytest.raises(CheckpointError, match=message):
        load_encoder(write_model(tmp_path, llava_next(), processor=wrong), resolution=TILES)


@pytest.mark.parametrize("stored", [False, True])
def test_pinpoints_that_the_processor_does_not_name_are_those_of_the_model(tmp_path, stored):
    square = {"height": SIDE, "width": SIDE}
    clip = transformers.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    processor = clip if stored else None
    encoder = load_encoder(write_model(tmp_path, llava_next(), processor=processor), resolution=TILES)
    expected = next_processor()(noise((40, 90))[0], return_tensors="pt")["pixel_values"][0, 1:]
    assert torch.equal(encoder.preprocess(noise((40, 90))).inputs["pixel_values"], expected)


def test_padding_is_removed_as_transformers_does_it():
    draw, tower = np.random.default_rng(0), vision_config("clip")
    cutter, own = AnyRes(PINPOINTS), next_processor(image_grid_pinpoints=PINPOINTS)
    for height, width in draw.integers(1, 400, (150, 2)).tolist():
        (mosaic,) = cutter.cut(own, tower, Image.new("RGB", (width, height))).mosaics
        rows, columns = mosaic.rows * EDGE, mosaic.columns * EDGE
        places = unpad_image(torch.arange(rows * columns).view(1, rows, columns), (height, width))[0]
        top, left, bottom, right = mosaic.window
        if places.numel():
            assert (top, left, bottom, right) == (*divmod(int(places[0, 0]), columns),
                                                  *(n + 1 for n in divmod(int(places[-1, -1]), columns)))  # fmt: skip
        else:  # an image so narrow that the model is left with no token of it
            assert min(height, width) * max(rows, columns) < max(height, width)
            assert (bottom - top) * (right - left) == 2 * max(rows, columns)


def original_views(image, pinpoints, length):
    """The tiles that the original code makes, before mean and deviation, as uint8; `pinpoints` are (width, height).

    Source: `process_anyres_image` of LLaVA's mm_utils.py.
    """

    def fit(size):
        scale = min(size[0] / image.width, size[1] / image.height)
        seen = min(int(image.width * scale) * int(image.height * scale), image.width * image.height)
        return seen, -(size[0] * size[1] - seen)

    width, height = max(pinpoints, key=fit)
    across, down = width / image.width, height / image.height
    if across < down:
        inner = width, min(ceil(image.height * across), height)
    else:
        inner = min(ceil(image.width * down), width), height
    canvas = Image.new("RGB", (width, height))
    canvas.paste(image.resize(inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return [np.asarray(canvas.crop((x, y, x + length, y + length)))
            for y in range(0, height, length) for x in range(0, width, length)]  # fmt: skip


@pytest.mark.parametrize("size", [(48, 96), (20, 90), (10, 7), (100, 37)])
@pytest.mark.parametrize(
    "written", [[[64, 32], [32, 64], [64, 64], [96, 32]], "[[64, 32], [96, 64]]", "(1x1),...,(2x3)"]
)
def test_original_llava_cuts_tiles_as_its_own_code_does(tmp_path, written, size):
    vision_config("clip").save_pretrained(tmp_path / "tower")
    model = llava("clip", vision_feature_layer=-2)
    fields = {"image_grid_pinpoints": written, "image_aspect_ratio": "anyres_max_2"}
    folder = write_original(tmp_path / "l", model, tmp_path / "tower", mm_patch_merge_type="spatial_unpad", **fields)
    encoder, (image,) = load_encoder(folder, resolution=TILES), noise(size)
    ranges = [[w * SIDE, h * SIDE] for w in (1, 2) for h in (1, 2, 3)]
    pairs = {"[": [[64, 32], [96, 64]], "(": ranges}.get(written[0]) if isinstance(written, str) else written
    mean, deviation = np.array(encoder.processor.image_mean), np.array(encoder.processor.image_std)
    expected = (np.stack(original_views(image, pairs, SIDE)) / 255 - mean) / deviation
    pixels = encoder.preprocess([image])
    # one float32 division by 255 and one by the deviation, values up to 3
    torch.testing.assert_close(pixels.inputs["pixel_values"].permute(0, 2, 3, 1).double(), torch.tensor(expected),
                               rtol=0, atol=2e-6)  # fmt: skip
    with torch.no_grad():
        own = torch.stack(list(model.get_image_features(pixels.inputs["pixel_values"]).pooler_output))
    (mosaic,) = pixels.mosaics
    top, left, bottom, right = mosaic.window
    whole = laid_out(own, mosaic.rows, mosaic.columns)[top:bottom, left:right]
    assert torch.equal(encoder.forward(pixels, ["projected"])["projected"][0], whole.flatten(0, 1))
    assert any("more than 2 tiles" in warning for warning in encoder.provenance.warnings)


@pytest.mark.parametrize("written", [None, "no", "[[30, 32]]", 7])
def test_original_pinpoints_that_do_not_fit_are_refused(tmp_path, written):
    vision_config("clip").save_pretrained(tmp_path / "tower")
    fields = {"image_grid_pinpoints": written, "image_aspect_ratio": "anyres"}
    folder = write_original(tmp_path / "l", llava("clip"), tmp_path / "tower", **fields)
    assert load_encoder(folder).grid == (EDGE, EDGE)
    with pytest.raises(CheckpointError, match=re.escape(f"image_grid_pinpoints {written!r}")):
        load_encoder(folder, resolution=TILES)


def test_original_internvl_cuts_the_tiles_of_transformers(tmp_path):
    model = internvl()
    new = load_encoder(write_model(tmp_path / "hf", model), resolution=TILES)
    for most, dynamic, grid in ((12, True, (8, 12)), (2, True, (4, 8)), (12, False, (4, 4))):
        config = original_config(max_dynamic_patch=most, dynamic_image_size=dynamic)
        folder = write(tmp_path / f"{most}{dynamic}", original(model), config, processor=False)
        encoder = load_encoder(folder, resolution=TILES)
        assert encoder.preprocess(noise((64, 96))).grids == (grid,)
        if grid == (8, 12):
            assert torch.equal(encoder(noise((64, 96)))["projected"], new(noise((64, 96)))["projected"])


def test_padding_is_removed_after_a_connector_that_joins_tokens():
    """A token of the connector is kept if any of the four that it is made of shows the image."""
    mosaic = Mosaic(2, 1, (4, 4), (1, 0, 6, 4))
    pixels, tokens = Pixels({}, (mosaic.grid,), (mosaic,)), torch.arange(8.0).view(2, 4, 1)
    ((kept, grid),) = AnyRes(PINPOINTS).images([(tokens, (2, 2))], pixels)
    assert (kept.flatten().tolist(), grid) == ([0, 1, 2, 3, 4, 5], (3, 2))
