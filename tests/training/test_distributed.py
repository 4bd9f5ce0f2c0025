"""Two processes train what one does, write once, resume, and leave together; and the shipped launch files load."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from forked import HANGS
from safetensors.torch import load_file
from transformers import GradientCheckpointingLayer

from visprobe.demo.rows import DigitRows
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.errors import TrainingError
from visprobe.mllm.parts import blocks_to_shard
from visprobe.training.callbacks import Snapshots, Watch, read_metrics
from visprobe.training.job import Sources, open_job_rows, start
from visprobe.training.launch import ONE_STARTED, is_first_process, launch_note, process_count
from visprobe.training.recipe import Recipe
from visprobe.training.run import run

ROWS = 24
SETTINGS = {"steps": 3, "learning_rate": 1e-3, "precision": "float32"}
BIN = Path(sys.executable).parent
DIES_IN_STEP = """
import json, os, signal, sys
from pathlib import Path
from visprobe.demo.rows import DigitRows
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
def progress(stage, done, total):
    if stage.startswith("train") and done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
run(Path(sys.argv[1]), Recipe(**json.loads(sys.argv[3])), DigitRows(24), Path(sys.argv[2]), progress=progress,
    overwrite=True)
"""
COMMAND = """
import os, sys
said = os.open(sys.argv[1], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
os.dup2(said, 2)
sys.argv = ["visprobe", *sys.argv[2:]]
from visprobe.cli.app import main
main()
"""
SNAPSHOT_OF_SHARDS = """
import os
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from torch.distributed import barrier
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from visprobe.training.callbacks import save_vision
from visprobe.training.callbacks import check_gradients
from visprobe.demo.small_llava import build_model, build_processor
PartialState(cpu=True)
mesh = init_device_mesh("cpu", (2,))
processor = build_processor()
model = build_model(processor, seed=0)
model.model.vision_tower.post_layernorm.requires_grad_(False)
for block in [*model.model.vision_tower.encoder.layers, *model.model.language_model.layers, model]:
    fully_shard(block, mesh=mesh)
ids = torch.full((1, 66), model.config.image_token_id)
ids[:, 64:] = 7
model(input_ids=ids, pixel_values=torch.ones(1, 3, 64, 64), labels=ids).loss.backward()
assert check_gradients(model) == []
save_vision(model, processor, Path(sys.argv[1]), torch.float32)
barrier()
# Everything asked for is done. Threads that gloo and FSDP left running have aborted the interpreter's shutdown.
os._exit(0)
"""


def launch(*command, by=("torchrun", "--standalone", "--nproc_per_node", "2")):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [str(BIN / by[0]), *by[1:], *map(str, command)]
    # A process that waits for another that has gone would wait for ever.
    return subprocess.run(started, env=environment, capture_output=True, text=True, timeout=HANGS)


def flags_of(stage, base, folder, *more):
    flags = ["--base", base, "--rows", ROWS, "--steps", 3, "--learning-rate", 1e-3, "--precision", "float32"]
    return ["train", stage, *flags, "-o", folder, *more]


def train(stage, base, folder, *more, **options):
    return launch("-m", "visprobe", *flags_of(stage, base, folder, *more), **options)


def test_two_processes_train_as_one_does_on_the_same_global_batch(base, tmp_path):
    out = train("sft", base, tmp_path / "two", "--batch-size", 4)
    assert out.returncode == 0, out.stderr
    assert len(out.stdout.strip().splitlines()) == 1  # one process speaks
    assert out.stderr.count("train sft: 3/3") == 1
    one = run(base, Recipe(stage="sft", batch_size=8, **SETTINGS), DigitRows(ROWS), tmp_path / "one")
    two = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert (one["processes"], two["processes"], two["launch_note"]) == (1, 2, None)
    assert two["seen"] == one["seen"]
    # The sums over the batch are taken in another order: float32 rounding, grown over three steps.
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert [line["step"] for line in read_metrics(tmp_path / "two")] == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    # Adam divides by the gradient's size, so where that is all rounding a weight may differ by the steps it took.
    apart = torch.cat([(a[name] - b[name]).abs().flatten() for name in a])
    assert apart.max() < 3 * SETTINGS["learning_rate"] and apart.mean() < 1e-5


@pytest.mark.thorough
def test_two_killed_processes_resume_together_and_share_the_reference(base, tmp_path, forked):
    recipe = Recipe(stage="dpo", batch_size=4, save_every=1, **SETTINGS)
    # What another run left behind must go where that is asked for, once, and neither process may take it for its own.
    (tmp_path / "two" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "two" / "checkpoints" / "checkpoint-3" / "complete").touch()
    (tmp_path / "two" / "checkpoints" / "inputs.json").write_text("{}")
    killed = forked.together(2, DIES_IN_STEP, base, tmp_path / "two", recipe.model_dump_json())
    assert all(killed) and not (tmp_path / "two" / "manifest.json").exists()
    said = tmp_path / "said"
    resumed = forked.together(2, COMMAND, said, *flags_of("dpo", base, tmp_path / "two", "-b", 4, "--save-every", 1))
    assert resumed == [0, 0], said.read_text()
    assert said.read_text().count("reference: 12/12") == 1  # each process did half of the rows
    whole = recipe.model_copy(update={"batch_size": 8})
    one = run(base, whole, DigitRows(ROWS), tmp_path / "one")
    two = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert two["resumed_from"] == "checkpoint-1" and two["processes"] == 2
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)  # as above


@pytest.mark.thorough
def test_a_tower_sharded_over_two_processes_is_copied_whole(tmp_path, forked):
    assert forked.together(2, SNAPSHOT_OF_SHARDS, tmp_path / "copy") == [0, 0]
    saved = load_file(tmp_path / "copy" / "model.safetensors")
    whole = build_model(build_processor(), seed=0).state_dict()
    assert saved.keys() == {name for name in whole if "language_model" not in name and "lm_head" not in name}
    assert all(torch.equal(saved[name], whole[name]) for name in saved)


@pytest.mark.thorough
def test_accelerate_starting_one_process_instead_of_two_is_said(base, tmp_path):
    out = train("sft", base, tmp_path / "out", "-b", 4, by=("accelerate", "launch", "--cpu", "--num_processes", "2"))
    assert out.returncode == 0, out.stderr
    assert "note: " in out.stderr
    assert "torchrun --standalone --nproc_per_node N" in " ".join(out.stderr.split())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["processes"], manifest["launch_note"]) == (1, ONE_STARTED)


@pytest.mark.parametrize(
    ("variables", "note", "first", "count"),
    [
        ({}, None, True, 1),
        ({"MASTER_ADDR": "node1"}, None, True, 1),  # exported by hand, as Slurm scripts do
        ({"ACCELERATE_MIXED_PRECISION": "no"}, None, True, 1),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, ONE_STARTED, True, 1),
        ({"ACCELERATE_USE_FSDP": "true", "MASTER_ADDR": "x", "WORLD_SIZE": "8", "RANK": "3"}, None, False, 8),
    ],
)
def test_what_the_launcher_says(monkeypatch, variables, note, first, count):
    for name in [n for n in os.environ if n.startswith("ACCELERATE_")] + ["MASTER_ADDR", "WORLD_SIZE", "RANK"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launch_note(), is_first_process(), process_count()) == (note, first, count)


def test_the_built_in_rows_are_as_many_as_all_processes_will_see(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = Recipe(stage="sft", steps=3, batch_size=4, gradient_accumulation=2)
    assert len(open_job_rows(Sources(base="base"), recipe, tmp_path / "new")) == 3 * 4 * 2 * 2


def test_a_new_model_is_put_together_by_one_of_the_processes(monkeypatch, tmp_path):
    made = []

    class Saved:
        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / str(len(made))).touch()

    def assemble(*_, **__):
        made.append(True)
        time.sleep(0.1)  # time enough for the other to find no folder
        return Saved(), Saved()

    monkeypatch.setattr("visprobe.training.models.assemble.assemble", assemble)
    sources = Sources(vision_tower="tower", language_model="llm")
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: start(sources, 0, tmp_path / "runs" / "out"), range(2)))
    assert made == [True]
    assert [{path.name for path in folder.iterdir()} for folder in folders] == [{"1", "made_of.json"}] * 2


class Arguments:
    """The one field of the training arguments that tells of DeepSpeed."""

    def __init__(self, zero_stage):
        self.deepspeed_plugin = type("Plugin", (), {"zero_stage": zero_stage})


def test_under_deepspeed_hidden_gradients_are_no_fault_and_hidden_weights_are_not_copied(tmp_path):
    without_gradient = torch.nn.Linear(1, 1)
    Watch(Recipe(stage="sft"), tmp_path, None).on_pre_optimizer_step(Arguments(2), None, None, model=without_gradient)
    Snapshots(1, tmp_path, None).on_train_begin(Arguments(2), None, None)
    with pytest.raises(TrainingError, match="ZeRO-3"):
        Snapshots(1, tmp_path, None).on_train_begin(Arguments(3), None, None)


CONFIGS = files("visprobe.training") / "configs"


def test_launch_files_are_read_by_accelerate():
    found = {path.name.removesuffix(".yaml"): load_config_from_file(str(path)) for path in CONFIGS.iterdir()}
    processes = {"one_gpu": 1, "fsdp2": 8, "zero2": 8, "zero3": 8}
    assert {name: config.num_processes for name, config in found.items()} == processes
    assert found["one_gpu"].distributed_type == DistributedType.NO
    assert found["fsdp2"].distributed_type == DistributedType.FSDP
    assert {found[name].distributed_type for name in ("zero2", "zero3")} == {DistributedType.DEEPSPEED}
    # Any other value would win over the recipe's precision.
    assert {config.mixed_precision for config in found.values()} == {"no"}
    assert not any(config.use_cpu for config in found.values())
    assert found["zero2"].deepspeed_config == {"zero_stage": 2, "offload_optimizer_device": "none"}
    zero = found["zero3"].deepspeed_config
    assert zero["zero_stage"] == 3 and zero["zero3_save_16bit_model"]  # else the saved folder holds no weights


def test_fsdp2_shards_layers_that_exist():
    config = load_config_from_file(str(CONFIGS / "fsdp2.yaml")).fsdp_config
    assert config["fsdp_version"] == 2 and config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    model = build_model(build_processor(), seed=0)
    blocks = {type(m) for m in model.modules() if isinstance(m, GradientCheckpointingLayer)}
    model._no_split_modules = blocks_to_shard(model)
    policy = config["fsdp_auto_wrap_policy"].lower()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy=policy)
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == blocks
