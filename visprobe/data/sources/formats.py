"""Suffixes and formats of images that Pillow reads here, and advice for those it does not read."""

from __future__ import annotations

import contextlib
import importlib

from PIL import Image

_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_avif": "", "pillow_jxl": ""}  # module: its register function
# Data and film containers that Pillow lists but does not decode, and drawings that need another program.
_NOT_PICTURES = {"BUFR", "GRIB", "HDF5", "FITS", "MPEG", "EPS", "WMF", "FLI", "IPTC"}
_HEIF, _RAW = "install it with: pip install pillow-heif", "convert raw files to JPEG or PNG"
_ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".hif"), _HEIF),
    **dict.fromkeys((".avif", ".avifs"), "install it with: pip install pillow-avif-plugin"),
    ".jxl": "install it with: pip install pillow-jxl-plugin",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw", ".raw"), _RAW),
    **dict.fromkeys((".svg", ".svgz", ".eps", ".ps", ".ai", ".wmf", ".emf"), "render drawings to PNG"),
    **dict.fromkeys((".exr", ".hdr", ".xcf", ".psb", ".dcm", ".fit", ".fits"), "convert it to PNG"),
}


def _registered() -> tuple[tuple[str, ...], frozenset[str]]:
    for module, register in _PLUGINS.items():
        with contextlib.suppress(ImportError):
            plugin = importlib.import_module(module)
            if register:
                getattr(plugin, register)()
    suffixes = Image.registered_extensions()  # loads all of Pillow's own plugins
    formats = tuple(name for name in Image.OPEN if name not in _NOT_PICTURES)
    opened = {*formats, "MPO"}  # MPO, several JPEGs in one file, has no opener of its own
    return formats, frozenset({".mpo"} | {suffix for suffix, name in suffixes.items() if name in opened})


FORMATS, SUFFIXES = _registered()
UNREADABLE = {suffix: advice for suffix, advice in _ADVICE.items() if suffix not in SUFFIXES}
LOOKS = SUFFIXES | UNREADABLE.keys()  # listed as images, and counted as damaged if unreadable


def unreadable(data: bytes) -> str:
    """Return why Pillow does not know the format of an image file, with advice, from its first bytes."""
    brand, head = (data[8:12] if data[4:8] == b"ftyp" else b""), data[:1024].lower()
    if brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
        return f"HEIC, which Pillow reads with a plugin: {_HEIF}"
    if brand in (b"avif", b"avis"):
        return f"AVIF, which this Pillow does not read: {_ADVICE['.avif']}"
    if data.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return f"JPEG XL, which Pillow reads with a plugin: {_ADVICE['.jxl']}"
    return f"a drawing, not pixels: {_ADVICE['.svg']}" if b"<svg" in head else "not an image of a known format"
