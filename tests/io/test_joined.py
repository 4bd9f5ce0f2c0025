"""Two checkpoints read as one."""

import pytest
import torch
from safetensors.torch import save_file

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.containers.tensors import Joined


def written(folder, tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return open_tensors(LocalFolder(folder))


@pytest.fixture
def joined(tmp_path):
    first = written(tmp_path / "a", {"llm.w": torch.ones(2), "tower.empty": torch.ones(0), "tower.own": torch.ones(3)})
    second = written(
        tmp_path / "b", {"v.empty": torch.full((4,), 2.0), "v.own": torch.zeros(3), "v.new": torch.ones(5)}
    )
    return Joined(first, second, {f"tower.{name}": f"v.{name}" for name in ("empty", "own", "new")})


def test_the_first_counts_and_the_second_fills(joined):
    assert set(joined) == {"llm.w", "tower.empty", "tower.own", "tower.new"}
    read = joined.read_many(["tower.new", "tower.own", "tower.empty"])
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "tower.new": [1.0] * 5, "tower.own": [1.0] * 3, "tower.empty": [2.0] * 4,
    }  # fmt: skip
    assert joined["tower.empty"].name == "tower.empty"
    assert "/b/" in joined["tower.empty"].file


def test_bytes_are_those_of_both(joined):
    headers = joined.bytes_read
    joined.read_many(["tower.new", "tower.own"])
    assert joined.bytes_read - headers == 4 * (5 + 3)


def test_what_neither_holds_is_an_error(joined):
    with pytest.raises(CheckpointError, match="no tensor 'gone'"):
        joined.read("gone")
