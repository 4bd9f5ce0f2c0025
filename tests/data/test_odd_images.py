"""The odd files of large image sets, ImageNet's among them, decode to the colours they show."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import BadImage, decode
from visprobe.data.open import open_images

RED, SIZE = (200, 40, 30), (16, 16)
# JPEG at quality 95 keeps a flat colour to the rounding of its three or four planes and of the conversion.
JPEG_ROUNDING = 3


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour(data):
    pixels = np.asarray(decode(data)).astype(int)
    assert pixels.shape == (*SIZE, 3)
    assert (pixels == pixels[0, 0]).all()
    return pixels[0, 0]


def test_cmyk_jpeg_as_adobe_writes_it_inverted():
    inks = (20, 180, 200, 30)
    data = encoded(Image.new("CMYK", SIZE, inks), "JPEG", quality=95)
    assert b"Adobe" in data
    shown = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
    assert np.abs(colour(data) - shown).max() <= JPEG_ROUNDING


def test_grey_jpeg_and_jpeg_of_a_flat_colour():
    assert np.abs(colour(encoded(Image.new("L", SIZE, 77), "JPEG", quality=95)) - 77).max() <= JPEG_ROUNDING
    assert np.abs(colour(encoded(Image.new("RGB", SIZE, RED), "JPEG", quality=95)) - RED).max() <= JPEG_ROUNDING


def test_the_content_counts_and_not_the_suffix(tmp_path):
    (tmp_path / "n02105855_2933.JPEG").write_bytes(encoded(Image.new("RGB", SIZE, RED), "PNG"))
    assert (colour(open_images(str(tmp_path)).query.read(0)) == RED).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so on opening
def test_broken_exif_does_no_harm(exif):
    data = encoded(Image.new("RGB", SIZE, RED), "JPEG", quality=95)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert np.abs(colour(data[:2] + segment + data[2:]) - RED).max() <= JPEG_ROUNDING


def test_sixteen_bits_of_grey_and_of_colour():
    assert (colour(encoded(Image.new("I;16", SIZE, 200 << 8 | 99), "PNG")) == 200).all()
    row = b"\0" + struct.pack(">HHH", *(value << 8 | 7 for value in RED)) * SIZE[0]
    head = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(row * SIZE[1])), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    assert (colour(b"\x89PNG\r\n\x1a\n" + body) == RED).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palettes_with_transparency_show_their_colours(kind):
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED])
    assert (colour(encoded(image, kind, transparency=0)) == RED).all()
    assert (colour(encoded(image, kind)) == RED).all()


def test_transparency_is_dropped_and_the_colour_beneath_kept():
    assert (colour(encoded(Image.new("RGBA", SIZE, (*RED, 0)), "PNG")) == RED).all()
    assert (colour(encoded(Image.new("LA", SIZE, (90, 10)), "PNG")) == 90).all()


def test_a_moving_gif_is_its_first_image():
    frames = [Image.new("RGB", SIZE, c) for c in (RED, (0, 0, 255))]
    assert (colour(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])) == RED).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM"])
def test_one_pixel(kind):
    assert np.asarray(decode(encoded(Image.new("RGB", (1, 1), RED), kind))).tolist() == [[list(RED)]]


def test_heic_with_its_plugin_is_upright(tmp_path):
    pytest.importorskip("pillow_heif")
    image = Image.new("RGB", SIZE, RED)
    image.paste((0, 0, 255), (0, 0, 4, 16))
    turned = Image.Exif()
    turned[0x0112] = 6  # what is left is shown above
    (tmp_path / "1.heic").write_bytes(encoded(image, "HEIF", quality=-1, exif=turned.tobytes()))
    shown = np.asarray(decode(open_images(str(tmp_path)).query.read(0))).astype(int)
    assert np.abs(shown[:3] - (0, 0, 255)).max() <= JPEG_ROUNDING
    assert np.abs(shown[5:] - RED).max() <= JPEG_ROUNDING


def test_heic_without_its_plugin_says_what_to_install(tmp_path, monkeypatch):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    monkeypatch.setattr("visprobe.data.image_set.FORMATS", ("PNG", "JPEG"))
    (tmp_path / "1.jpg").write_bytes(data)
    with pytest.raises(BadImage, match=r"HEIC, .*pip install pillow-heif"):
        decode(open_images(str(tmp_path)).query.read(0))
