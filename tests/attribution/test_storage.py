"""Maps on disk: bit equality after a round trip, hostile names, the same bytes twice, and files that are none."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_attributions import KEY, noise, planted

from visprobe.attribution.attributions import Attributions
from visprobe.attribution.map import Map
from visprobe.attribution.storage import load, save
from visprobe.errors import DataError

NAMES = ("base", "sft/../α β\n\"'", "maps_0")


def varied():
    """Images of different grids, missing regions, two methods, notes; a control with one of the methods."""
    grids, rng = [(4, 6), (1, 1), (3, 3)], np.random.default_rng(0)

    def maps(key, delta):
        values = [torch.from_numpy(rng.standard_normal(grid).astype(np.float32)) for grid in grids]
        return [Map(one, 0.1 * n, *key, "ü"[:n], delta) for n, one in enumerate(values)]

    pixels = ("integrated-gradients", "pixels")
    found = {name: {KEY: maps(KEY, None), pixels: maps(pixels, 1e-300)} for name in NAMES}
    found["randomised"] = {KEY: maps(KEY, None)}
    regions = (rng.random((4, 6)), None, rng.random((6, 3)))
    return Attributions(NAMES, ("centre", "randomised"), found, regions, ("a/b.png", "ä", "a/b.png"))


def test_everything_comes_back_bit_for_bit(tmp_path):
    given = varied()
    save(given, tmp_path / "deep" / "maps.npz")
    found = load(tmp_path / "deep" / "maps.npz")
    assert (found.names, found.controls, found.images) == (given.names, given.controls, given.images)
    assert list(found.maps) == list(given.maps)
    for name, own in given.maps.items():
        assert list(found.maps[name]) == list(own)
        for key, maps in own.items():
            for one, other in zip(found.maps[name][key], maps, strict=True):
                assert torch.equal(one.values, other.values) and one.values.dtype == torch.float32
                assert (one.score, one.method, one.site, one.note, one.delta) == (
                    other.score, other.method, other.site, other.note, other.delta
                )  # fmt: skip
    for one, other in zip(found.regions, given.regions, strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)


def test_names_hold_no_secrets_and_stay_different(tmp_path):
    """What only a secret tells apart are still two images, or copies that are one and were counted as such."""
    given, (one, other) = varied(), ("hf_" + letter * 20 for letter in "ab")
    images, ids = (f"{one}/x.png", f"{other}/x.png", f"{one}/x.png"), ("a", f"{one}/y.png", f"{one}/x.png")
    save(replace(given, images=images, ids=ids), tmp_path / "maps.npz")
    found = load(tmp_path / "maps.npz")
    assert found.images == ("[redacted]/x.png", "[redacted]/x.png (2)", "[redacted]/x.png")
    assert found.ids == ("a", "[redacted]/y.png", "[redacted]/x.png")


def test_the_same_maps_give_the_same_bytes_and_plain_numpy_reads_them(tmp_path):
    save(varied(), tmp_path / "one.npz")
    save(varied(), tmp_path / "two")  # no ending is put behind a name
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        assert about["names"] == list(NAMES) and len(file["maps_0"]) == 24 + 1 + 9
    assert {path.name for path in tmp_path.iterdir()} == {"one.npz", "two"}


def _changed(data, change):
    """The archive with its "about" changed."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes())
    change(about)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def _pickled(_):
    out = io.BytesIO()
    np.save(out, np.array([{"layout": 1}], dtype=object), allow_pickle=True)
    return _zipped(about=out.getvalue())


def _array(_):
    out = io.BytesIO()
    np.save(out, np.zeros(3))
    return out.getvalue()


FAULTS = {
    "empty": (lambda data: b"", "is damaged, or holds no maps"),
    "half": (lambda data: data[: len(data) // 2], "is damaged, or holds no maps"),
    "text": (lambda data: b"maps", "is damaged, or holds no maps"),
    "pickle": (_pickled, "is damaged, or holds no maps"),
    "other archive": (lambda data: _zipped(x=b""), "is damaged, or holds no maps"),
    "plain array": (_array, "is damaged, or holds no maps"),
    "flipped": (lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:], "is damaged, or holds no maps"),
    "other layout": (lambda data: _changed(data, lambda a: a.update(layout=2)), "was written in layout 2"),
    "other size": (lambda data: _changed(data, lambda a: a["regions"].__setitem__(0, [4, 4])), "values where 34 are"),
    "other names": (lambda data: _changed(data, lambda a: a.update(names=["x"])), "is damaged, or holds no maps"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_none_says_so(tmp_path, fault):
    path = tmp_path / "maps.npz"
    save(varied(), path)
    change, message = FAULTS[fault]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        load(path)


def test_no_file_says_so(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        load(tmp_path / "maps.npz")


def test_a_large_comparison_is_small_on_disk(tmp_path):
    """Three checkpoints of 200 images of 24x24 patches: 1.4 MB of float32, and little beside them."""
    save(planted({name: noise(200, n, 24) for n, name in enumerate(NAMES)}), tmp_path / "maps.npz")
    assert (tmp_path / "maps.npz").stat().st_size < 1.05 * 3 * 200 * 24 * 24 * 4


def test_200_flipped_bits_are_noticed_or_change_nothing(tmp_path):
    path = tmp_path / "maps.npz"
    save(varied(), path)
    whole, given = path.read_bytes(), repr(load(path))
    draw = np.random.default_rng(0)
    for place, bit in zip(draw.integers(0, len(whole), 200), draw.integers(0, 8, 200), strict=True):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(bit)
        path.write_bytes(damaged)
        try:
            found = load(path)
        except DataError:
            continue
        assert repr(found) == given
