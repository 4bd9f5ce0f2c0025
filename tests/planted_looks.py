"""Planted attribution: maps that lie on a region, the better the later the checkpoint."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.faithful import faithfulness
from visprobe.attribution.evidence.faithfulness import Curves
from visprobe.attribution.evidence.scores import score
from visprobe.attribution.figures.contrast import contrast_sheet
from visprobe.attribution.figures.difference import differences
from visprobe.attribution.figures.sheet import Sheet
from visprobe.attribution.figures.sheet_json import sheet_json
from visprobe.attribution.map import Map
from visprobe.results.result import Estimate, Result, Row

IMAGES, SIDE = 12, 4
METHOD, SITE = "gradcam", "block_06"


def planted_looks(checkpoints: tuple[str, ...]) -> dict[str, Result]:
    draws = np.random.default_rng(0)
    noise = draws.standard_normal((IMAGES, SIDE, SIDE))
    region = np.zeros((SIDE, SIDE))
    region[:2, 1:3] = 1
    found = {name: _maps(noise + (2 + n) * region) for n, name in enumerate(checkpoints)}
    controls = {"randomised": {(METHOD, SITE): _maps(draws.standard_normal(noise.shape))}}
    every = {**{name: {(METHOD, SITE): maps} for name, maps in found.items()}, **controls}
    names = [f"image {n}" for n in range(IMAGES)]
    scores = score(Attributions(checkpoints, (CENTRE, "randomised"), every, [region] * IMAGES, names))
    asked = {"explains": "log-probability of the answer", "target": "answer", "base": checkpoints[0]}
    sheet = Sheet([Image.new("RGB", (32, 32), (90, 60, 30))] * 2, checkpoints[-2:] * 1 if len(checkpoints) > 1 else
                  ["one", "two"], {name: maps[:2] for name, maps in found.items()}, "nats", 0, IMAGES)  # fmt: skip
    one = sheet.maps[checkpoints[0]]
    three = contrast_sheet(sheet.pictures, sheet.titles, one, one, one, "nats")
    exact = Estimate(-1.5, -1.5, -1.5, 1, "nats", "exact")
    shown = tuple(Row(name, f"{METHOD}@{SITE}", "score/image 0", exact) for name in checkpoints)
    apart = differences(sheet) if len(checkpoints) > 1 else sheet
    strip = {**asked, "sheet": sheet_json(sheet.part(0, 1)), "steps": list(range(len(checkpoints)))}
    return {
        **{f"map_strip_{n}": Result(f"map_strip_{n}", "When?", (), strip) for n in range(1, 5)},
        "attribution": scores,
        "faithfulness": _faithfulness(checkpoints, names),
        "maps": Result("maps", "Where does each look?", shown, {**asked, "sheet": sheet_json(sheet)}),
        "map_differences": Result("map_differences", "Where more?", (), {**asked, "sheet": sheet_json(apart)}),
        "map_contrast": Result(
            "map_contrast", "What for?", (), {"checkpoint": checkpoints[-1], "sheet": sheet_json(three)}
        ),
    }


def _maps(arrays: np.ndarray) -> list[Map]:
    return [Map(torch.tensor(one, dtype=torch.float32), float(n) - 3, METHOD, SITE) for n, one in enumerate(arrays)]


def _faithfulness(checkpoints: tuple[str, ...], names: list[str]) -> Result:
    draws, fractions = np.random.default_rng(1), tuple(np.linspace(0, 1, 5).tolist())
    curves = {}
    for n, name in enumerate(checkpoints):
        curves[name] = [
            Curves(fractions, *(tuple(np.add(line, 0.1 * draws.standard_normal(5)).tolist()) for line in (
                [1, 0.4, 0.2, 0.1, 0], [0, 0.6 + 0.1 * n, 0.8, 0.9, 1], [1, 0.7, 0.5, 0.3, 0])))
            for _ in names
        ]  # fmt: skip
    return faithfulness(curves, names, METHOD, SITE, "nats", "mean")
