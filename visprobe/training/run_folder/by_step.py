"""Files of a run's folder that grow by step: JSON lines, checkpoints and copies of the vision tower."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from visprobe.io.atomic import remove_leftovers, write_text

CHECKPOINTS = "checkpoints"  # to resume from; the last one stays
COMPLETE = "complete"  # empty file that marks a completely written checkpoint
METRICS = "metrics.jsonl"
DYNAMICS = "dynamics.jsonl"
ATTRIBUTION = "attribution"  # .jsonl: numbers; .npz: all maps; the folder: a figure per step
SNAPSHOTS = "snapshots"
_SNAPSHOT = re.compile(r"step-(\d+)")


def snapshots(folder: Path) -> dict[int, Path]:
    """Return the saved copies of vision tower and projector in a run's folder, by step, in order."""
    found = {path: _SNAPSHOT.fullmatch(path.name) for path in (folder / SNAPSHOTS).glob("step-*")}
    return dict(sorted((int(name[1]), path) for path, name in found.items() if name))


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the folder for the copy of a step."""
    return folder / SNAPSHOTS / f"step-{step:06d}"


def map_figure(folder: Path, step: int) -> Path:
    """Return the file for the figure of a step's maps."""
    return folder / ATTRIBUTION / f"step-{step:06d}.png"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines up to a line cut short by a kill; empty if there is no file."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Append `line` as strict JSON; a non-finite number (the gradient norm of a skipped step) becomes null."""
    strict = {key: None if value != value or value in (math.inf, -math.inf) else value for key, value in line.items()}
    with path.open("a") as file:
        file.write(json.dumps(strict, allow_nan=False) + "\n")


def forget_after(folder: Path, step: int) -> None:
    """Remove from a run's folder all that belongs to steps after `step`, left by another run or about to be repeated.

    Args:
        folder: The run's folder.
        step: Step that training resumes from; 0 at a new start.
    """
    for path in (folder / METRICS, folder / DYNAMICS, folder / f"{ATTRIBUTION}.jsonl"):
        kept = [line for line in read_lines(path) if 0 < step >= line["step"]]
        if path.is_file():
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    for number, copy in snapshots(folder).items():
        if number > step:
            shutil.rmtree(copy)
    for figure in (folder / ATTRIBUTION).glob("step-*.png"):
        if (name := _SNAPSHOT.fullmatch(figure.stem)) and int(name[1]) > step:
            figure.unlink()
    if step == 0:  # otherwise the callback that rewrites it drops later steps itself
        (folder / f"{ATTRIBUTION}.npz").unlink(missing_ok=True)
    for place in (folder, folder / SNAPSHOTS, folder / ATTRIBUTION):
        remove_leftovers(place)
