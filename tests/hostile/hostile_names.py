"""Names that are hostile, images and checkpoints that have them, and the command line inside the test process."""

import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from visprobe.demo.scenes import DigitScenes

# As parts of paths: no slash and no NUL; at most 255 bytes of UTF-8 with an ending behind them.
NAMES = (
    "<script>alert(1)<script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt;&#x41;]]><!--",
    "{{7*7}}{% raw %}",
    "%s%n%99999999d",
    "=cmd|' !A0",
    "+1+1",
    "-2+3",
    "--help",
    "@SUM(1)",
    " =1+1",
    "＝1+1",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http:x\x07link",
    "\x9b2Jc1\x01\x7f",
    "evil\u202egpj\u2066.exe",
    "line\nfeed\r\ttab",
    "sep\u2028ara\u2029tor",
    "[red]x[link=x] [[bold",
    "up..",
    "$(touch pwned)`id`",
    "🙈\u200d👩猫e\u0301",
    "Name",
    "name",
    os.fsdecode(b"bad\xff\xfebytes"),
    "n" * 255,
)
TEXTS = (*NAMES[:24], "</script></style></title><svg onload=alert(1)>", "../../up", "}] [[/link]")


class Ran(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments):
    """Run `visprobe` with these arguments; colours are on."""
    from visprobe.cli.app import main

    out, err, before, hook, argv = StringIO(), StringIO(), signal.getsignal(signal.SIGTERM), sys.excepthook, sys.argv
    sys.argv = ["visprobe", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
            main()
    finally:
        sys.argv, sys.excepthook = argv, hook
        signal.signal(signal.SIGTERM, before)
    return Ran(int(left.value.code or 0), out.getvalue(), err.getvalue())


def as_file(name, ending=".png"):
    """`name` as a file name of at most 255 bytes."""
    return os.fsdecode(os.fsencode(name)[: 255 - len(ending)]) + ending


def make_images(root):
    scenes = DigitScenes("train", 4 * len(NAMES) + 20)
    numbers = iter(range(len(scenes.items)))
    for split in ("train", "val"):
        for name in NAMES:
            place = root / "data" / split / name
            place.mkdir(parents=True)
            for stem in (name, f"second{name}"):
                Image.fromarray(scenes.scene(next(numbers)).image).save(place / as_file(stem))
    (root / "data" / "val" / NAMES[0] / as_file(NAMES[1])).write_bytes(b"no image")
    (root / "flat").mkdir()
    for name in NAMES:
        os.link(root / "data" / "val" / name / as_file(name), root / "flat" / as_file(name))
    for split, count in (("train", 6), ("val", 6)):
        for kind in ("images", "masks"):
            (root / "masked" / kind / split).mkdir(parents=True)
        for name in NAMES[:count]:
            scene = scenes.scene(next(numbers))
            Image.fromarray(scene.image).save(root / "masked" / "images" / split / as_file(name))
            Image.fromarray((scene.masks > 0).astype(np.uint8)).save(root / "masked" / "masks" / split / as_file(name))
    (root / "masked" / "classes.txt").write_text(f"{TEXTS[1]}\n{TEXTS[-3]}\n")


def make_models(root):
    from visprobe.demo.base import BASE

    for number, name in enumerate((NAMES[1], NAMES[13] + NAMES[16], NAMES[5])):
        place = root / name
        place.mkdir(parents=True)
        for file in Path(BASE).iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        if number:
            move(place / "model.safetensors", number)
    (root / "broken\x1b[2J").mkdir()
    (root / "broken\x1b[2J" / "config.json").write_text(json.dumps({"model_type": "<script>\x1b[31m[red]"}))
    (root / "broken\x1b[2J" / "model.safetensors").write_bytes(b"\0" * 8)


def move(file, seed):
    """Change the tower of a checkpoint a little."""
    from safetensors.torch import load_file, save_file

    tensors, generator = load_file(file), torch.Generator().manual_seed(seed)
    for key, value in tensors.items():
        if "vision" in key and value.ndim > 1:
            value += 0.02 * torch.randn(value.shape, generator=generator).to(value.dtype)
    save_file(tensors, file, metadata={"format": "pt"})
