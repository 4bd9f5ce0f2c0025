"""Self-check of the whole pipeline with the packaged base: a planted change of an encoder must be found in place."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from visprobe.demo.base import BASE
from visprobe.errors import VisprobeError
from visprobe.pipelines.compare import compare
from visprobe.pipelines.measurement import Options
from visprobe.report.write import write_report

IMAGES = 32
_BLOCK = 2  # index from 0 of the changed block; its output is the site block_03
_SCALE = 0.05
_SAME = 1e-6  # largest distance of CKA from 1 by float32 rounding


def self_check() -> float:
    """Compare the packaged base with a copy in which one block of the vision tower was changed.

    Returns:
        CKA after the changed block, below 1.

    Raises:
        VisprobeError: If CKA drops before the changed block or not after it, or the report is not written.
    """
    with TemporaryDirectory(prefix="visprobe-check-") as scratch:
        changed = _changed_copy(Path(scratch) / "changed")
        options = Options(limit=IMAGES, store=Path(scratch) / "features", device="cpu", analyses=("drift",))
        measured = compare([BASE, changed], "digits", options)
        page = write_report(Path(scratch) / "report", measured.document(["visprobe", "doctor"]))
        rows = measured.results[0].select(checkpoint="changed", measure="cka", role="value")
        cka = {row.site: row.estimate.value for row in rows}
        before, behind = cka[f"block_{_BLOCK:02d}"], cka[f"block_{_BLOCK + 1:02d}"]
        if abs(1 - before) > _SAME or 1 - behind < 10 * _SAME or not page.is_file():
            raise VisprobeError(
                f"a planted change gave CKA {before} before its place and {behind} behind it",
                hint="Reinstall visprobe with the versions in constraints.txt, and report this.",
            )
    return behind


def _changed_copy(folder: Path) -> Path:
    shutil.copytree(BASE, folder)
    file = folder / "model.safetensors"
    weights, generator = load_file(file), torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if f"vision_tower.encoder.layers.{_BLOCK}." in name:
            weights[name] = (weight + _SCALE * torch.randn(weight.shape, generator=generator)).to(weight.dtype)
    save_file(weights, file, metadata={"format": "pt"})
    return folder
