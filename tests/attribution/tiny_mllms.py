"""Tiny whole models of every family whose answers can be explained, and the encoders of their checkpoints."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import tiny_families
import torch
import transformers
from PIL import Image
from tiny_families import PATCH, SIDE, SQUARE, VISION, ids, seeded, template, text_config, tokenizer, without_video
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from whole_models import bright_patch

from visprobe.attribution.targets.answers import MllmSubject
from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.processor import Resolution
from visprobe.mllm.question import Question

ASKED = Question("what is this ?", "one two", "yes")


def internvl():
    config = transformers.InternVLConfig(
        vision_config={**VISION, **SQUARE, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
        text_config=text_config("qwen2"),
        image_token_id=ids("<image_soft_token>")[0],
        image_seq_length=4,
    )
    processor = without_video(transformers.InternVLProcessor)(
        GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer(
            context_image="<image_soft_token>", start_image="<start_of_image>", end_image="<end_of_image>",
            video="<video>",
        ),
        image_seq_length=4,
        chat_template=template("<image_soft_token>"),
    )  # fmt: skip
    return seeded(transformers.InternVLForConditionalGeneration, config), processor


# Name -> model and processor, height and width of an image that the encoder does not resize, side of a patch.
MLLMS = {
    **{name: (make, (SIDE, SIDE), PATCH) for name, make in (*tiny_families.FAMILIES.items(), ("internvl", internvl))},
    "llava-clip": (lambda: tiny_families.llava(-2, "clip"), (SIDE, SIDE), PATCH),
    **{f"qwen{n}_vl": (lambda n=n: tiny_families.qwen(f"qwen{n}_vl"), (24, 32), 4) for n in ("2", "2_5", "3")},
}


def written(name, folder, dtype=torch.float32):
    """Model, processor and encoder of the family `name`."""
    make, (height, width), _ = MLLMS[name]
    model, processor = make()
    with quiet():
        model.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)
    encoder = load_encoder(folder, dtype=dtype, resolution=Resolution(pixels=height * width))
    return model.to(dtype), processor, encoder


def subject(name, folder, target="answer", questions=(ASKED,), **options):
    return MllmSubject(*written(name, folder), questions, target, **options)


def picture(name, seed=0, size=None):
    """An image of noise, by default one that the encoder does not resize."""
    noise = torch.randint(
        0, 256, (*(size or MLLMS[name][1]), 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(noise.numpy())


def lit(name):
    """A grey image, the same with one white patch, and the row and column of that patch."""
    _, (height, width), patch = MLLMS[name]
    row, column = height // patch - 2, width // patch - 1
    return (
        Image.new("RGB", (width, height), (128,) * 3),
        bright_patch((height, width), patch, row, column),
        (row, column),
    )


def plain(name, processor, image, turn):
    """What the model's own processor makes of ASKED and a finished turn, in one view."""
    content = [{"type": "image"}, {"type": "text", "text": ASKED.prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    area = image.width * image.height
    options = {
        **{kind: {"crop_to_patches": False} for kind in ("internvl", "aya_vision")},
        **{kind: {"do_image_splitting": False} for kind in ("idefics3", "smolvlm")},
        **{f"qwen{n}_vl": {"size": {"shortest_edge": area, "longest_edge": area}} for n in ("2", "2_5", "3")},
    }
    if name != "llava_onevision":
        return processor(images=[[image]], text=[text + turn], return_tensors="pt", **options.get(name, {}))
    # The base view of the tiles, and a new line, as for each of several images.
    base = processor.image_processor([image], return_tensors="pt")
    text = text.replace("<image>", "<image>" * ((SIDE // PATCH) ** 2 + 1))
    views = {"pixel_values": base["pixel_values"][:, :1], "image_sizes": base["image_sizes"]}
    return {**processor.tokenizer([text + turn], return_tensors="pt"), **views, "batch_num_images": torch.tensor([2])}
