"""An adapter's encoder equals that of the model which PEFT merges, to the bit."""

import json
import random
import shutil
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_checkpoints import images, llava, spelled, write, write_llava, write_original

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.opened import open_checkpoint
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.errors import CheckpointError

TOWER = r".*vision_tower.*\.{}"
SETTINGS = {
    "plain": {"target_modules": ["q_proj", "fc1", "linear_1"], "lora_alpha": 7},
    "everything": {"target_modules": "all-linear", "use_rslora": True, "bias": "all"},
    "own biases": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "convolution": {"target_modules": ["patch_embedding", "position_embedding", "out_proj"]},
    "dora": {"target_modules": ["patch_embedding", "q_proj", "linear_2"], "use_dora": True},
    "modules": {
        "target_modules": ["q_proj"], "modules_to_save": ["multi_modal_projector", "post_layernorm"], "bias": "all",
    },
    "lora bias": {"target_modules": TOWER.format("(q_proj|patch_embedding|fc2)"), "lora_bias": True},
    "patterns": {
        "target_modules": ["q_proj", "k_proj"], "rank_pattern": {"layers.0.self_attn.q_proj": 2, "k_proj": 3},
        "alpha_pattern": {"vision_tower.encoder.layers.1.self_attn.q_proj": 5}, "fan_in_fan_out": True,
    },
}  # fmt: skip
CASES = [(name, torch.float32) for name in SETTINGS]
CASES += [(name, dtype) for dtype in (torch.bfloat16, torch.float16) for name in ("convolution", "dora", "modules")]


def base_model(folder, dtype=torch.float32, layout="A"):
    model = llava("siglip").to(dtype)
    model.config.dtype = dtype
    return write_llava(folder, model, layout)


def whole(folder):
    with quiet():
        return transformers.LlavaForConditionalGeneration.from_pretrained(folder)


def write_adapter(folder, base, name=None, **settings):
    """An adapter whose every trained weight is off its initial value."""
    settings = SETTINGS[settings.pop("settings")] if "settings" in settings else settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out is set aside for linear layers
        model = peft.get_peft_model(whole(base), peft.LoraConfig(**{"r": 4, **settings}))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.peft_config["default"].base_model_name_or_path = str(base if name is None else name)
        model.save_pretrained(folder)
    return folder


def merged_weights(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        model = peft.PeftModel.from_pretrained(whole(base), folder).merge_and_unload()
    projector = {f"projector.{k}": v for k, v in model.model.multi_modal_projector.state_dict().items()}
    return {**model.model.vision_tower.state_dict(), **projector}


def same(weights, expected):
    return weights.keys() == expected.keys() and all(torch.equal(weights[k], expected[k]) for k in expected)


@pytest.mark.thorough
@pytest.mark.parametrize(("settings", "dtype"), CASES)
def test_merging_is_that_of_peft(tmp_path, settings, dtype):
    base = base_model(tmp_path / "base", dtype)
    folder = write_adapter(tmp_path / "adapter", base, settings=settings)
    expected = merged_weights(base, folder)
    weights = load_encoder(folder).weights()
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert same(weights, expected)
    assert not same(load_encoder(base).weights(), expected)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    root = tmp_path_factory.mktemp("pair")
    base = base_model(root / "base")
    return base, write_adapter(root / "adapter", base, settings="modules"), load_encoder(root / "adapter").weights()


@pytest.mark.parametrize("layout", "BCD")
def test_base_and_adapter_may_spell_names_differently(tmp_path, pair, layout):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    set_base(folder, base_model(tmp_path / "base", layout=layout))
    assert same(load_encoder(folder).weights(), pair[2])


def set_base(folder, value, **more):
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": value and str(value), **more})
    )
    return folder


def renamed(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        lambda n: n.replace("base_model.model.model.vision_tower.", "base_model.model.vision_tower.vision_model."),
        lambda n: n.replace(".multi_modal_projector.", ".multi_modal_projector.modules_to_save.default."),
    ],
)
def test_old_spellings_of_adapters(tmp_path, pair, change):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    renamed(folder, change)
    assert same(load_encoder(folder).weights(), pair[2])


def test_the_bin_file_of_older_versions(tmp_path, pair):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert same(load_encoder(folder).weights(), pair[2])


def test_where_the_base_model_may_lie(tmp_path, pair, monkeypatch):
    base = shutil.copytree(pair[0], tmp_path / "base")
    (tmp_path / "elsewhere" / "here").mkdir(parents=True)  # a model of that name beside the current folder is not meant
    write_llava(tmp_path / "elsewhere" / "base", llava("clip"))
    monkeypatch.chdir(tmp_path / "elsewhere" / "here")
    relative = set_base(shutil.copytree(pair[1], tmp_path / "relative"), "../base")
    inside = set_base(shutil.copytree(pair[1], base / "inside"), None)
    beside = set_base(shutil.copytree(pair[1], shutil.copytree(base, tmp_path / "beside"), dirs_exist_ok=True), "")
    for folder in (relative, inside, beside):
        assert same(load_encoder(folder).weights(), pair[2])


@pytest.mark.parametrize("named", ["/gone/model", ".", ""])
def test_a_base_model_that_cannot_be_found(tmp_path, pair, named):
    folder = set_base(shutil.copytree(pair[1], tmp_path / "adapter"), named)
    with pytest.raises(CheckpointError, match=f"adapter of the base model '{named}', which cannot be opened") as caught:
        load_encoder(folder)
    assert "base_model_name_or_path" in caught.value.hint


def test_an_adapter_of_an_adapter(tmp_path, pair):
    second = write_adapter(tmp_path / "second", pair[0], pair[1], settings="plain")
    twice = load_encoder(second).weights()
    merged = llava("siglip")
    merged.model.vision_tower.load_state_dict({k: v for k, v in pair[2].items() if "projector." not in k}, strict=False)
    projector = {k.removeprefix("projector."): v for k, v in pair[2].items() if "projector." in k}
    merged.model.multi_modal_projector.load_state_dict(projector)
    between = write_llava(tmp_path / "between", merged)
    assert same(twice, merged_weights(between, second))


def test_only_bytes_of_tower_and_connector_are_read(tmp_path):
    base = base_model(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", base, settings="everything")
    checkpoint = open_checkpoint(folder)
    before = checkpoint.tensors.bytes_read
    headers = [path / name for path, name in ((base, "model.safetensors"), (folder, "adapter_model.safetensors"))]
    assert before == sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in headers)
    name = "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"
    checkpoint.tensors.read(name)
    assert checkpoint.tensors.bytes_read - before == 4 * (32 * 48 + 4 * 32 + 4 * 48)  # the weight, A and B


def test_an_adapter_of_the_language_model_alone(tmp_path):
    base = base_model(tmp_path / "base")
    folder = write_adapter(tmp_path / "adapter", base, target_modules=r".*language_model.*q_proj")
    encoder = load_encoder(folder)
    assert encoder.tower_hash == load_encoder(base).tower_hash
    assert "the adapter changes neither tower nor projector" in encoder.provenance.warnings


def test_a_module_that_the_base_model_does_not_have(tmp_path, pair):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    renamed(folder, lambda name: name.replace("layers.0.self_attn", "layers.7.self_attn"))
    with pytest.raises(CheckpointError, match=r"changes model\.vision_tower.*layers\.7.*, which .*base does not have"):
        load_encoder(folder)


def test_matrices_that_do_not_fit(tmp_path, pair):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(name for name in tensors if "vision_tower" in name and name.endswith("lora_A.weight"))
    save_file({**tensors, key: torch.ones(4, 31)}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the weight of shape"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LOHA"}, "adapter of type LOHA"),
        ({"peft_type": "IA3"}, "adapter of type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa"),
        ({"use_qalora": True}, "use_qalora"),
        ({"r": 3}, "the rank 3, its matrices have the rank 4"),
        ({"r": "four"}, "is damaged: a rank of 'four'"),
        ({"alpha_pattern": {"(": 2}}, "is damaged"),
        ({"rank_pattern": {"(a+)+$": 2}}, "could take hours"),
        ({"rank_pattern": {"(.|m)*.*x": 2}}, "could take hours"),
        ({"alpha_pattern": {".*.*.*.*x": 2}}, "could take hours"),
        ({"alpha_pattern": {"q" * 2000: 2}}, "could take hours"),
    ],
)
def test_settings_that_are_refused(tmp_path, pair, fields, message):
    folder = set_base(shutil.copytree(pair[1], tmp_path / "adapter"), pair[0], **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(folder)
    assert len(caught.value.hint) > 10


def test_a_model_saved_with_its_adapter_unmerged(tmp_path, pair):
    base, folder, expected = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        tensors = peft.PeftModel.from_pretrained(whole(base), folder).state_dict()
    dump = write(tmp_path / "dump", {f"module.{k}": v for k, v in tensors.items()}, whole(base).config)
    with pytest.raises(CheckpointError, match="holds adapters that are not merged"):
        load_encoder(dump)
    shutil.copy(folder / "adapter_config.json", dump)
    encoder = load_encoder(dump)
    assert same(encoder.weights(), expected)
    assert encoder.provenance.bytes_read < (dump / "model.safetensors").stat().st_size


def test_what_llava_trains_beside_its_adapter(tmp_path):
    tower = tmp_path / "siglip-tiny"
    tower.mkdir()
    model, trained = llava("siglip", vision_feature_layer=-2), llava("siglip", seed=1, vision_feature_layer=-2)
    (tower / "config.json").write_text(model.config.vision_config.to_json_string())
    base = write_original(tmp_path / "base", model, tower)
    beside = {f"base_model.model.{k}": t for k, t in spelled(trained, "L").items() if "mm_projector" in k}
    folder = write_adapter(tmp_path / "lora", base_model(tmp_path / "hf"), base, target_modules=["down_proj"])
    renamed(folder, lambda name: name.replace("model.language_model.", "model."))
    torch.save(beside, folder / "non_lora_trainables.bin")
    shutil.copy(base / "config.json", folder)
    encoder = load_encoder(folder)
    wanted = load_encoder(write_original(tmp_path / "whole", trained, tower)).weights()
    projector = {name: tensor for name, tensor in encoder.weights().items() if name.startswith("projector.")}
    assert same(projector, {name: wanted[name] for name in projector})
    assert encoder.tower_hash == load_encoder(base).tower_hash
    assert encoder(images())["projected"].isfinite().all()


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_adapters_are_one_message(tmp_path, pair, file):
    folder = shutil.copytree(pair[1], tmp_path / "adapter")
    data, draw, refused = (folder / file).read_bytes(), random.Random(0), 0
    for _ in range(50):
        broken = bytearray(data if draw.random() < 0.7 else data[: draw.randrange(len(data))])
        for _ in range(draw.randrange(1, 6)):
            broken[draw.randrange(min(len(broken), 3000))] = draw.randrange(256) if broken else 0
        (folder / file).write_bytes(broken)
        try:
            load_encoder(folder)
        except CheckpointError as error:
            refused += 1
            assert error.hint
            assert "\n" not in error.message
    assert refused > 25  # some changes are of values, or of weights, and make another adapter
