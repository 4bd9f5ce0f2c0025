"""Byte ranges of files on the hub: nothing travels twice, nothing wrong is believed, nothing is lost by a kill."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hub_server import SOON, Blob, Faults
from hypothesis import given
from hypothesis import strategies as st

from visprobe.errors import CheckpointError, PrerequisiteError
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.hub import range_cache, remote_file
from visprobe.io.hub.repository import open_folder

NAME = "model.safetensors"
DATA = random.Random(0).randbytes(3_000_000)
spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted).map(tuple), max_size=6)


def bytes_of(some):
    return {at for start, end in some for at in range(start, end)}


@pytest.mark.thorough
@given(spans, spans)
def test_ranges_are_sets_of_bytes(wanted, had):
    assert bytes_of(range_cache.union(wanted)) == bytes_of(wanted)
    missing = range_cache.subtract(wanted, had)
    assert bytes_of(missing) == bytes_of(wanted) - bytes_of(had)
    assert all(a[1] < b[0] for a, b in pairwise(missing))
    pieces = range_cache.split(missing, 7)
    assert bytes_of(pieces) == bytes_of(missing) and all(0 < end - start <= 7 for start, end in pieces)


def test_small_gaps_are_read_and_large_ones_are_not():
    tensors = [(0, 10_000), (10_040, 20_000), (20_500, 30_000), (30_010, 40_000)]
    assert range_cache.coalesce(tensors) == [(0, 20_000), (20_500, 40_000)]  # gaps of 40 and 10 fit into 1 %
    wide = [(0, 1 << 30), ((1 << 30) + (2 << 20), 2 << 30)]
    assert range_cache.coalesce(wide) == wide  # 0.1 %, but longer to read than another request takes


def safetensors_blob(tensors, zeros):
    """`tensors` in order, those of `zeros` (name to bytes) among them without being stored anywhere."""
    header, at, data = {}, 0, {}
    for name in [*zeros, *tensors][::2] + [*zeros, *tensors][1::2]:
        raw = tensors[name].numpy().tobytes() if name in tensors else b""
        count, dtype = (len(raw), "F32") if raw else (zeros[name], "U8")
        shape = list(tensors[name].shape) if raw else [count]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count]}
        data[at], at = raw, at + count
    raw = json.dumps(header).encode()
    start = 8 + len(raw)
    return Blob(
        parts={0: len(raw).to_bytes(8, "little") + raw} | {start + k: v for k, v in data.items() if v},
        size=start + at,
        lfs=True,
    )


@pytest.mark.thorough
def test_a_small_tower_in_a_large_checkpoint_costs_its_own_bytes(hub):
    torch.manual_seed(0)
    tower = {f"vision_tower.{i}": torch.randn(300, 1000 + i) for i in range(9)}
    files, weight_map = {"config.json": b"{}"}, {}
    for shard in range(3):
        own = {name: tensor for i, (name, tensor) in enumerate(tower.items()) if i % 3 == shard}
        zeros = {f"language_model.{shard}.{i}": 500_000_000 for i in range(3)}
        file = f"model-{shard + 1:05d}-of-00003.safetensors"
        files[file] = safetensors_blob(own, zeros)
        weight_map |= dict.fromkeys([*own, *zeros], file)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    hub.add("org/name", files)

    tensors = open_tensors(open_folder("org/name"))
    read = tensors.read_many(tower)
    assert all(torch.equal(read[name], tensor) for name, tensor in tower.items())
    needed = sum(tensor.nbytes for tensor in tower.values())
    assert sum(blob.size for name, blob in files.items() if name.endswith(".safetensors")) > 4e9
    assert needed <= sum(hub.served.values()) <= 1.02 * needed  # the index and the headers are in it too

    hub.forget()
    again = open_tensors(open_folder("org/name")).read_many(tower)
    assert all(torch.equal(again[name], tensor) for name, tensor in tower.items())
    assert sum(hub.served.values()) == 0 and hub.requests == [("GET", "/api/models/org/name/revision/main")]


@pytest.fixture
def file(hub, monkeypatch):
    """A file of 3 MB on the hub, read in pieces of 400 kB."""
    monkeypatch.setattr(remote_file, "_PIECE", 400_000)
    hub.add("org/name", {NAME: DATA, "config.json": b"{}"})
    return open_folder("org/name").open(NAME)


def test_only_what_is_not_here_travels(hub, file):
    assert file.size == len(DATA)
    assert file.read([(500, 0), (1_000_000, 40_000)]) == [b"", DATA[1_000_000:1_040_000]]
    assert file.read([(2_999_999, 1), (900_000, 200_000)]) == [DATA[2_999_999:], DATA[900_000:1_100_000]]
    assert hub.served[NAME] == 200_001
    with pytest.raises(CheckpointError, match="has only 3000000 bytes"):
        file.read([(2_999_999, 2)])


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, file, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file.read([(0, 100)])
    assert set(hub.tokens[-2:]) == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}


def test_cut_connections_go_on_where_they_ended(hub, file):
    hub.faults = Faults(cut_after=[100, 300_000, 0, 262_144, 5])
    assert file.read([(10, 2_900_000)]) == [DATA[10:2_900_010]]
    assert hub.served[NAME] == 2_900_000 and not hub.faults.cut_after


@pytest.mark.thorough
def test_an_overloaded_server_is_asked_again_when_it_says(hub, file):
    hub.faults = Faults(answers=[(429, {"Retry-After": "1"}), (500, {}), (503, {"RateLimit": '"api";r=0;t=0'})])
    started = time.monotonic()
    assert file.read([(0, 100)]) == [DATA[:100]]
    assert time.monotonic() - started >= 2  # a second for each of the two that say so


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(cut_after=[0] * 100), "no connection"),
        (Faults(answers=[(500, {})] * 100), "answered 500"),
        (Faults(answers=[(429, {})] * 100), r"no more requests for now \(429\)"),
        (Faults(answers=[(429, {"Retry-After": "86400"})]), r"no more requests for now \(429\)"),
        (Faults(answers=[(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]), "your token"),
        (Faults(answers=[(404, {})]), f"{NAME} of org/name does not exist"),
        (Faults(answers=[(416, {})]), "answered 416"),
        (Faults(shift=1), "'bytes 101-200/3000000' instead of bytes 100-199/3000000"),
        (Faults(longer=7), "107 bytes instead of 100"),
        (Faults(longer=-7), "93 bytes instead of 100"),
        (Faults(etag="0" * 64), "changed on the hub while it was read"),
        (Faults(commit="0" * 40), "changed on the hub while it was read"),
        (Faults(gated=True), r"access to org/name has to be granted first \(401\)"),
    ],
)
def test_what_cannot_be_read_is_one_message_and_never_a_wrong_tensor(hub, file, faults, message):
    hub.faults = faults
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as caught:
        file.read([(100, 100)])
    assert caught.value.hint and str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - started < SOON and hub.served[NAME] <= 107
    hub.faults = Faults()
    assert file.read([(100, 100)]) == [DATA[100:200]]


def test_a_server_without_ranges_is_read_from_the_start_and_says_so(hub, monkeypatch):
    monkeypatch.setattr(remote_file, "_PIECE", 400_000)
    blob = safetensors_blob({"b": torch.arange(300_000.0), "d": torch.arange(5.0)}, {"a": 1_000_000, "c": 90_000_000})
    hub.add("org/name", {NAME: blob, "config.json": b"{}"})
    hub.faults = Faults(no_ranges=True, cut_after=[10_000_000] * 3 + [20_000, 900_000])
    tensors = open_tensors(open_folder("org/name"))
    read = tensors.read_many(["b", "d"])
    assert torch.equal(read["b"], torch.arange(300_000.0)) and torch.equal(read["d"], torch.arange(5.0))
    assert tensors.notes == [f"{NAME} of org/name is read from its first byte on: its server sends no byte ranges."]
    hub.forget()
    assert torch.equal(tensors.read("b"), read["b"]) and hub.requests == []


CHILD = """
import hashlib, sys
from visprobe.io.hub import range_cache
from visprobe.io.hub import remote_file
from visprobe.io.hub.repository import open_folder
remote_file._PIECE, range_cache._FLUSH_BYTES = 400_000, 1
print(hashlib.sha256(open_folder("org/name").open("model.safetensors").read([(0, 3_000_000)])[0]).hexdigest())
"""


def child(hub, code=CHILD):
    home = os.environ["VISPROBE_CACHE"] + "/hf"
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": home}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


@pytest.mark.thorough
def test_after_kill_9_nothing_that_was_finished_travels_again(hub, file):
    hub.faults = Faults(seconds_per_chunk=0.3)
    with child(hub) as killed:
        while not (lists := list(Path(os.environ["VISPROBE_CACHE"]).rglob("ranges.json"))):
            assert killed.poll() is None
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
    finished = bytes_of(span[:2] for span in json.loads(lists[0].read_text())["ranges"])
    assert 400_000 <= len(finished) < 3_000_000
    hub.rest()
    hub.forget()
    hub.faults = Faults()
    assert file.read([(0, 3_000_000)]) == [DATA]
    assert hub.served[NAME] == 3_000_000 - len(finished)
    assert not any(start in finished for _, start, _ in hub.spans)


def test_a_full_disk_is_one_message(hub, file, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PrerequisiteError, match=f"the disk is full while reading {NAME} of org/name"):
        file.read([(0, 1_000_000)])


@pytest.mark.thorough
def test_two_processes_read_each_byte_once(hub, file):
    hub.faults = Faults(seconds_per_chunk=0.02)
    with child(hub) as one, child(hub) as two:
        assert {one.communicate()[0].strip(), two.communicate()[0].strip()} == {sha256(DATA).hexdigest()}
    assert hub.served[NAME] == 3_000_000


def test_waiting_for_another_process_is_said(hub, file, monkeypatch, caplog):
    monkeypatch.setattr("visprobe.io.lock.SILENT_WAIT", 0.05)
    file.read([(0, 10)])
    (lock,) = Path(os.environ["VISPROBE_CACHE"]).rglob("lock")
    held = threading.Event()

    def hold():
        with FileLock(lock):
            held.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(SOON) and file.read([(500_000, 10)]) == [DATA[500_000:500_010]]
    other.join()
    [message] = caplog.messages
    assert f"waiting for process {os.getpid()} on " in message and "downloads the same file" in message


@pytest.mark.thorough
def test_ctrl_c_ends_it_and_keeps_what_was_finished(hub, file):
    hub.faults = Faults(seconds_per_chunk=0.3)
    with child(hub, "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + CHILD) as stopped:
        while not (lists := list(Path(os.environ["VISPROBE_CACHE"]).rglob("ranges.json"))):
            time.sleep(0.01)
        os.kill(stopped.pid, signal.SIGINT)
        assert stopped.wait() != 0
    finished = bytes_of(span[:2] for span in json.loads(lists[0].read_text())["ranges"])
    assert 400_000 <= len(finished) < 3_000_000
    hub.faults = Faults()
    assert file.read([(0, 3_000_000)]) == [DATA]


def test_what_lies_in_the_cache_is_believed_only_if_whole(hub, file):
    file.read([(0, 1_000_000)])
    (data,) = Path(os.environ["VISPROBE_CACHE"]).rglob("data")
    os.truncate(data, 999_999)
    assert file.read([(0, 1_000_000)]) == [DATA[:1_000_000]]
    data.with_name("ranges.json").write_text('{"size": 3000000, "ranges": [[0, ')
    assert file.read([(0, 1_000_000)]) == [DATA[:1_000_000]]
    assert hub.served[NAME] == 3_000_000


def test_flipped_bits_in_the_cache_are_fetched_again_and_nothing_else_is(hub, file, caplog):
    for start in range(0, 3_000_000, 300_000):
        file.read([(start, 300_000)])
    (data,) = Path(os.environ["VISPROBE_CACHE"]).rglob("data")
    for place in (0, 1_234_567, 2_999_999):
        with data.open("r+b") as opened:
            opened.seek(place)
            byte = opened.read(1)[0]
            opened.seek(place)
            opened.write(bytes([byte ^ 1]))
        again = open_folder("org/name").open(NAME)  # as the next process has it
        hub.forget()
        assert again.read([(0, 3_000_000)]) == [DATA]
        assert hub.served[NAME] == 300_000
        assert "is damaged between bytes" in caplog.text
        assert open_folder("org/name").open(NAME).read([(0, 3_000_000)]) == [DATA]
        assert hub.served[NAME] == 300_000


PEAK = """
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.hub.repository import open_folder
def kib(name):
    return int(dict(line.split(":") for line in open("/proc/self/status"))[name].split()[0])
tensors = open_tensors(open_folder("org/name"))
before = kib("VmRSS")
read = tensors.read("a")
print(kib("VmHWM") - before, read.nbytes)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_holds_the_tensors_once(hub):
    hub.add("org/name", {NAME: safetensors_blob({}, {"a": 300_000_000}), "config.json": b"{}"})
    with child(hub, PEAK) as process:
        peak, nbytes = map(int, process.communicate()[0].split())
    assert 1024 * peak <= nbytes + 100e6  # a second copy would be three times that much
