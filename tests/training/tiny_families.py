"""A tiny random model of every family, with its own processor class and image marks, and rows to train it on."""

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from visprobe.data.rows import Row, Turn

SIDE, PATCH = 32, 8
SPECIAL = [
    "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>", "<start_of_image>", "<end_of_image>", "<image_soft_token>",
    "<fake_token_around_image>", "<global-img>", "<end_of_utterance>",
    *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)),
]  # fmt: skip
WORDS = ["user", "assistant", "what", "is", "this", "one", "two", "three", "yes", "no", "?"]
TEMPLATE = """
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + ' ' -}}
{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}
{%- for part in message['content'] -%}{{ 'MARK' if part['type'] == 'image' else part['text'] }}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant ' }}{%- endif -%}
"""
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 3,
    "max_position_embeddings": 512,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SQUARE = {"image_size": SIDE, "patch_size": PATCH}
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"


def tokenizer(without=(), **named):
    special = [word for word in SPECIAL if word not in without]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.add_special_tokens(special)
    extra = {f"{name}_token": token for name, token in named.items()}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", bos_token=None, eos_token="<|im_end|>",
        extra_special_tokens=extra,
    )  # fmt: skip


def template(mark):
    return TEMPLATE.replace("MARK", mark).strip()


def text_config(kind, **changes):
    return {"model_type": kind, "vocab_size": len(SPECIAL) + len(WORDS), **TEXT, **changes}


def seeded(build, config):
    torch.manual_seed(0)
    return build(config)


def ids(*tokens):
    return [SPECIAL.index(token) for token in tokens]


def without_video(processor_class):
    """The class without its video processor, which needs torchvision."""

    def check(self, name, argument):
        return None if name == "video_processor" else super(made, self).check_argument_for_proper_class(name, argument)

    made = type(processor_class.__name__, (processor_class,), {"check_argument_for_proper_class": check})
    return made


def llava(layer=-1, family="siglip"):
    config = transformers.LlavaConfig(
        vision_config={"model_type": f"{family}_vision_model", **VISION, **SQUARE},
        text_config=text_config("qwen2"),
        image_token_id=ids("<image>")[0],
        vision_feature_layer=layer,
        vision_feature_select_strategy="full" if family == "siglip" else "default",
    )
    processor = transformers.LlavaProcessor(
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer(image="<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=0 if family == "siglip" else 1,
        chat_template=template("<image>"),
    )
    return seeded(transformers.LlavaForConditionalGeneration, config), processor


def onevision():
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    config = transformers.LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION, **SQUARE},
        text_config=text_config("qwen2"),
        image_token_id=ids("<image>")[0],
        video_token_id=ids("<video>")[0],
        image_grid_pinpoints=pinpoints,
    )
    processor = without_video(transformers.LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints),
        tokenizer(image="<image>", video="<video>"),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )
    return seeded(transformers.LlavaOnevisionForConditionalGeneration, config), processor


def qwen(kind):
    classes = {
        "qwen2_vl": ("Qwen2VL", {"depth": 3, "embed_dim": 32, "hidden_size": 24, "num_heads": 4, "mlp_ratio": 2}),
        "qwen2_5_vl": (
            "Qwen2_5_VL",
            {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 24,
             "window_size": 16, "fullatt_block_indexes": [2]},
        ),
        "qwen3_vl": (
            "Qwen3VL",
            {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 24,
             "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        ),
    }  # fmt: skip
    name, vision = classes[kind]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
    start, end, image, video = ids("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    config = getattr(transformers, f"{name}Config")(
        vision_config={"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision},
        text_config={**text_config(f"{kind}_text"), "rope_parameters": rope},
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    processor = without_video(getattr(transformers, f"{name}Processor"))(
        Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 768}
        ),
        tokenizer(image="<|image_pad|>", video="<|video_pad|>"),
        chat_template=template(QWEN_MARK),
    )
    return seeded(getattr(transformers, f"{name}ForConditionalGeneration"), config), processor


def idefics(name):
    config = getattr(transformers, f"{name}Config")(
        vision_config={**VISION, **SQUARE},
        text_config=text_config("llama"),
        image_token_id=ids("<image>")[0],
        scale_factor=2,
    )
    processor = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}),
        tokenizer(),
        image_seq_len=(SIDE // PATCH // 2) ** 2,
        chat_template=template("<image>"),
    )
    return seeded(getattr(transformers, f"{name}ForConditionalGeneration"), config), processor


def gemma3():
    config = transformers.Gemma3Config(
        vision_config={"vision_use_head": False, **VISION, **SQUARE},
        text_config={**text_config("gemma3_text"), "sliding_window": 64},
        mm_tokens_per_image=4,
        image_token_id=ids("<image_soft_token>")[0],
        boi_token_id=ids("<start_of_image>")[0],
        eoi_token_id=ids("<end_of_image>")[0],
    )
    processor = transformers.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer(image="<image_soft_token>", boi="<start_of_image>", eoi="<end_of_image>"),
        chat_template=template("<start_of_image>"),
        image_seq_length=4,
    )
    model = seeded(transformers.Gemma3ForConditionalGeneration, config)
    # It starts at zero, where no gradient reaches the tower.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model, processor


def aya_vision():
    config = transformers.AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION, **SQUARE},
        text_config={**text_config("cohere2"), "sliding_window": 64},
        image_token_index=ids("<image_soft_token>")[0],
    )
    processor = transformers.AyaVisionProcessor(
        GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        tokenizer(),
        patch_size=2 * PATCH,
        img_size=SIDE,
        start_of_img_token="<start_of_image>",
        end_of_img_token="<end_of_image>",
        img_patch_token="<image_soft_token>",
        tile_token="<row_1_col_1>",
        tile_global_token="<global-img>",
        chat_template=template("<image>"),
    )
    return seeded(transformers.AyaVisionForConditionalGeneration, config), processor


class Rows:
    """Rows in memory; the image key "40x30" is a picture of noise of that width and height."""

    name = "made"

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def image(self, key):
        width, height = map(int, key.split("x"))
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def content_hash(self):
        return "0"


ASKED = Rows(
    Row("a", (Turn("user", "<image>\nwhat is this ?"), Turn("assistant", "one two")), ("40x40",)),
    Row("b", (Turn("user", "<image>\nis this two ?"), Turn("assistant", "yes")), ("64x30",)),
    Row("c", (Turn("user", "what is two ?"), Turn("assistant", "no one"))),
)

FAMILIES = {
    "llava": llava,
    "llava_onevision": onevision,
    "qwen2_vl": lambda: qwen("qwen2_vl"),
    "qwen2_5_vl": lambda: qwen("qwen2_5_vl"),
    "qwen3_vl": lambda: qwen("qwen3_vl"),
    "idefics3": lambda: idefics("Idefics3"),
    "smolvlm": lambda: idefics("SmolVLM"),
    "gemma3": gemma3,
    "aya_vision": aya_vision,
}
