"""Folders of the hub's cache given as paths: the snapshot that is read, and what is said where none can be taken."""

import shutil

import pytest
import torch
from safetensors.torch import save_file

from visprobe.errors import CheckpointError
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.hub.repository import open_folder

FIRST, SECOND = "0" * 40, "1" * 40


def cached(cache, commits, main=None, name="models--org--name"):
    """A repository's folder as huggingface_hub lays it out: snapshots of links into blobs."""
    folder = cache / name
    (folder / "blobs").mkdir(parents=True)
    for number, commit in enumerate(commits):
        save_file({"w": torch.full((2,), float(number))}, folder / "blobs" / f"{number:064x}")
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{number:064x}")
    if main:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(main)
    return folder


def value(path):
    return open_tensors(open_folder(path)).read("w")[0]


@pytest.mark.parametrize("inside", ["", "snapshots", f"snapshots/{FIRST}"])
def test_the_only_snapshot_is_read_wherever_in_its_repository(tmp_path, inside):
    folder = cached(tmp_path, [FIRST])
    assert value(folder / inside) == 0
    assert open_folder(folder).path == folder / "snapshots" / FIRST


@pytest.mark.parametrize(("main", "read"), [(FIRST, 0), (SECOND, 1), (f"{SECOND}\n", 1)])
def test_of_several_the_one_of_main_is_read_and_the_others_are_named(tmp_path, main, read):
    folder = cached(tmp_path, [FIRST, SECOND], main)
    tensors = open_tensors(open_folder(folder))
    assert tensors.read("w")[0] == read
    other = FIRST if read else SECOND
    assert any(f"not {folder}/snapshots/{other}" in note for note in tensors.notes)


@pytest.mark.parametrize("main", [None, "2" * 40])
def test_several_without_main_are_listed_and_any_of_them_can_be_given(tmp_path, main):
    folder = cached(tmp_path, [FIRST, SECOND], main)
    with pytest.raises(CheckpointError, match="2 to choose from") as caught:
        open_folder(folder)
    listed = caught.value.hint.removeprefix("Give one of them: ").rstrip(".").split(", ")
    assert [value(path) for path in listed] == [0, 1]


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_cache_of_several_repositories_lists_them(tmp_path, below):
    for name in ("models--org--a", "models--org--b"):
        cached(tmp_path / below, [FIRST], name=name)
    with pytest.raises(CheckpointError, match="the hub's cache, with 2") as caught:
        open_folder(tmp_path)
    assert "models--org--a" in caught.value.hint and "models--org--b" in caught.value.hint


def test_a_repository_without_snapshot_and_other_kinds_are_said(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        open_folder(cached(tmp_path, []))
    assert "Download" in caught.value.hint
    data = cached(tmp_path, [FIRST], name="datasets--org--images")
    for place in (data, data / "snapshots", data / "snapshots" / FIRST):
        with pytest.raises(CheckpointError, match="is a dataset in the hub's cache"):
            open_folder(place)


def test_a_snapshot_that_was_copied_without_its_blobs_is_told(tmp_path):
    folder = cached(tmp_path, [FIRST])
    shutil.rmtree(folder / "blobs")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a link to .*, which is not there") as caught:
        open_tensors(open_folder(folder))
    assert "cp -rL" in caught.value.hint
