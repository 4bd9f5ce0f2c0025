"""What a run will read, forward and write is known before its first image, and refused where it cannot fit."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import Item
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.load import load_encoder
from visprobe.errors import PrerequisiteError
from visprobe.features.extract import extract
from visprobe.features.plan import Pass, check_room, describe, planned, row_bytes
from visprobe.features.store import FeatureStore

SITES = [
    "block_00", "block_02", "consumed", "projected", "heads_01", "consumed:norms", "consumed:tokens",
    "consumed:quarters", "projected:drawn",
]  # fmt: skip


class Images:
    name, classes = "made", None

    def __init__(self, count):
        self.items = [Item(str(number)) for number in range(count)]

    def read(self, index):
        file = io.BytesIO()
        Image.new("RGB", (40, 30), (index, 0, 0)).save(file, "PNG")
        return file.getvalue()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    made = []
    for seed in (0, 1):
        folder, processor = tmp_path_factory.mktemp(f"checkpoint{seed}"), build_processor()
        build_model(processor, seed=seed).save_pretrained(folder)
        processor.save_pretrained(folder)
        made.append(load_encoder(folder))
    return made


def test_what_is_planned_is_what_is_written(encoders, tmp_path):
    store, images = FeatureStore(tmp_path), Images(6)
    same = [*encoders, encoders[0].rounded(encoders[0].dtype)]  # its weights are those of the first: forwarded once
    plan = planned([Pass(images, lambda _: SITES, same, same)])
    done = extract(same, images, lambda _: SITES, store=store)
    assert (plan.decoded, plan.forwarded) == (done.decoded, done.forwarded) == (6, 12)
    features = done.features[0]
    arrays = [features.sites[request] for request in features.sites]
    assert plan.nbytes == 2 * sum(array.nbytes for array in arrays)
    assert 0 <= store.held() - plan.nbytes < 8192  # headers, and which images are bad
    for request, array in zip(features.sites, arrays, strict=True):
        assert row_bytes(encoders[0], request) == array[0].nbytes, request


def test_the_plan_is_a_line_with_the_room_that_there_is(encoders, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "not" / "yet" / "there")
    monkeypatch.setattr(store, "free", lambda: 3 << 30)
    plan = planned([Pass(Images(1_000), lambda _: ["consumed"], encoders, encoders)])
    said = describe(plan, store)
    assert said.startswith("at most 1,000 images are decoded, 2,000 times forwarded and ")
    assert f"features written to {store.folder} (3.0 GiB free there)" in said


def test_what_cannot_fit_is_refused_and_what_lies_there_already_counts(encoders, tmp_path, monkeypatch):
    store, images = FeatureStore(tmp_path), Images(6)
    plan = planned([Pass(images, lambda _: SITES, encoders, encoders)])
    assert FeatureStore(tmp_path / "not" / "yet").free() > 0
    monkeypatch.setattr(store, "free", lambda: plan.nbytes)
    check_room(plan, store)
    monkeypatch.setattr(store, "free", lambda: plan.nbytes - 1)
    with pytest.raises(PrerequisiteError, match="of features do not fit into"):
        check_room(plan, store)
    extract(encoders, images, lambda _: SITES, store=store)
    monkeypatch.setattr(store, "free", lambda: 0)
    check_room(plan, store)


@pytest.fixture
def unwritable(monkeypatch):
    """A function that makes a folder one that this process may not write, root or not."""
    closed = []
    real_access, real_mkdir = os.access, os.mkdir

    def access(path, mode, **how):
        return real_access(path, mode, **how) and not (mode & os.W_OK and str(path) in closed)

    def mkdir(path, *rest, **how):
        if any(str(path).startswith(f"{folder}/") for folder in closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real_mkdir(path, *rest, **how)

    monkeypatch.setattr(os, "access", access)
    monkeypatch.setattr(os, "mkdir", mkdir)
    return lambda folder: closed.append(str(folder))


def test_a_whole_cache_of_somebody_else_is_used_and_what_lacks_is_said(encoders, tmp_path, unwritable, caplog):
    made = extract(encoders, Images(3), lambda _: ["consumed"], store=FeatureStore(tmp_path))
    unwritable(tmp_path)
    store = FeatureStore(tmp_path)
    store.check()
    assert "cannot be written" in caplog.text and "VISPROBE_CACHE" in caplog.text
    found = extract(encoders, Images(3), lambda _: ["consumed"], store=store)
    assert found.decoded == found.forwarded == 0
    name = encoders[0].consumed
    assert np.array_equal(found.features[0].sites[name], made.features[0].sites[name])
    with pytest.raises(PrerequisiteError, match=f"features cannot be kept in {tmp_path}: Permission denied") as refused:
        extract(encoders, Images(4), lambda _: ["consumed"], store=store)
    assert "VISPROBE_CACHE" in refused.value.hint


def test_a_cache_that_cannot_be_made_ends_before_anything_is_loaded(tmp_path, unwritable):
    unwritable(tmp_path)
    with pytest.raises(PrerequisiteError, match="the folder is not there and cannot be made"):
        FeatureStore(tmp_path / "features").check()
