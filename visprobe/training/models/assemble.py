"""LLaVA models assembled from a vision tower and a language model, with a fresh projector between them.

Built as in the PIVOT paper: one square image, no tiles, a two-layer projector.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from visprobe.encoders import VisionEncoder, load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError, UsageError
from visprobe.mllm.language import LanguageModel, read_language_model, with_images

IMAGE_TOKEN = "<image>"
_PROJECTORS = ("mlp2x_gelu",)
_ROWS = 8  # embedding matrices are padded to a multiple of this, which tensor cores need for speed
# Families whose MLLMs usually read the last block; for the others the last but one is read.
_READ_TO_THE_END = ("dinov2", "vit")


def assemble(
    vision_tower: str | Path | VisionEncoder,
    language_model: str | Path,
    *,
    projector: str = "mlp2x_gelu",
    image_size: int | None = None,
    feature_layer: int | None = None,
    seed: int = 0,
    chat_template: Path | None = None,
) -> tuple[Any, Any]:
    """Assemble a LLaVA from a vision tower and a language model, ready for its projector stage.

    Args:
        vision_tower: Any checkpoint that `load_encoder` reads: a bare tower, or an MLLM for its trained tower.
        language_model: Folder or hub id of a causal language model; a folder may hold one .gguf file.
        projector: Kind of projector; "mlp2x_gelu" is the one that transformers' LLaVA has.
        image_size: Side of the square image in pixels; None for the tower's own. Another size interpolates the
            position embeddings.
        feature_layer: Block of the tower whose output the language model reads, counted from 1; None for what the
            tower's MLLM reads: for a bare SigLIP or CLIP the last but one, for a bare DINOv2 or ViT the last.
        seed: Fixes the projector's initial weights.
        chat_template: Jinja file to use instead of the language model's own chat template.

    Returns:
        `LlavaForConditionalGeneration` in float32, and its `LlavaProcessor`.

    Raises:
        CheckpointError: If tower or language model cannot be loaded, or do not fit into a LLaVA.
        UsageError: If projector, image size or feature layer do not exist.

    Source: arXiv 2510.16333, section 3.1 and appendix E.1.
    """
    if projector not in _PROJECTORS:
        raise UsageError(f"no projector {projector}", hint=f"LLaVA in transformers has {', '.join(_PROJECTORS)}.")
    encoder = vision_tower if isinstance(vision_tower, VisionEncoder) else load_encoder(vision_tower)
    depth = _depth(encoder, feature_layer)
    language = read_language_model(language_model, chat_template)
    tower, vision = _tower(encoder, depth, image_size)
    image_token = _add_image_token(language.tokenizer)
    config = _config(encoder, vision, depth, language, image_token)
    model = _model(config, tower, language, seed)
    model.generation_config = _generation_config(model, language)
    _check_language(model, language)
    return model, _processor(encoder, config, image_size, language)


def _depth(encoder: VisionEncoder, feature_layer: int | None) -> int:
    family, count = encoder.provenance.family, int(encoder.config.num_hidden_layers)
    if encoder.prefix_tokens > 1:
        raise CheckpointError(
            f"the tower of {encoder.name} has register tokens, which LLaVA would take for patches",
            hint="Take a tower without registers.",
        )
    if feature_layer is not None:
        if not 1 <= feature_layer <= count:
            raise UsageError(f"no feature layer {feature_layer}", hint=f"{encoder.name} has blocks 1 to {count}.")
        return feature_layer
    if not encoder.has_projector:
        return count if family in _READ_TO_THE_END else count - 1
    if not encoder.consumed.startswith("block_"):
        raise CheckpointError(
            f"the MLLM in {encoder.name} reads its tower after the last norm, which LLaVA cannot",
            hint=f"Say which block to read instead: feature_layer {count} is the last.",
        )
    return int(encoder.consumed.removeprefix("block_"))


def _tower(encoder: VisionEncoder, depth: int, image_size: int | None) -> tuple[dict[str, torch.Tensor], Any]:
    """Return weights and configuration of the tower; SigLIP loses the blocks and head that are never read."""
    config, family = encoder.config, encoder.provenance.family
    aside = {name for name in encoder.weights() if name.startswith("projector.") or encoder.family.is_projection(name)}
    weights = {name: value.float() for name, value in encoder.weights().items() if name not in aside}
    if family == "siglip":
        unread = {f"block_{number + 1:02d}" for number in range(depth, config.num_hidden_layers)} | {"head"}
        weights = {name: value for name, value in weights.items() if encoder.weight_group(name) not in unread}
        config.num_hidden_layers, config.vision_use_head = depth, False
    if image_size is not None and image_size != config.image_size:
        if image_size < config.patch_size or image_size % config.patch_size:
            raise UsageError(
                f"no image size {image_size}", hint=f"It must be a multiple of the patch size, {config.patch_size}."
            )
        weights = _stretched(weights, encoder.prefix_tokens, image_size // config.patch_size)
        config.image_size = image_size
    return weights, config


def _stretched(weights: Mapping[str, torch.Tensor], prefix: int, side: int) -> dict[str, torch.Tensor]:
    """Return the weights with position embeddings interpolated (bicubic) to a `side` x `side` patch grid."""
    result = dict(weights)
    for name, value in weights.items():
        if name.startswith("embeddings.position_embedding"):
            # Rows are prefix tokens (class token) first, then patches row by row; only the patches form a grid.
            rows = value.reshape(-1, value.shape[-1])
            before = int((len(rows) - prefix) ** 0.5)
            grid = rows[prefix:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
            grid = torch.nn.functional.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
            stretched = torch.cat([rows[:prefix], grid[0].flatten(1).T])
            result[name] = stretched.reshape(*value.shape[:-2], *stretched.shape)
    return result


def _add_image_token(tokenizer: Any) -> int:
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    tokenizer.padding_side = "left"  # for generation; training batches are padded by their collator
    return int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))


def _config(encoder: VisionEncoder, vision: Any, depth: int, language: LanguageModel, image_token: int) -> Any:
    text = copy.deepcopy(language.model.config)
    if hasattr(text, "quantization_config"):
        del text.quantization_config  # weights of a GGUF file are plain numbers once they are loaded
    text.vocab_size = _rows(language)
    return LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=image_token,
        image_seq_length=(int(vision.image_size) // int(vision.patch_size)) ** 2,
        vision_feature_layer=depth - vision.num_hidden_layers - 1,
        vision_feature_select_strategy="default" if encoder.prefix_tokens else "full",
        projector_hidden_act="gelu",
        tie_word_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
        **{key: getattr(text, key, None) for key in ("pad_token_id", "bos_token_id", "eos_token_id")},
    )


def _rows(language: LanguageModel) -> int:
    """Return the rows of the embedding matrix: its own number, or, if too few, enough for every token."""
    present, needed = len(language.model.get_input_embeddings().weight), len(language.tokenizer)
    return present if present >= needed else -(-needed // _ROWS) * _ROWS


def _model(config: Any, tower: Mapping[str, torch.Tensor], language: LanguageModel, seed: int) -> Any:
    weights = {f"model.vision_tower.{name}": value for name, value in tower.items()}
    weights |= _language_weights(language, tied=config.tie_word_embeddings)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model, loaded = LlavaForConditionalGeneration.from_pretrained(
            None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
        )
    # Norms after the block that is read never reach the language model, so their weights may be fresh.
    fresh = ("model.multi_modal_projector.", "model.vision_tower.post_layernorm.", "model.vision_tower.layernorm.")
    missing = [name for name in loaded["missing_keys"] if not name.startswith(fresh)]
    if faults := sorted({*missing, *loaded["unexpected_keys"]}):
        raise CheckpointError(
            f"tower and language model do not fit into a LLaVA: {', '.join(faults[:3])}",
            hint="Its language model must be one that LLaVA in transformers can hold.",
        )
    return model


def _language_weights(language: LanguageModel, tied: bool) -> dict[str, torch.Tensor]:
    rows = _rows(language)
    inside = language.model.base_model.state_dict()
    weights = {f"model.language_model.{name}": value for name, value in inside.items()}
    embedding = language.model.get_input_embeddings().weight
    # Tied copies of the embedding share memory; each of them has to grow with it.
    names = {
        f"model.language_model.{name}" for name, value in inside.items() if value.data_ptr() == embedding.data_ptr()
    }
    weights |= {name: _filled_up(embedding.detach(), rows) for name in names}
    if not tied:
        weights["lm_head.weight"] = _filled_up(language.model.get_output_embeddings().weight.detach(), rows)
    return weights


def _filled_up(matrix: torch.Tensor, rows: int) -> torch.Tensor:
    """Append rows to `matrix`, each its mean row, so that new tokens are neither likely nor unlikely."""
    added = matrix.mean(0, keepdim=True).expand(rows - len(matrix), -1)
    return torch.cat([matrix, added])


def _generation_config(model: Any, language: LanguageModel) -> GenerationConfig:
    """Make a generation config with the language model's end tokens that never emits image or unused tokens."""
    ends = getattr(language.model.generation_config, "eos_token_id", None)
    never = sorted({model.config.image_token_id, *range(len(language.tokenizer), model.config.text_config.vocab_size)})
    return GenerationConfig(
        bos_token_id=language.tokenizer.bos_token_id,
        eos_token_id=language.tokenizer.eos_token_id if ends is None else ends,
        pad_token_id=language.tokenizer.pad_token_id,
        suppress_tokens=never,
    )


@torch.inference_mode()
def _check_language(model: Any, language: LanguageModel) -> None:
    """Refuse a language model that is more than embeddings, blocks and a linear head: LLaVA would drop the rest."""
    known = len(language.model.get_input_embeddings().weight)
    ids = torch.linspace(0, min(known, model.config.image_token_id) - 1, 8).long()[None]
    before, after = language.model(ids).logits, model.eval()(ids).logits[..., :known]
    if not torch.allclose(before, after, atol=1e-3 * float(before.abs().max())):
        raise CheckpointError(
            f"{type(language.model).__name__} gives other scores inside LLaVA than by itself",
            hint="It scales or caps its logits, which LLaVA in transformers does not; take another language model.",
        )


def _processor(encoder: VisionEncoder, config: Any, image_size: int | None, language: LanguageModel) -> Any:
    template = with_images(language.chat_template, IMAGE_TOKEN)
    language.tokenizer.chat_template = template
    return LlavaProcessor(
        _resized(encoder, image_size),
        language.tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=encoder.prefix_tokens,
        image_token=IMAGE_TOKEN,
        chat_template=template,
    )


def _resized(encoder: VisionEncoder, side: int | None) -> Any:
    processor = copy.deepcopy(encoder.processor)
    if side is not None:
        square = {"height": side, "width": side}
        if encoder.provenance.family in ("siglip", "vit"):
            processor.size = square
        else:
            processor.size, processor.crop_size = {"shortest_edge": side}, square
    return processor
