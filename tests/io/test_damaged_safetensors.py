"""Damaged safetensors: one CheckpointError, or exactly what the safetensors library reads in the same bytes."""

import json
import random

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from test_damaged_bin import mutated, read, same

STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b.weight": torch.linspace(0, 1, 8).to(torch.bfloat16).reshape(2, 4),
    "c": torch.tensor([True, False]),
    "d": torch.tensor(7),
}
NAME = "model.safetensors"


def their_reading(data):
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError):
        return None


def edited(header, rng):
    """`header` with a number, a name, a type or a whole field changed in its meaning, in valid JSON."""
    described = json.loads(header)
    name, other = rng.sample(sorted(STATE), 2)
    fields, kind = described[name], rng.randrange(7)
    first, last = fields["data_offsets"]
    if kind == 0:
        fields["data_offsets"] = [first + rng.choice([-4, -1, 1, 4]), last + rng.choice([-4, 0, 4])]
    elif kind == 1:
        fields["shape"] = rng.choice([fields["shape"][::-1], [*fields["shape"], 1], [0], [1 << 61, 8], [-1], 3, None])
    elif kind == 2:
        fields["dtype"] = rng.choice(["F32", "I32", "F16", "F64", "U8", "F4", "", None, 3])
    elif kind == 3:
        fields["data_offsets"] = described[other]["data_offsets"]
    elif kind == 4:
        described[rng.choice(["e", "__metadata__", other])] = described.pop(name)
    elif kind == 5:
        fields["data_offsets"] = rng.choice([[last, first], [first], [first, 1 << 62], [0.5, last], [True, last], None])
    else:
        described[name] = rng.choice([None, [], {}, {**fields, "more": 1}])
    return json.dumps(described).encode()


def test_1000_mutations_of_the_header(tmp_path):
    data, rng, outcomes = save(STATE, {"format": "pt"}), random.Random(0), {True: 0, False: 0}
    length = int.from_bytes(data[:8], "little")
    for number in range(1000):
        header = data[8 : 8 + length]
        changed = edited(header, rng) if number % 2 else mutated(header, rng)
        size = len(changed) if number % 4 < 3 else rng.choice([0, 1, length - 1, length + 1, 1 << 40, (1 << 64) - 1])
        whole = size.to_bytes(8, "little") + changed + data[8 + length :]
        (tmp_path / NAME).write_bytes(whole)
        found, theirs = read(tmp_path), their_reading(whole)
        outcomes[found is None] += 1
        if found is not None:
            # A changed header that both accept describes other tensors on the same bytes, each byte in one of them.
            assert theirs is not None and same(found[0], theirs), whole
            assert sum(t.nbytes for t in found[0].values()) == sum(t.nbytes for t in STATE.values())
    assert outcomes[True] > 500 and outcomes[False] > 20


@pytest.mark.thorough
def test_1000_mutations_of_the_index(tmp_path):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for n, shard in enumerate(shards):
        (tmp_path / shard).write_bytes(save({name: STATE[name] for name in sorted(STATE)[n::2]}))
    weight_map = {name: shards[n % 2] for n, name in enumerate(sorted(STATE))}
    index = json.dumps({"metadata": {"total_size": 3}, "weight_map": weight_map}, indent=1).encode()
    rng, refused = random.Random(0), 0
    for _ in range(1000):
        (tmp_path / "model.safetensors.index.json").write_bytes(mutated(index, rng))
        if (found := read(tmp_path)) is None:
            refused += 1
        else:  # an index lists names and files: what it still lists is what it was, no value is anywhere in it
            assert found[0] and same(found[0], {name: STATE[name] for name in found[0]})
    assert refused > 500


def test_gaps_overlaps_and_bytes_of_no_tensor_are_refused(tmp_path):
    data = save(STATE)
    length = int.from_bytes(data[:8], "little")
    described = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    first = min(described, key=lambda name: described[name]["data_offsets"])
    gap = {name: fields for name, fields in described.items() if name != first}
    twice = {**described, "twice": described[first]}
    for header, tail in ((gap, b""), (twice, b""), (described, b"\0")):
        raw = json.dumps(header).encode()
        (tmp_path / NAME).write_bytes(len(raw).to_bytes(8, "little") + raw + body + tail)
        assert read(tmp_path) is None
