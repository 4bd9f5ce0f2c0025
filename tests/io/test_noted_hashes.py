"""Files of weights that visprobe writes: a flipped bit anywhere is noticed, or changes nothing."""

import random

import pytest
import torch
from safetensors.torch import load_file

from visprobe.errors import CheckpointError
from visprobe.io.containers.folder import LocalFolder
from visprobe.io.containers.safetensors_files import SINGLE_FILE, SafetensorsFiles, save_tensors

WEIGHTS = {
    "a": torch.arange(300.0).reshape(20, 15),
    "b": torch.linspace(0, 1, 64).to(torch.bfloat16),
    "scalar": torch.tensor(3),
    "empty": torch.zeros(0, 4),
}


def read(folder):
    tensors = SafetensorsFiles(LocalFolder(folder))
    return tensors.read_many(tensors)


def test_what_was_written_is_read_here_and_by_others(tmp_path):
    save_tensors(WEIGHTS, tmp_path / SINGLE_FILE)
    for found in (read(tmp_path), load_file(tmp_path / SINGLE_FILE)):
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


def test_200_flipped_bits_are_noticed_or_change_nothing(tmp_path):
    path = tmp_path / SINGLE_FILE
    save_tensors(WEIGHTS, path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    draw, unnoticed = random.Random(0), []
    for number in range(200):
        # Half of them among the weights, half in the header, which is the smaller part of a real file.
        place = draw.randrange(start, len(whole)) if number % 2 else draw.randrange(start)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read(tmp_path)
        except CheckpointError as error:
            assert str(path) in str(error)
            continue
        unnoticed.append(place)
        assert all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS if name in found)
        assert len(found) == len(WEIGHTS)
    assert all(place < start for place in unnoticed)


def test_a_hash_list_of_another_kind_is_a_damaged_header(tmp_path):
    from safetensors.torch import save_file

    for noted in ("[1]", "{", "3"):
        save_file({"a": torch.zeros(2)}, tmp_path / SINGLE_FILE, metadata={"visprobe.sha256": noted})
        with pytest.raises(CheckpointError, match="damaged header"):
            read(tmp_path)
