"""`visprobe cache`: what lies there, whose it is, whether it is whole, and that nothing else is ever deleted."""

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from visprobe.features.store import ChunkKey, FeatureStore
from visprobe.io.atomic import MARK, write_json
from visprobe.io.cache import abandoned, cache_folder, remove
from visprobe.io.sealed_array import save_sealed

DAY = 86400
CONTENT = b"tower and projector"


@pytest.fixture
def filled(run, tmp_path):
    """Features of two checkpoints, a remote file that is whole, offsets, and things that are nobody's business."""
    store = FeatureStore(cache_folder("features"))
    for owner in ("base", "sft\x1b[2J"):
        for chunk in range(2):
            key = ChunkKey(owner, "settings", "processor", "float32/cpu", (f"image {chunk}",))
            store.write(key, {"block_00": np.full((3, 4), chunk, np.float32)}, owner, "photos/val")
    address = sha256(CONTENT).hexdigest()
    folder = cache_folder("hub") / "files" / address
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(CONTENT)
    write_json(folder / "ranges.json", {"size": len(CONTENT), "ranges": [[0, len(CONTENT), address]]})
    listing = {"commit": "c", "files": {"model.safetensors": [len(CONTENT), address]}}
    write_json(cache_folder("hub") / "models" / "org--name" / "main.json", listing)
    offsets = cache_folder("json-index") / f"{'ab' * 32}-lines-1.npy"
    offsets.parent.mkdir()
    save_sealed(offsets, np.array([0, 5, 9]))
    for foreign in ("features/notes.txt", "features/ab/mine.safetensors", "hub/files/readme", "elsewhere/file"):
        path = cache_folder(foreign)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    return run


def listed(run):
    return {
        entry["cache"] + " " + entry["checkpoint"]: entry
        for entry in json.loads(run("cache", "ls", "--json").out)["entries"]
    }


def test_ls_says_whose_each_entry_is(filled):
    entries = listed(filled)
    assert set(entries) == {"features base", "features sft\x1b[2J", "hub org/name", "json-index "}
    assert entries["features base"]["images"] == "photos/val" and len(entries["features base"]["files"]) == 2
    assert entries["hub org/name"]["images"] == "model.safetensors"
    shown = filled("cache", "ls").out
    assert "org/name" in shown and "photos/val" in shown and "\x1b" not in shown


def test_an_empty_cache_is_no_fault(run):
    assert run("cache", "ls").out.startswith("0 entries, 0 bytes")
    assert run("cache", "verify").code == run("cache", "prune", "--yes").code == 0


def test_what_is_whole_verifies_and_a_flipped_byte_is_found_in_each_cache(filled):
    assert filled("cache", "verify").code == 0
    entries = listed(filled)
    for entry in entries.values():
        path = next(file for file in entry["files"] if not file.endswith("ranges.json"))
        with open(path, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([byte ^ 0xFF]))
    ran = filled("cache", "verify", "--json")
    assert ran.code == 1
    faults = json.loads(ran.out)["faults"]
    assert set(faults) == {entry["id"] for entry in entries.values()}
    texts = " ".join(text for found in faults.values() for text in found)
    assert "block_00: another hash than was noted" in texts and "numbers have another hash" in texts
    assert f"bytes 0 to {len(CONTENT)}: another hash than was noted" in texts


def test_a_truncated_chunk_and_one_under_another_name_are_found(filled):
    one, two = map(Path, listed(filled)["features base"]["files"])
    two.write_bytes(one.read_bytes())
    one.write_bytes(one.read_bytes()[:-3])
    faults = filled("cache", "verify", "--json").out
    assert "cannot be read" in faults and "its key has another hash than its name" in faults


def foreign():
    return [cache_folder(name).read_text() for name in
            ("features/notes.txt", "features/ab/mine.safetensors", "hub/files/readme", "elsewhere/file")]  # fmt: skip


def test_rm_deletes_what_is_named_and_only_that(filled):
    entries = listed(filled)
    gone = entries["features base"]
    ran = filled("cache", "rm", gone["id"][:8], "--yes", "--json")
    assert ran.code == 0 and json.loads(ran.out)["freed"] == gone["bytes"]
    assert set(listed(filled)) == set(entries) - {"features base"}
    assert filled("cache", "rm", "all", "--yes").code == 0
    assert listed(filled) == {} and foreign() == ["mine"] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rm", "all"), "nobody can be asked"),
        (("rm", "all", "--json"), "nobody can be asked"),
        (("rm", "zz", "--yes"), "no entry has an id"),
        (("rm", "", "--yes"), "no entry has an id"),
        (("prune", "--older-than", "month", "--yes"), "'month' is no amount"),
        (("prune", "--max-size", "20", "--yes"), "'20' is no amount"),
    ],
)
def test_what_cannot_be_meant_deletes_nothing(filled, arguments, message):
    before = listed(filled)
    ran = filled("cache", *arguments)
    assert (ran.code, message in " ".join(ran.err.split())) == (2, True)
    assert listed(filled) == before


def test_prune_goes_by_age_then_by_size_oldest_first(filled):
    entries = listed(filled)
    for days, name in ((40, "hub org/name"), (20, "features base"), (10, "json-index ")):
        for file in entries[name]["files"]:
            os.utime(file, (time.time() - days * DAY,) * 2)
    assert filled("cache", "prune", "--older-than", "30d", "--yes").code == 0
    assert set(listed(filled)) == set(entries) - {"hub org/name"}
    room = sum(entry["bytes"] for entry in listed(filled).values())
    allowed = (room - 1) / 2**20  # one byte less than there is: the oldest entry has to go
    assert filled("cache", "prune", "--max-size", f"{allowed:.7f}M", "--yes").code == 0
    assert set(listed(filled)) == set(entries) - {"hub org/name", "features base"}


def test_leftovers_of_killed_writers_go_and_those_of_living_ones_stay(filled):
    folder = cache_folder("features") / "ab"
    old, new = folder / f".x{MARK}{'0' * 12}", folder / f".y{MARK}{'1' * 12}"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    assert abandoned(folder) == [old]
    before = listed(filled)
    assert filled("cache", "prune", "--yes").code == 0
    assert not old.exists() and new.exists() and listed(filled) == before and foreign() == ["mine"] * 4


def test_nothing_outside_the_folder_is_deleted_whatever_link_leads_there(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "file").write_text("mine")
    (inside / "link").symlink_to(outside)
    with pytest.raises(ValueError, match="does not lie in"):
        remove([inside / "link" / "file"], inside)
    (inside / "file").symlink_to(outside / "file")
    assert remove([inside / "file"], inside).freed == 0  # the link goes, what it names stays
    assert (outside / "file").read_text() == "mine" and not (inside / "file").is_symlink()


def test_what_a_writer_holds_stays(tmp_path):
    (tmp_path / "data").write_text("half")
    with FileLock(tmp_path / "lock"):
        assert remove([tmp_path / "data"], tmp_path).in_use == [tmp_path / "data"]
    assert remove([tmp_path / "data"], tmp_path).in_use == [] and not (tmp_path / "data").exists()


def test_features_without_notes_are_listed_and_not_believed(filled):
    [path, _] = listed(filled)["features base"]["files"]
    arrays = load_file(path)
    save_file(arrays, path)
    assert "features not noted" in listed(filled)
    assert "another hash than was noted" in filled("cache", "verify").out
    key = ChunkKey("base", "settings", "processor", "float32/cpu", ("image 0",))
    store = FeatureStore(cache_folder("features"))
    store.write(key, {"block_01": np.ones((3, 1), np.float32)}, "base", "photos/val")
    assert store.missing(key, {"block_00", "block_01"}) == {"block_00"}


def test_what_a_mirror_sent_under_the_address_of_another_content_is_found(filled):
    [data] = cache_folder("hub").rglob("data")
    other = bytes(len(CONTENT))
    data.write_bytes(other)
    ranges = {"size": len(other), "ranges": [[0, len(other), sha256(other).hexdigest()]]}
    write_json(data.with_name("ranges.json"), ranges)
    ran = filled("cache", "verify", "--json")
    assert ran.code == 1 and "the hub, or a mirror, sent something else" in ran.out
