"""Towers below any prefix, two towers in one checkpoint, MLX's convolutions, and configurations without a tower."""

import json

import pytest
import test_bare
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_checkpoints import SIDE, VISION, filled, llava, write_llava
from tiny_original import shrink, tower, write_tower
from zoo import ZOO

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.exchange.export import extract_encoder
from visprobe.encoders.listing.scan import scan
from visprobe.errors import CheckpointError


def original_timm(folder, monkeypatch):
    shrink(monkeypatch)
    _, named, saved = tower("timm", folder.parent)
    return write_tower(folder, saved, named)


def bare(case):
    def write(folder, monkeypatch):
        test_bare.saved(folder, case)
        return folder

    return write


def of_zoo(name):
    return lambda folder, monkeypatch: ZOO[name][0](folder) or folder


def mlcd(folder, monkeypatch):
    with quiet():
        filled(transformers.MLCDVisionModel(transformers.MLCDVisionConfig(**VISION))).save_pretrained(folder)
    return folder


def inner_qwen(folder, monkeypatch):
    """The tower of a Qwen2.5-VL by itself."""
    whole = ZOO["qwen2_5_vl"][0](folder)
    tensors = load_file(whole / "model.safetensors")
    tensors = {name.partition("visual.")[2]: tensor for name, tensor in tensors.items() if "visual." in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_5_vl_vision"}))
    return folder


# What is written, and what the tower is usually named there.
KINDS = {
    "original siglip": (of_zoo("original"), "model.vision_tower.vision_tower."),
    "original timm": (original_timm, "model.vision_tower.vision_tower."),
    "internvl_chat": (of_zoo("internvl-original"), "vision_model."),
    "internvl": (of_zoo("internvl"), "vision_tower."),
    "siglip": (bare("SiglipVisionModel"), ""),
    "siglip pair": (bare("SiglipModel"), "vision_model."),
    "clip": (bare("CLIPVisionModel"), ""),
    "clip projection": (bare("CLIPVisionModelWithProjection"), "vision_model."),
    "clip pair": (bare("CLIPModel"), "vision_model."),
    "dinov2": (bare("Dinov2Model"), ""),
    "vit": (bare("ViTForImageClassification"), "vit."),
    "mlcd": (mlcd, ""),
    "qwen": (inner_qwen, ""),
}


@pytest.fixture(params=KINDS)
def written(request, tmp_path, monkeypatch):
    write, place = KINDS[request.param]
    return write(tmp_path / "plain", monkeypatch), place


def rewritten(folder, change):
    """The checkpoint `folder`, its tensors replaced by what `change` makes of them."""
    file = folder / "model.safetensors"
    tensors = {name: tensor.contiguous().clone() for name, tensor in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def below(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def hashes(encoder):
    return encoder.tower_hash, encoder.projector_hash, encoder.projection_hash, encoder.settings_hash


def said(encoder):
    return " | ".join(encoder.provenance.warnings)


@pytest.mark.parametrize("prefix", ["thinker.", "language_model.visual.", "student.model.model."])
def test_a_tower_below_any_prefix_is_the_same_tower(written, prefix):
    folder, _ = written
    plain = load_encoder(folder)
    assert "is named" not in said(plain)
    encoder = load_encoder(rewritten(folder, below(prefix)))
    assert hashes(encoder) == hashes(plain)
    assert f"the tower is named {prefix}" in said(encoder)
    assert [row.problem for row in scan([folder]) if row.path == str(folder)] == [None]


@pytest.mark.parametrize("prefix", ["module.", "base_model.model.", "model.base_model.model."])
def test_wrappers_are_no_prefix(written, prefix):
    folder, _ = written
    plain = load_encoder(folder)
    encoder = load_encoder(rewritten(folder, below(prefix)))
    assert hashes(encoder) == hashes(plain)
    assert "is named" not in said(encoder)


@pytest.mark.parametrize("bit", [0, 1], ids=["equal", "other"])
def test_of_two_towers_the_usual_one_is_read_and_the_other_compared(written, bit):
    folder, place = written
    plain = load_encoder(folder)

    def doubled(tensors):
        second = {f"student.{n}": t.clone() for n, t in tensors.items() if n.startswith(place) and "text" not in n}
        bias = next(n for n in sorted(second) if n.endswith("bias") and "0" in n)
        second[bias].view(torch.int32)[1] ^= bit
        return tensors | second

    encoder = load_encoder(rewritten(folder, doubled))
    assert hashes(encoder) == hashes(plain)
    assert f"2 vision towers, {place}" in said(encoder)
    assert f", student.{place}" in said(encoder)
    same, differs = (
        "holds the same weights" in said(encoder),
        "differs from the tower that is read in 1 of" in said(encoder),
    )
    assert (same, differs) == (not bit, bool(bit))


@pytest.mark.parametrize("differs", [False, True])
def test_two_towers_of_a_model_of_transformers_are_compared_too(tmp_path, differs):
    folder = write_llava(tmp_path, llava("siglip"), "C")
    plain = load_encoder(folder)
    second = {
        f"old.{n}": t + differs for n, t in load_file(folder / "model.safetensors").items() if "vision_tower" in n
    }
    encoder = load_encoder(rewritten(folder, lambda tensors: tensors | second))
    assert hashes(encoder) == hashes(plain)
    assert ("holds the same weights" in said(encoder)) != differs


def test_where_the_tensors_do_not_fit_the_message_says_where_they_were_found(written):
    folder, _ = written
    lost = [name for name in load_file(folder / "model.safetensors") if ".1." in name and "norm" in name]
    lost = [name for name in lost if "language" not in name and "text" not in name][:1]
    rewritten(folder, lambda tensors: below("student.")({n: t for n, t in tensors.items() if n not in lost}))
    with pytest.raises(CheckpointError, match=r"missing: .*; the tower is named student\."):
        load_encoder(folder)


@pytest.mark.parametrize("prefix", ["", "vision_tower."])
@pytest.mark.parametrize("kind", ["siglip", "clip pair", "dinov2", "internvl_chat", "original siglip", "qwen"])
def test_convolutions_with_channels_last_are_mlx(tmp_path, monkeypatch, kind, prefix):
    folder = KINDS[kind][0](tmp_path / "plain", monkeypatch)
    rewritten(folder, lambda tensors: {prefix + n: t.movedim(1, -1) if t.dim() > 3 else t for n, t in tensors.items()})
    with pytest.raises(CheckpointError, match=r"this is an MLX conversion: the convolution .* channels last") as caught:
        load_encoder(folder)
    assert "permute(0, " in caught.value.hint
    assert ["MLX" in row.problem for row in scan([folder]) if row.path == str(folder)] == [True]


@pytest.mark.parametrize(("value", "message"), [("gone", ""), (None, ""), ("ViT-L", ", only the name 'ViT-L'")])
@pytest.mark.parametrize("kind", ["internvl_chat", "clip pair", "siglip pair", "internvl"])
def test_a_configuration_that_does_not_describe_the_tower(tmp_path, monkeypatch, kind, value, message):
    folder = KINDS[kind][0](tmp_path / "plain", monkeypatch)
    config = json.loads((folder / "config.json").read_text())
    config = {**config, "vision_config": value}
    if value == "gone":
        del config["vision_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"has no vision_config{message}: nothing says") as caught:
        load_encoder(folder)
    assert "Copy vision_config, whole" in caught.value.hint


def test_old_configurations_of_clip_describe_the_tower_under_another_name(tmp_path, monkeypatch):
    folder = KINDS["clip pair"][0](tmp_path / "plain", monkeypatch)
    plain = load_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config_dict"] = config.pop("vision_config")
    (folder / "config.json").write_text(json.dumps(config))
    assert hashes(load_encoder(folder)) == hashes(plain)


def test_a_frozen_tower_below_a_prefix_is_taken_from_its_own_checkpoint(tmp_path, monkeypatch):
    folder = KINDS["original siglip"][0](tmp_path / "plain", monkeypatch)
    rewritten(folder, lambda tensors: {n: t for n, t in tensors.items() if "vision_tower" not in n})
    plain = load_encoder(folder)
    rewritten(folder / "named-siglip", below("student."))
    rewritten(folder, below("thinker."))
    assert hashes(load_encoder(folder)) == hashes(plain)


def test_a_text_tower_is_no_second_tower(tmp_path, monkeypatch):
    for kind in ("clip pair", "siglip pair"):
        assert "towers" not in said(load_encoder(KINDS[kind][0](tmp_path / kind, monkeypatch)))


def test_a_tower_inside_a_whole_model_is_read_by_its_own_configuration(tmp_path):
    folder = write_llava(tmp_path / "whole", llava("siglip"), "C")
    whole = load_encoder(folder)
    config = json.loads((folder / "config.json").read_text())["vision_config"]
    (folder / "config.json").write_text(json.dumps(config))
    alone = load_encoder(folder)
    assert alone.tower_hash == whole.tower_hash
    assert alone.grid == (4, 4) and SIDE == 32
    assert "the tower is named vision_tower.* here" in said(alone)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", ["original siglip", "internvl_chat", "clip pair"])
def test_a_tower_below_a_prefix_can_be_extracted(tmp_path, monkeypatch, kind):
    folder = KINDS[kind][0](tmp_path / "plain", monkeypatch)
    plain = load_encoder(folder)
    extract_encoder(str(rewritten(folder, below("student."))), tmp_path / "out")
    assert load_encoder(tmp_path / "out").tower_hash == plain.tower_hash
