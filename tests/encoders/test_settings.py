"""What tokens depend on beside weights is in the hash of the settings, in every family, whatever its author forgot."""

import copy
import json

import pytest
import torch
import transformers
from tiny_checkpoints import TEXT, VISION, images, llava, write_llava, write_original
from tiny_native import pixtral
from torch import nn
from zoo import ZOO

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.opened import open_checkpoint
from visprobe.encoders.processor import Resolution
from visprobe.encoders.settings import fields_read, first_difference
from visprobe.encoders.structure.connector import Connector, configured, of_class

# one of each configuration; the other layouts of LLaVA differ in names of tensors alone
FAMILIES = [name for name in ZOO if name not in {"llava-A", "llava-B", "llava-D", "llava-bin"}]
# Changed, they leave every weight and every token as it was, and would make a trained copy look like another model.
NOISE = {"use_cache": False, "transformers_version": "4.37.2", "dtype": "bfloat16", "architectures": ["Other"]}


def scalars(config, place=()):
    """Places of all numbers, truths and words in the configuration."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from scalars(value, (*place, name))
        elif isinstance(value, bool | int | float | str) and name not in {"model_type", "mm_vision_tower"}:
            yield (*place, name)


def other(name, value):
    """Another value of the same kind, one that a model could have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return "relu" if value != "relu" and ("act" in name or value.startswith("gelu")) else f"{value}x"
    return value + 1 if isinstance(value, int) else value * 2 + 0.25


def changed(config, places):
    config = json.loads(json.dumps(config))
    for *outer, name in places:
        part = config
        for one in outer:
            part = part[one]
        part[name] = other(name, part[name])
    return config


class Subject:
    """A checkpoint whose configuration is rewritten again and again."""

    def __init__(self, folder, name):
        self.folder = ZOO[name][0](folder / name) or folder / name
        self.file = self.folder / "config.json"
        raw = json.loads(self.file.read_text())
        original = "mm_vision_tower" in raw or raw["model_type"] == "internvl_chat"
        self.config = raw if original else json.loads(json.dumps(open_checkpoint(self.folder).config.to_dict()))
        self.resolution = Resolution(pixels=112 * 160 if name == "gemma4" else 64 * 64)  # small, to be quick
        self.base = self.read(self.config)

    def read(self, config):
        """Tokens, hash of the settings, and the settings; None if that makes no encoder."""
        self.file.write_text(json.dumps(config))
        try:
            encoder = load_encoder(self.folder, resolution=self.resolution)
            pixels = encoder.preprocess(images(1))
            site = "projected" if encoder.has_projector else "consumed"
            tokens = encoder.forward(pixels, [site])[site]
        except Exception:  # of many types, where nothing can be made of the value
            return None
        return tokens, (encoder.settings_hash, encoder.processor_hash), encoder.settings

    def holds(self, place):
        """Whether the field is among the settings, so that another value of it is another hash."""
        tower, own = self.base[2], ".".join(place)
        return f"projector.{own}" in tower or (place[0] == "vision_config" and place[1] in tower)

    def silent(self, places):
        """Those of `places` that change tokens and no hash; fields that change nothing are tried together."""
        found = self.read(changed(self.config, places))
        tokens, hashed, _ = self.base
        if found and hashed == found[1] and torch.equal(tokens, found[0]):
            return []
        if len(places) == 1:
            return places if found and hashed == found[1] else []
        half = len(places) // 2
        return self.silent(places[:half]) + self.silent(places[half:])


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAMILIES)
def test_no_field_changes_tokens_behind_the_back_of_the_hash(tmp_path, name):
    subject = Subject(tmp_path, name)
    assert subject.base is not None
    assert subject.silent([place for place in scalars(subject.config) if not subject.holds(place)]) == []


@pytest.mark.thorough
def test_the_contract_finds_what_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(Connector, "depends_on", lambda self, width, grid: {})
    subject = Subject(tmp_path, "mistral3")
    places = [("text_config", "rms_norm_eps"), ("text_config", "vocab_size"), ("projector_hidden_act",), ("dtype",)]
    assert subject.silent(places) == [("text_config", "rms_norm_eps"), ("projector_hidden_act",)]


@pytest.mark.sample(1)
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_has_nothing_to_do_with_the_encoder_changes_no_hash(tmp_path, name):
    subject = Subject(tmp_path, name)
    config = {**subject.config, **NOISE}
    if isinstance(config.get("vision_config"), dict):
        config["vision_config"] = {
            **config["vision_config"],
            "use_cache": False,
            "temperature": 0.7,
            "dtype": "float16",
        }
    for part in {"text_config", "llm_config"} & config.keys():
        config[part] = {**config[part], "vocab_size": 60, "use_cache": False, "rope_theta": 5e5}
    tokens, hashes, settings = subject.read(config)
    assert settings == subject.base[2]
    assert hashes == subject.base[1]
    assert torch.equal(tokens, subject.base[0])


def config_of(**fields):
    return transformers.LlavaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model"}, text_config=TEXT, **fields
    )


READS = {
    "attribute": (lambda c: c.projector_hidden_act, {"projector_hidden_act"}),
    "nested": (lambda c: c.text_config.hidden_size, {"text_config.hidden_size"}),
    "getattr": (lambda c: getattr(c, "image_seq_length", 3), {"image_seq_length"}),
    "absent": (lambda c: getattr(c, "no_such_field", 3), set()),
    "alias": (lambda c: c.vision_config.num_attention_heads, {"vision_config.num_attention_heads"}),
    "copy": (lambda c: copy.deepcopy(c).text_config.rms_norm_eps, {"text_config.rms_norm_eps"}),
    "written": (lambda c: setattr(c, "image_seq_length", 3), set()),
    "property": (lambda c: c.get_text_config().hidden_size, {"text_config.hidden_size"}),
}


@pytest.mark.parametrize("way", READS)
def test_every_way_of_reading_a_field_is_seen(way):
    use, names = READS[way]
    config = config_of()
    before = config.to_dict()
    assert fields_read(config, use).keys() == names
    assert config.to_dict() == before


@pytest.mark.parametrize("use", [lambda c: c.to_dict(), list, lambda c: 1 / 0], ids=["to_dict", "iteration", "failure"])
def test_who_reads_everything_or_fails_depends_on_everything(use):
    read = fields_read(config_of(), use)
    assert {"projector_hidden_act", "text_config.vocab_size", "vision_config.image_size"} <= read.keys()


class Forgetful(nn.Module):
    """Reads one field when it is made, one when it runs, and one in the function that calls it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(32, eps=config.text_config.rms_norm_eps)

    def forward(self, tokens):
        return self.norm(tokens) * self.config.gain


def test_the_author_of_a_connector_cannot_forget_a_field():
    def connect(config):
        def project(module, tokens, grid):
            return module(tokens[0]) + config.offset

        return of_class(Forgetful, width=lambda config: 32, project=project)(config, {}, ("block_03",))

    settings = configured(connect, config_of(gain=2.0, offset=1.0)).depends_on(32, (4, 4))
    assert settings == {"text_config.rms_norm_eps": 1e-6, "gain": 2.0, "offset": 1.0}


def test_the_first_difference_names_the_field_as_config_json_does(tmp_path):
    encoders = []
    for name, epsilon in (("base", 1e-3), ("other", 1e-6)):
        pixtral(text_epsilon=epsilon).save_pretrained(tmp_path / name)
        encoders.append(load_encoder(tmp_path / name))
    said = first_difference(encoders[0].settings, encoders[1].settings)
    assert said == "projector.text_config.rms_norm_eps is 1e-06 against 0.001"


def test_a_model_is_used_in_the_same_way_whichever_code_saved_it(tmp_path):
    model = llava("siglip", vision_feature_layer=-2)
    tower = transformers.SiglipVisionModel(model.config.vision_config)
    tower.save_pretrained(tmp_path / "siglip")
    original = load_encoder(write_original(tmp_path / "L", model, f"hf:{tmp_path / 'siglip'}"))
    assert original.settings == load_encoder(write_llava(tmp_path / "C", model)).settings
