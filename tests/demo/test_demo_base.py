"""The base of the demo is the one that was asked for, whatever an earlier call has left."""

import pytest

from visprobe.demo import base
from visprobe.demo import run as module
from visprobe.demo.run import _base, demo
from visprobe.errors import UsageError
from visprobe.training.run_folder.manifest import weights_hash


def test_a_base_trained_from_nothing_replaces_the_one_that_ships(tmp_path, monkeypatch):
    trained = []

    def train_base(folder, seed, progress):
        trained.append(seed)
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text("{}")

    monkeypatch.setattr(base, "train_base", train_base)
    folder = tmp_path / "base"
    for from_scratch, seed in ((False, 0), (False, 1), (True, 1), (True, 1), (True, 2)):
        _base(folder, from_scratch, seed, None)
    assert trained == [1, 2]
    _base(folder, False, 0, None)
    assert weights_hash(folder) == weights_hash(base.BASE)


def test_a_demo_overwrites_its_own_runs_and_no_others(tmp_path, monkeypatch):
    (tmp_path / "mine" / "sft").mkdir(parents=True)
    with pytest.raises(UsageError, match="mine holds sft, which are no demo's"):
        demo(tmp_path / "mine", fast=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["sft"]

    def run_study(study, output_dir, progress, overwrite):
        (output_dir / "sft").mkdir(exist_ok=True)
        return overwrite

    monkeypatch.setattr(module, "run_study", run_study)
    assert [demo(tmp_path / "demo", fast=fast, seeds=2) for fast in (True, False)] == [True, True]
