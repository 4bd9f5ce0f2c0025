"""An adapter of every family equals what PEFT merges into the model of that family, tower and projector, to the bit."""

import json
import re
import shutil
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_aya_vision import tiny as aya_vision
from test_gemma import tiny as gemma
from test_idefics import tiny as idefics
from test_llava_next import tiny as llava_next
from test_mllama import tiny as mllama
from tiny_checkpoints import TEXT, VISION, filled, llava, spelled, write_original
from tiny_internvl import tiny as internvl
from tiny_native import VISION as NATIVE
from tiny_native import built, gemma4, pixtral
from tiny_qwen import KINDS, qwen

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.families import MODELS, TOWERS

DINO = {name: value for name, value in VISION.items() if name != "intermediate_size"}


def bare(name, **fields):
    """A tower by itself; `name` is its class without "Model"."""
    config = getattr(
        transformers, f"{name.removesuffix('Vision')}VisionConfig" if "Vision" in name else f"{name}Config"
    )
    return built(f"{name}Model", config(**fields))


def llava_of(model_type, **fields):
    config = transformers.LlavaConfig(
        vision_config={"model_type": model_type, **fields}, text_config=TEXT, image_token_index=49,
        vision_feature_layer=-1, vision_feature_select_strategy="default",
    )  # fmt: skip
    torch.manual_seed(0)
    with quiet():
        return filled(transformers.LlavaForConditionalGeneration(config))


FAMILIES = {
    "llava-siglip": lambda: llava("siglip"),
    "llava-clip": lambda: llava("clip"),
    "llava-dinov2": lambda: llava_of("dinov2", **DINO),
    "llava-dinov2-swiglu": lambda: llava_of("dinov2", **DINO, use_swiglu_ffn=True),
    "llava-vit": lambda: llava_of("vit", **VISION),
    "llava-pixtral": lambda: pixtral("llava"),
    "onevision": lambda: llava("siglip", "llava_onevision"),
    **{kind: lambda kind=kind: llava_next(kind=kind) for kind in ("llava_next", "llava_next_video", "vipllava")},
    **{kind: lambda kind=kind: gemma(kind) for kind in ("gemma3", "paligemma")},
    **{kind: lambda kind=kind: idefics(kind) for kind in ("idefics3", "smolvlm")},
    **{kind: lambda kind=kind: qwen(kind) for kind in KINDS},
    "aya_vision": aya_vision,
    "gemma4": gemma4,
    "internvl": internvl,
    "mistral3": pixtral,
    "mllama": mllama,
    "siglip": lambda: bare("SiglipVision", **VISION),
    "siglip2": lambda: bare("Siglip2Vision", **NATIVE, num_patches=16),
    "clip": lambda: bare("CLIPVision", **VISION),
    "aimv2": lambda: bare("Aimv2Vision", **VISION),
    "mlcd": lambda: bare("MLCDVision", **VISION),
    "vit": lambda: bare("ViT", **VISION),
    "dinov2": lambda: bare("Dinov2", **DINO),
    "dinov2-swiglu": lambda: bare("Dinov2", **DINO, use_swiglu_ffn=True),
    "dinov2-registers": lambda: bare("Dinov2WithRegisters", **DINO, num_register_tokens=3),
    "dinov3": lambda: bare("DINOv3ViT", **NATIVE, image_size=32, num_register_tokens=3),
}
LANGUAGE = re.compile(r"language_model|lm_head|text_model|embed_tokens")
LAYERS = torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d


def whole(folder, cls):
    with quiet():
        return cls.from_pretrained(folder)


def parts(model, kind):
    """Names of the modules of a `kind` in tower and connector."""
    return [name for name, module in model.named_modules() if isinstance(module, kind) and not LANGUAGE.search(name)]


def plain(model):
    """A LoRA of every layer, tables included."""
    return {"target_modules": parts(model, LAYERS | torch.nn.Embedding), "lora_alpha": 7}


def rich(model):
    """All that PEFT can vary, but for tables, of which a DoRA is none."""
    first, second, *others = parts(model, LAYERS)
    return {
        "target_modules": [first, second, *others[:-1]], "use_rslora": True, "use_dora": True, "bias": "all",
        "rank_pattern": {re.escape(first): 2}, "alpha_pattern": {re.escape(second): 5},
        "modules_to_save": [others[-1], parts(model, torch.nn.Module)[-1]],
    }  # fmt: skip


def write_adapter(folder, base, cls, settings, name="default"):
    """An adapter of the model in `base` whose every trained weight is off its initial value."""
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PEFT asks transformers for what that has renamed
        model = whole(base, cls)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, **settings(model)), adapter_name=name)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.peft_config[name].base_model_name_or_path = str(base)
        model.save_pretrained(folder)
    return folder if name == "default" else folder / name


def merged(folder, base, adapter, cls):
    """The model into which PEFT merges `adapter`, written whole to `folder`."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # as above
        peft.PeftModel.from_pretrained(whole(base, cls), adapter).merge_and_unload().save_pretrained(folder)
    return folder


def same(one, other):
    one, other = one.weights(), other.weights()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A base model's folder, its class, and an adapter of every layer of its tower and connector."""
    model, root = FAMILIES[request.param](), tmp_path_factory.mktemp("family")
    with quiet():
        model.save_pretrained(root / "base")
    return root / "base", type(model), write_adapter(root / "adapter", root / "base", type(model), plain)


@pytest.mark.thorough
def test_every_family_is_tried():
    kinds = set()
    for make in FAMILIES.values():
        config = make().config
        kinds |= {config.model_type, getattr(getattr(config, "vision_config", None), "model_type", None)}
    assert [row.name for row in (*MODELS, *TOWERS) if kinds.isdisjoint(row.model_types)] == []


def test_merging_is_that_of_peft(tmp_path, family):
    base, cls, folder = family
    encoder, before = load_encoder(folder), load_encoder(base).weights()
    assert same(encoder, load_encoder(merged(tmp_path / "merged", base, folder, cls)))
    changed = [name for name, weight in encoder.weights().items() if not torch.equal(weight, before[name])]
    assert len(changed) == len(plain(whole(base, cls))["target_modules"])


def test_an_early_adapter_of_what_is_two_layers_today(tmp_path):
    with quiet():
        FAMILIES["dinov2-swiglu"]().save_pretrained(tmp_path / "base")
    rows = load_file(tmp_path / "base" / "model.safetensors")["encoder.layer.1.mlp.weights_in.weight"].shape[0]
    lora_of(tmp_path / "lora", tmp_path / "base", "encoder.layer.1.mlp.weights_in", rows)
    matrices = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    a, b = (matrices[f"base_model.model.encoder.layer.1.mlp.weights_in.lora_{side}.weight"] for side in "AB")
    old, new = load_encoder(tmp_path / "base").weights(), load_encoder(tmp_path / "lora").weights()
    for name, delta in zip(("gate_proj", "up_proj"), (b @ a).chunk(2), strict=True):
        assert torch.equal(new[f"encoder.layer.1.mlp.{name}.weight"], old[f"encoder.layer.1.mlp.{name}.weight"] + delta)


def test_todays_names_meet_those_of_an_original_llava_with_dinov2(tmp_path):
    model, prefix = FAMILIES["llava-dinov2"](), "model.vision_tower.vision_tower."
    with quiet():
        model.model.vision_tower.save_pretrained(tmp_path / "tower")
    tower = load_file(tmp_path / "tower" / "model.safetensors")
    assert "encoder.layer.0.attention.attention.query.weight" in tower  # an early name
    projector = {name: tensor for name, tensor in spelled(model, "L").items() if "mm_projector" in name}
    saved = {prefix + name: tensor for name, tensor in tower.items()} | projector
    base = write_original(tmp_path / "base", model, tmp_path / "tower", saved)
    folder = lora_of(tmp_path / "lora", base, f"{prefix}encoder.layer.0.attention.q_proj", 32)
    old, new = load_encoder(base).weights(), load_encoder(folder).weights()
    assert [n for n in old if not torch.equal(old[n], new[n])] == ["encoder.layer.0.attention.q_proj.weight"]


def lora_of(folder, base, module, rows):
    """A LoRA of one layer with 32 inputs and as many outputs as `rows`."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(2)
    sides = {"A": torch.randn(4, 32, generator=generator), "B": torch.randn(rows, 4, generator=generator)}
    tensors = {f"base_model.model.{module}.lora_{side}.weight": tensor for side, tensor in sides.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.sample(1)
def test_so_it_is_with_all_that_peft_can_vary(tmp_path, family):
    base, cls, _ = family
    folder = write_adapter(tmp_path / "adapter", base, cls, rich, "sft")
    assert same(load_encoder(folder), load_encoder(merged(tmp_path / "merged", base, folder, cls)))


@pytest.mark.sample(1)
def test_names_on_disk_and_in_memory_meet(tmp_path, family):
    """Base and adapter, each by today's names of the class and by those of the files on the hub."""
    base, cls, folder = family
    expected, model = load_encoder(folder), whole(base, cls)
    on_disk = names_on_disk(base, model)
    in_memory = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    shutil.copytree(base, tmp_path / "base")
    save_file(in_memory, tmp_path / "base" / "model.safetensors")
    early = rename(shutil.copytree(folder, tmp_path / "early"), on_disk)
    assert same(load_encoder(early), expected)
    for other in (shutil.copytree(folder, tmp_path / "today"), early):
        config = json.loads((other / "adapter_config.json").read_text())
        (other / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "../base"}))
        assert same(load_encoder(other), expected)


def names_on_disk(base, model):
    """From each module's name in memory to that in the file, where one tensor is one tensor."""
    files = {fingerprint(tensor): name for name, tensor in load_file(base / "model.safetensors").items()}
    pairs = {name: files.get(fingerprint(tensor), name) for name, tensor in model.state_dict().items()}
    return {name.rpartition(".")[0]: on_disk.rpartition(".")[0] for name, on_disk in pairs.items() if "weight" in name}


def fingerprint(tensor):
    return tuple(tensor.shape), tensor.flatten()[:8].tolist().__repr__()


def rename(folder, names):
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {}
    for name, tensor in tensors.items():
        module, kind = re.fullmatch(r"base_model\.model\.(.+)(\.lora_.+)", name).groups()
        renamed[f"base_model.model.{names[module]}{kind}"] = tensor
    save_file(renamed, folder / "adapter_model.safetensors")
    return folder
