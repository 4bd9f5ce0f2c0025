"""No recipe, configuration or adapter, whatever stands in it, ends in a traceback, or in minutes or gigabytes."""

import json
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import typer
from hypothesis import HealthCheck, given, settings
from mutants import as_json, as_yaml, written
from safetensors.torch import save_file

from visprobe.cli.app import app
from visprobe.cli.config_file import read_config
from visprobe.demo.base import BASE
from visprobe.encoders import load_encoder
from visprobe.encoders.text.words import load_tokenizer
from visprobe.errors import CheckpointError, UsageError, VisprobeError
from visprobe.mllm.load import processor_for_training
from visprobe.pipelines.study_file import read_study
from visprobe.training.job import make_job
from visprobe.training.rows.mixture import mixture

RECIPE = {
    "stage": "dpo", "base": "b", "data": "d.json", "images": "i", "rows": 5, "steps": 4, "epochs": 1.0,
    "part_learning_rates": {"vision_tower": 2e-6, "projector": 1e-3}, "train": ["vision_tower", "projector"],
    "lora": {"parts": ["language_model"], "rank": 4}, "losses": {"sigmoid": 0.8, "sft": 1.0}, "reward": ["exact"],
    "gradient_checkpointing": True, "report_to": [], "seed": 0, "schedule": "cosine", "warmup": 0.03,
}  # fmt: skip
MIXTURE = {"datasets": [{"json_path": "a.json", "sampling_strategy": "random:10%"}, {"json_path": "b.json"}]}
STUDY = {
    "base": "b", "data": "digits", "seeds": [0, 1], "common": {"steps": 2}, "compare": {"limit": 8},
    "arms": {"sft": {"stage": "sft"}, "dpo": {"stage": "dpo", "beta": 0.1}},
}  # fmt: skip
OPTIONS = {
    "checkpoints": ["a", "b"], "data": "digits", "limit": 5, "seed": 3, "quiet": False, "max_bad": "1%",
    "output-dir": "x", "analyses": ["drift", "weights"],
}  # fmt: skip
MODULE = "base_model.model.model.vision_tower.encoder.layers.0.self_attn.q_proj"
ADAPTER = {
    "peft_type": "LORA", "base_model_name_or_path": str(BASE), "r": 2, "lora_alpha": 4, "init_lora_weights": True,
    "rank_pattern": {"k_proj": 3}, "alpha_pattern": {}, "target_modules": ["q_proj"], "use_dora": False,
    "revision": None,
}  # fmt: skip
PREPROCESSOR = json.loads((BASE / "processor_config.json").read_text())["image_processor"]


@contextmanager
def little_memory():
    """Whatever fills gigabytes inside ends in a MemoryError, not with the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (2 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _took_too_long(number, frame):
    raise AssertionError("it takes more than ten seconds")


def refused_or_read(read):
    """Whether `read()` ends, well or with an error of visprobe's own."""
    before = signal.signal(signal.SIGALRM, _took_too_long)
    signal.alarm(10)
    try:
        with little_memory():
            read()
    except VisprobeError as error:
        assert error.hint and error.exit_code in (1, 2)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzzed(examples, data, read):
    """Run `read` on `examples` drawn from the strategy `data`."""
    run = given(data)(lambda data: refused_or_read(lambda: read(data)))
    settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)(
        run
    )()


COMPARE = typer.main.get_command(app).commands["compare"]


def compare_options(file):
    read_config(typer.Context(COMPARE, info_name="compare"), file)


YAML = {
    "recipe": (RECIPE, lambda file: make_job("dpo", file, {}, [], 1e-5)),
    "mixture": (MIXTURE, lambda file: mixture(str(file))),
    "study": (STUDY, lambda file: read_study(file, file.parent / "out")),
    "--config": (OPTIONS, compare_options),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", YAML)
def test_yaml_of_any_kind(tmp_path, name):
    document, read = YAML[name]
    file = tmp_path / "x.yaml"

    def written_and_read(data):
        file.write_bytes(data)
        read(file)

    fuzzed(150, written(document, as_yaml), written_and_read)


def aliases(levels):
    """YAML whose last line stands for 10**levels values."""
    return "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, levels + 1)
    )


def merges(levels):
    return "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, levels + 1)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2024-01-01: 3", "unknown key 2024-01-01"),
        ("1: 2", "unknown key 1"),
        ("~: 2", "unknown key ~"),
        ("lora: {1: 2}", "lora.1"),
        ("losses: {2024-01-01: 1.0}", "losses has no meaning for stage sft"),
        ("? [a]\n: 1", "line 1: a list or mapping stands where a key should"),
        ("steps: 1\nsteps: 2", "line 2: steps is given twice"),
        ("steps: 2024-13-45", "month must be"),
        ("steps: !!timestamp x", "a tag that does not fit"),
        ("steps: " + "9" * 5000, "a date or number that is none"),
        ('data: "\\0"', "a character that no text has"),
        ('data: "\\ud800"', "a character that no text has"),
        ("steps: &a [*a]", "inside itself"),
        (aliases(9), "more than 100,000 values"),
        (merges(9), "more than 100,000 values"),
        ("steps: " + "[" * 5000, "more than 50 lists and mappings"),
        ("{a: " * 5000, "more than 50 lists and mappings"),
        ("- " * 5000, "more than 50 lists and mappings"),
        ("part_learning_rates: [1]", "part_learning_rates: input should be a valid dictionary"),
        ("part_learning_rates:", "part_learning_rates: input should be a valid dictionary"),
        ("weight_decay: .nan", "weight_decay: input should be a finite number"),
        ("epochs: .inf", "epochs: input should be a finite number"),
        ("seed: 4294967296", "seed: input should be less than 4294967296"),
        ("steps: 1000000000000000", "no run sees so many rows"),
        ("rows: 1000000000000000", "rows: "),
        ("stage: [a, b]", "is a recipe of stage"),
    ],
)
def test_recipes_that_were_a_traceback_or_worse(tmp_path, text, message):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        make_job("sft", file, {"base": "b"}, [], vision_learning_rate=1e-5)
    assert message in caught.value.message and len(caught.value.message) < 600


def test_a_loss_that_is_a_date_is_no_such_loss(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("losses: {2024-01-01: 1.0}")
    with pytest.raises(UsageError, match="no such loss: 2024-01-01"):
        make_job("dpo", file, {"base": "b"}, [])


@pytest.mark.thorough
@pytest.mark.parametrize("value", ["[" * 5000, "2024-13-45", "!!int x", "{a: &a [*a]}"])
def test_settings_of_the_command_line_are_yaml_too(value):
    with pytest.raises(UsageError, match="the value is not YAML"):
        make_job("sft", None, {"base": "b"}, [f"steps={value}"])


def test_an_option_that_is_a_path_no_file_can_have(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(f"output-dir: {'x' * 5000}")
    refused_or_read(lambda: compare_options(file))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The base of the demo, with an image processor of its own for each file that may describe one."""
    folder = tmp_path_factory.mktemp("mutated") / "model"
    shutil.copytree(BASE, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated") / "adapter"
    folder.mkdir()
    width = json.loads((BASE / "config.json").read_text())["vision_config"]["hidden_size"]
    weights = {f"{MODULE}.lora_A.weight": torch.ones(2, width), f"{MODULE}.lora_B.weight": torch.ones(width, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    load_encoder(folder)
    return folder


def tokenizers(folder):
    load_tokenizer(folder)
    processor_for_training(folder)


JSON = {
    "config.json": load_encoder,
    "preprocessor_config.json": load_encoder,
    "processor_config.json": processor_for_training,
    "tokenizer_config.json": tokenizers,
}


@contextmanager
def changed(folder, name):
    """A function that writes other bytes into file `name` of `folder`, which is as before afterwards."""
    before = (folder / name).read_bytes()
    try:
        yield (folder / name).write_bytes
    finally:
        (folder / name).write_bytes(before)


@pytest.mark.thorough
@pytest.mark.parametrize("name", JSON)
def test_files_of_a_model(model, name):
    with changed(model, name) as write:
        document = json.loads((model / name).read_text())
        fuzzed(100, written(document, as_json), lambda data: (write(data), JSON[name](model)))


@pytest.mark.thorough
def test_configurations_of_adapters(adapter):
    with changed(adapter, "adapter_config.json") as write:
        fuzzed(100, written(ADAPTER, as_json), lambda data: (write(data), load_encoder(adapter)))


@pytest.mark.parametrize("named", ["x" * 5000, "a/" + "x" * 5000, "\0", "\ud800", "~\0", "[" * 3000])
def test_an_adapter_whose_base_can_have_no_such_name(adapter, named):
    with changed(adapter, "adapter_config.json") as write:
        write(json.dumps(ADAPTER | {"base_model_name_or_path": named}).encode())
        with pytest.raises(CheckpointError, match=r"is an adapter of the base model .* cannot be opened"):
            load_encoder(adapter)


@pytest.mark.parametrize(
    ("file", "path", "value", "message"),
    [
        ("config.json", ["vision_config", "num_hidden_layers"], 10**6, "a tower of 1,000,000 blocks"),
        ("config.json", ["vision_config", "intermediate_size"], 10**6, "describes a tower of .* weights"),
        ("config.json", ["vision_config", "image_size"], 60_000, "describes a tower of .* weights"),
        ("config.json", ["num_labels"], 10**9, "num_labels 1,000,000,000"),
        ("config.json", ["text_config", "num_labels"], 10**9, "num_labels 1,000,000,000"),
        ("preprocessor_config.json", ["size"], {"height": 60_000, "width": 60_000}, "60000 pixels a side"),
    ],
)
def test_sizes_that_would_fill_the_memory(model, file, path, value, message):
    document = json.loads((model / file).read_text())
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with changed(model, file) as write:
        write(json.dumps(document).encode())
        with little_memory(), pytest.raises(CheckpointError, match=message):
            load_encoder(model)


def test_training_refuses_them_too(model):
    document = json.loads((model / "config.json").read_text())
    with changed(model, "config.json") as write:
        write(json.dumps(document | {"num_labels": 10**9}).encode())
        with little_memory(), pytest.raises(CheckpointError, match="num_labels"):
            processor_for_training(model)
