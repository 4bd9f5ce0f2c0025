"""Large images: read again instead of kept, decoded smaller, few at a time."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from visprobe.data import image_set
from visprobe.data.image_set import LARGE, decode, pixels_in
from visprobe.errors import DataError
from visprobe.features import extract as module
from visprobe.features.extract import extract
from visprobe.features.in_flight import ROOM, Room, memory_of
from visprobe.features.store import FeatureStore


def encoded(image, kind, **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def scene(width, height, mode="RGB"):
    """Smooth colours with a bright corner, so that a turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 97], axis=-1).astype(np.uint8)
    pixels[: height // 4, : width // 4] = 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize(
    "kind, mode", [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "RGB"), ("TIFF", "CMYK")]
)
def test_a_large_image_is_read_smaller_and_looks_the_same(monkeypatch, kind, mode):
    monkeypatch.setattr(image_set, "LARGE", 50_000)
    monkeypatch.setattr(image_set, "_KEPT", 20_000)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(scene(401, 307, mode), kind, exif=exif)
    whole, small = decode(data), decode(data, reduced=True)
    assert whole.size == (307, 401) and small.mode == "RGB"
    assert 4_000 <= small.width * small.height <= 20_000
    one, other = (np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), float) for image in (whole, small))
    assert np.abs(one - other).mean() < 3  # grey values of 255: edges lie half a pixel apart


def test_an_image_that_is_not_large_is_decoded_as_it_is():
    data = encoded(scene(40, 30), "PNG")
    assert np.array_equal(decode(data, reduced=True), decode(data))


def test_memory_counts_the_file_and_its_pixels():
    data = encoded(scene(400, 300), "PNG")
    assert pixels_in(data) == 120_000
    assert memory_of(data) == len(data) + 14 * 120_000
    assert pixels_in(b"no image") == 0
    assert memory_of(encoded(Image.new("L", (8000, 8000)), "PNG")) < ROOM
    assert memory_of(encoded(Image.new("L", (5000, LARGE // 5000)), "PNG")) <= 1.01 * ROOM


def test_who_needs_more_than_is_left_waits_and_who_needs_all_works_alone():
    room, inside, most = Room(10), [], []

    def work(needed):
        with room.taken(needed):
            inside.append(needed)
            most.append(sum(inside))
            time.sleep(0.01)
            inside.remove(needed)

    threads = [threading.Thread(target=work, args=(needed,)) for needed in (4, 4, 4, 25, 6, 10, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 7
    assert all(held <= 10 or held == 25 for held in most)


class Files:
    """Images held in memory that count how often they are read."""

    name, classes = "made", None

    def __init__(self, files):
        self.files, self.reads = files, []

    @property
    def items(self):
        return [image_set.Item(str(number)) for number in range(len(self.files))]

    def read(self, index):
        self.reads.append(index)
        return self.files[index]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from visprobe.demo.small_llava import build_model, build_processor
    from visprobe.encoders.load import load_encoder

    folder, processor = tmp_path_factory.mktemp("checkpoint"), build_processor()
    build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return load_encoder(folder)


def test_large_files_are_read_again_and_give_the_same_features(encoder, tmp_path, monkeypatch):
    files = [encoded(scene(40 + n, 30), "PNG") for n in range(5)]
    kept = extract([encoder], Files(files), lambda _: ["consumed"], store=FeatureStore(tmp_path / "a"))
    monkeypatch.setattr(module, "KEPT", len(files[2]) - 1)
    images = Files(files)
    again = extract([encoder], images, lambda _: ["consumed"], store=FeatureStore(tmp_path / "b"))
    large = [n for n, file in enumerate(files) if len(file) >= len(files[2])]
    assert sorted(images.reads) == sorted([*range(5), *large])
    assert np.array_equal(kept.features[0].sites[encoder.consumed], again.features[0].sites[encoder.consumed])


def test_a_large_file_that_changes_meanwhile_ends_the_pass(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 10)
    images = Files([encoded(scene(40, 30), "PNG")])
    images.read = lambda index: images.reads.append(index) or images.files[0] + bytes([len(images.reads)])
    with pytest.raises(DataError, match="changed while the images were read"):
        extract([encoder], images, lambda _: ["consumed"], store=FeatureStore(tmp_path / "a"))
