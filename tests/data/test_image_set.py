"""Decoding: what is an image, what is not, and what is too much."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import MAX_PIXELS, BadImage, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind):
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(PIXELS), kind))), PIXELS)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    image = Image.fromarray(PIXELS)
    image = Image.new("I;16", (30, 20), 700) if mode == "I;16" else image.convert(mode)
    done = decode(encoded(image, "TIFF" if mode in {"CMYK", "I;16"} else "PNG"))
    assert (done.mode, done.size) == ("RGB", (30, 20))


def test_sixteen_bits_become_eight_instead_of_white():
    values = np.arange(0, 60_000, 100, dtype=np.uint16).reshape(20, 30)
    done = np.asarray(decode(encoded(Image.fromarray(values), "PNG")))
    assert np.array_equal(done[..., 0], values >> 8)
    with pytest.raises(BadImage, match="mode F"):
        decode(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(10))
def test_exif_rotation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Where row 0 and column 0 of the file lie on the upright image, by the EXIF standard, 4.6.4.
    rotations = {2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (-1, False), 7: (-1, True), 8: (1, False)}
    turns, mirrored = rotations.get(orientation, (0, False))
    expected = np.rot90(PIXELS[:, ::-1] if mirrored else PIXELS, turns)
    assert np.array_equal(np.asarray(decode(encoded(Image.fromarray(PIXELS), "PNG", exif=exif))), expected)


def test_every_truncation_of_a_jpeg_is_caught():
    data = encoded(Image.fromarray(PIXELS), "JPEG")
    for length in range(0, len(data) - 2, 7):
        with pytest.raises(BadImage):
            decode(data[:length])


def test_more_than_64_megapixels_is_refused_from_the_header_alone():
    assert MAX_PIXELS == 64_000_000
    for side in (8_001, 9_600, 50_000):  # above ours; above Pillow's warning; above Pillow's error
        with pytest.raises(BadImage, match="more than 64 Mpx"):
            decode(png_header(side, side))
    with pytest.raises(BadImage, match=r"truncated|broken|OSError"):
        decode(png_header(7_999, 8_000))  # small enough to be tried


@pytest.mark.parametrize("data", [b"", b"no image", b"%PDF-1.4", b"GIF89a"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(BadImage, match=r"known format|Error"):
        decode(data)


def test_a_strip_is_refused_from_the_header_alone():
    assert decode(encoded(Image.new("RGB", (1, 200)), "PNG")).size == (1, 200)
    for size in ((1, 201), (50_000, 2)):
        with pytest.raises(BadImage, match="more than 200 times as long as wide"):
            decode(png_header(*size))
