"""Tiny random models of native resolution, and what every one of them is asked."""

import torch
import transformers
from PIL import Image, ImageDraw
from tiny_checkpoints import BLOCKS, PATCH, TEXT, filled, images

from visprobe.encoders.checkpoint.quiet import quiet

NARROW = {k: v for k, v in TEXT.items() if k != "model_type"}
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
    "patch_size": PATCH,
}  # fmt: skip


def pixtral(kind="mistral3", text_epsilon=1e-3, **changes):
    """A LLaVA or a Mistral 3 with a Pixtral tower."""
    name = {"llava": "Llava", "mistral3": "Mistral3"}[kind]
    options = {"vision_feature_layer": -1, "image_token_index": 49, **changes}
    if kind == "llava":
        options["vision_feature_select_strategy"] = "full"
    config = getattr(transformers, f"{name}Config")(
        vision_config={"model_type": "pixtral", **VISION, "image_size": 128},
        text_config={"model_type": "mistral", **NARROW, "rms_norm_eps": text_epsilon},
        **options,
    )
    return built(f"{name}ForConditionalGeneration", config)


def gemma4(**vision):
    """A Gemma 4 that pools 2x2 patches and standardises them."""
    config = transformers.Gemma4Config(
        text_config={
            **NARROW, "num_hidden_layers": 1, "head_dim": 12, "global_head_dim": 12, "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 50, "layer_types": ["full_attention"], "num_kv_shared_layers": 0,
        },
        vision_config={
            **VISION, "num_key_value_heads": 4, "head_dim": 8, "pooling_kernel_size": 2, "position_embedding_size": 90,
            "standardize": True, "use_clipped_linears": True, **vision,
        },
        audio_config=None,
        image_token_id=49,
    )  # fmt: skip
    model = built("Gemma4ForConditionalGeneration", config)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.model.vision_tower.named_buffers():
        if "std_" in name:
            buffer.add_(torch.rand(buffer.shape, generator=generator))
        elif name.endswith(("_min", "_max")):  # limits that clip: the numbers here reach 3 and more
            buffer.fill_(-0.8 if name.endswith("min") else 0.7)
    return model


def built(name, config):
    torch.manual_seed(0)
    with quiet():
        return filled(getattr(transformers, name)(config))


def whole(folder, name):
    """The whole model in `folder`, as transformers reads it."""
    with quiet():
        return getattr(transformers, name).from_pretrained(folder).eval().requires_grad_(False)


def mixed():
    """Noise, two images of one size and two of others."""
    return [image for size in ((48, 48), (48, 48), (30, 80), (90, 40)) for image in images(1, size[0], size)]


def bright(rows, columns, patch=PATCH):
    """A grey image of `rows` x `columns` patches, and one image for each patch in raster order that is bright."""
    grey = Image.new("RGB", (columns * patch, rows * patch), (90, 90, 90))
    made = [grey]
    for place in range(rows * columns):
        left, top = place % columns * patch, place // columns * patch
        image = grey.copy()
        ImageDraw.Draw(image).rectangle((left, top, left + patch - 1, top + patch - 1), fill=(250, 250, 250))
        made.append(image)
    return made


def answering(encoder, rows, columns):
    """For each patch of a grid in raster order, the token before the first block that changes most when it is lit."""
    pixels = encoder.preprocess(bright(rows, columns))
    assert set(pixels.grids) == {(rows, columns)}
    tokens = encoder.forward(pixels, ["block_00"])["block_00"]
    return (tokens[1:] - tokens[:1]).norm(dim=-1).argmax(dim=1).tolist()


def one_by_one(encoder, pictures, site):
    """Mean token of each image at `site`, each forwarded by itself."""
    reduce = {"reduce": lambda tokens: tokens.mean(dim=1)}
    return torch.cat([encoder.forward(encoder.preprocess([p]), [site], **reduce)[site] for p in pictures])


def together(encoder, pictures, site):
    """Mean token of each image at `site`, all forwarded in one batch."""
    return encoder.forward(encoder.preprocess(pictures), [site], reduce=lambda tokens: tokens.mean(dim=1))[site]
