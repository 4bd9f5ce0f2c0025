"""DeepSpeed's own files: the whole model, universal checkpoints, and shards that are refused with the way out."""

import argparse
import random
from collections import OrderedDict

import pytest
import torch
from test_damaged_bin import mutated, read, same
from test_torch_files import equal

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_tensors

STATE = OrderedDict(
    (("visual.weight", torch.arange(12.0).reshape(3, 4).bfloat16()), ("visual.bias", torch.ones(3).bfloat16()))
)
MASTER = {"visual.weight": torch.arange(12.0).reshape(3, 4) + 1 / 3}


def states(**changes):
    """What DeepSpeed's engine writes beside the model, in small."""
    rest = {"buffer_names": [], "optimizer": None, "ds_config": {"zero_optimization": {"stage": 2}}, "global_steps": 5}
    shapes = [OrderedDict((name, tensor.shape) for name, tensor in STATE.items())]
    return {"module": STATE, "param_shapes": shapes, "sparse_tensor_module_names": set(), **rest, **changes}


def save(value, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)


def opened(folder):
    return open_tensors(LocalFolder(folder))


def refused(folder, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(folder)
    assert "\n" not in caught.value.message
    return caught.value.hint


@pytest.mark.parametrize("inside", ["", "global_step5"])
def test_the_whole_model_of_zero_0_to_2(tmp_path, inside):
    save(states(), tmp_path / inside / "mp_rank_00_model_states.pt")
    save({"w": torch.ones(9)}, tmp_path / inside / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    index = opened(tmp_path)
    equal(index.read_many(index), STATE)
    assert index.container == "deepspeed" and index.bytes_read < 20_000


def test_weights_that_are_views_of_one_flat_buffer(tmp_path):
    flat = torch.arange(10_000).bfloat16()
    state = {"a": flat[5:17].view(3, 4), "b": flat[100:103]}
    save(states(module=state), tmp_path / "mp_rank_00_model_states.pt")
    equal(opened(tmp_path).read_many(state), state)


def test_latest_says_which_step(tmp_path):
    for step in (5, 10):
        save(
            states(module={"w": torch.full((2,), float(step))}),
            tmp_path / f"global_step{step}/mp_rank_00_model_states.pt",
        )
    assert "step you mean" in refused(tmp_path, "steps global_step10, global_step5 and latest names none")
    (tmp_path / "latest").write_text("global_step5\n")
    assert opened(tmp_path).read("w").tolist() == [5, 5]
    (tmp_path / "latest").write_text("global_step7")
    refused(tmp_path, "latest names 'global_step7'")


def universal(folder, flat=False, states_file="mp_rank_00_model_states.pt", **changes):
    for name, tensor in MASTER.items():
        save(tensor.flatten() if flat else {"param": tensor, "cat_dim": 0}, folder / "zero" / name / "fp32.pt")
        save({"param": torch.zeros(3)}, folder / "zero" / name / "exp_avg.pt")
    if states_file:
        save(states(**changes), folder / states_file)


@pytest.mark.parametrize("tag", [None, "global_step5_universal"])
def test_universal_masters_take_the_place_of_the_model(tmp_path, tag):
    universal(tmp_path / (tag or "."))
    if tag:
        universal(tmp_path / "global_step4_universal", module={"visual.bias": torch.zeros(3)})
        (tmp_path / "latest_universal").write_text(tag)
    index = opened(tmp_path)
    equal(index.read_many(index), {**STATE, **MASTER})


def test_universal_from_zero_3_is_flat_and_takes_its_shapes_from_the_states(tmp_path):
    empty = {name: torch.ones(0) for name in STATE}
    universal(tmp_path, True, "zero_pp_rank_0_mp_rank_00_model_states.pt", module=empty)
    index = opened(tmp_path)
    equal(index.read_many(index), MASTER)
    (tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt").unlink()
    assert "zero_to_fp32.py" in refused(tmp_path, "fp32.pt is flat, and no file .* gives the shape")
    save(states(param_shapes=[{"visual.weight": torch.Size([5, 4])}]), tmp_path / "mp_rank_00_model_states.pt")
    refused(tmp_path, "fp32.pt is flat, and no file .* gives the shape of its 12 elements")


def test_shards_are_refused_with_the_way_out(tmp_path):
    for rank in range(2):
        save(states(), tmp_path / f"zero3/global_step5/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        save(states(), tmp_path / f"tp/global_step5/mp_rank_0{rank}_model_states.pt")
    assert "zero_to_fp32.py . out" in refused(tmp_path / "zero3", "holds shards of ZeRO-3")
    assert "ds_to_universal.py" in refused(tmp_path / "tp", "model split over 2 ranks")


def test_a_class_that_a_trainer_put_in_names_the_conversion(tmp_path):
    save(states(args=argparse.Namespace(lr=1)), tmp_path / "mp_rank_00_model_states.pt")
    assert "zero_to_fp32.py" in refused(tmp_path, "needs argparse.Namespace, which is not safe to load")


@pytest.mark.parametrize("module", [None, {}, [1]])
def test_no_model_in_the_file(tmp_path, module):
    save(states(module=module), tmp_path / "mp_rank_00_model_states.pt")
    refused(tmp_path, "no tensors under 'module'")


def test_no_parameter_in_a_universal_file(tmp_path):
    universal(tmp_path)
    save({"param": 3}, tmp_path / "zero" / "visual.weight" / "fp32.pt")
    refused(tmp_path, "holds no parameter")


def test_150_mutations(tmp_path):
    universal(tmp_path)
    rng = random.Random(0)
    for file in (tmp_path / "mp_rank_00_model_states.pt", tmp_path / "zero" / "visual.weight" / "fp32.pt"):
        whole = file.read_bytes()
        for _ in range(75):
            file.write_bytes(mutated(whole, rng))
            found = read(tmp_path)
            assert found is None or same(found[0], {**STATE, **MASTER})
        file.write_bytes(whole)
