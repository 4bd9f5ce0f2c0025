"""The base of the demo is the one that was asked for, whatever an earlier call has left."""

from visprobe.report.demo import _base
from visprobe.training import base
from visprobe.training.manifest import weights_hash


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
