"""Files that are written beside others: whole or not at all, with the user's own rights, and left to their writers."""

import os
import socket
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import save_file

from visprobe.io import atomic
from visprobe.io.atomic import MARK, filling, remove_leftovers, replacing, write_json
from visprobe.io.lock import locked


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_get_the_rights_that_the_user_gives(tmp_path, umask, mode):
    """Also those that a library makes readable for their owner alone."""
    script = (
        "import sys, numpy, safetensors.numpy\n"
        "from pathlib import Path\n"
        "from visprobe.io.atomic import filling, replacing, write_json\n"
        "folder = Path(sys.argv[1])\n"
        "write_json(folder / 'a.json', {})\n"
        "with replacing(folder / 'b.safetensors') as path: safetensors.numpy.save_file({'x': numpy.ones(2)}, path)\n"
        "with filling(folder / 'c') as made: safetensors.numpy.save_file({'x': numpy.ones(2)}, made / 'd.bin')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, umask=umask)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {mode}


def test_what_a_living_writer_has_begun_is_left_alone(tmp_path):
    with replacing(tmp_path / "a.json") as mine:
        mine.write_text("{")
        gone = tmp_path / mine.name.replace(f"-{os.getpid()}-", "-4194304-")  # beyond the largest process number
        old = tmp_path / f".x{MARK}{'0' * 12}"
        elsewhere = tmp_path / f".y{MARK}{'0' * 8}-1-{'0' * 12}"
        for path in (gone, old, elsewhere):
            path.write_text("")
        assert remove_leftovers(tmp_path) == 2
        assert mine.exists() and elsewhere.exists()
        os.utime(elsewhere, (0, time.time() - atomic.ABANDONED - 1))
        assert remove_leftovers(tmp_path) == 1
        mine.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    with filling(tmp_path / "out") as one:
        save_file({"x": np.ones(3)}, one / "one.safetensors")
        with filling(tmp_path / "out") as two:
            write_json(two / "two.json", {})
        assert (one / "one.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.safetensors", "two.json"]


def test_who_waits_for_a_lock_says_for_whom(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("visprobe.io.lock.SILENT_WAIT", 0.05)
    held = threading.Event()

    def hold():
        with locked(tmp_path / ".lock", "waits itself"):
            held.set()
            time.sleep(0.5)

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(10)
    with locked(tmp_path / ".lock", "writes features"):
        assert not other.is_alive() or not FileLock(tmp_path / ".lock").is_locked
    other.join()
    assert caplog.messages == [
        f"waiting for process {os.getpid()} on {socket.gethostname()}, which writes features; Ctrl-C gives up, and "
        "what is done is kept"
    ]
