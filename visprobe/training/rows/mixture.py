"""Mixtures of JSON files in LLaVA-NeXT's notation: a YAML list with sampling, or names in braces."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprobe.data.rows import Rows
from visprobe.errors import DataError, UsageError
from visprobe.io.regular import read_text
from visprobe.io.yaml_text import yaml_value
from visprobe.training.rows.combine import Concatenated, Selected
from visprobe.training.rows.llava import llava_json

_BRACES = re.compile(r"(.*)\{(.*)\}(\.jsonl?)")
_STRATEGY = re.compile(r"(first|end|random):(\d+)(%?)")


def is_braces(spec: str) -> bool:
    """Return whether `spec` names several JSON files: "folder/{a,b}.json"."""
    return _BRACES.fullmatch(spec) is not None


def mixture(spec: str, images: Path | None = None, *, seed: int = 0) -> Concatenated:
    """Open the rows of several JSON files.

    Args:
        spec: "folder/{a,b}.json", or a YAML file with `datasets: [{json_path, sampling_strategy}]`, where the
            strategy is all, first:N, end:N or random:N and N is a number or a percentage, rounded up. A relative
            `json_path` starts from the folder of the YAML file or, if there is no such file, from the working
            directory.
        images: Folder that the image paths start from; by default the folder of each JSON file.
        seed: Seed of the random samples; each entry draws its own.

    Returns:
        The rows of each entry in turn.

    Raises:
        DataError: If a file cannot be read.
        UsageError: If the YAML has no list `datasets`, or a strategy is unknown.
    """
    braces = _BRACES.fullmatch(spec)
    if braces:
        before, names, suffix = braces.groups()
        parts: list[Rows] = [llava_json(Path(f"{before}{name.strip()}{suffix}"), images) for name in names.split(",")]
        return Concatenated(spec, parts)
    path = Path(spec)
    entries = [_entry(entry, path) for entry in _entries(path)]
    # A seed per entry: changing one entry leaves the samples of the others alone.
    drawn = [_draw(llava_json(_find(path, name), images), how, (seed, i)) for i, (name, how) in enumerate(entries)]
    return Concatenated(path.name, drawn)


def _entries(path: Path) -> list[Any]:
    try:
        content = yaml_value(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", hint="Check the path and the YAML syntax.") from error
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"{path} has no list `datasets`", hint="Write datasets: [{json_path: …, sampling_strategy: all}]."
        )
    return entries


def _entry(entry: Any, path: Path) -> tuple[str, str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("json_path"), str):
        raise UsageError(f"{path}: an entry of `datasets` has no json_path", hint=f"The entry is {str(entry)[:100]}.")
    strategy = str(entry.get("sampling_strategy", "all"))
    if strategy != "all" and not _STRATEGY.fullmatch(strategy):
        raise UsageError(
            f"{path}: unknown sampling_strategy {strategy!r}",
            hint="Write all, first:N, end:N or random:N; N may be 10%.",
        )
    return entry["json_path"], strategy


def _find(mix: Path, name: str) -> Path:
    beside = mix.parent / name
    return beside if beside.is_file() else Path(name)


def _draw(rows: Rows, strategy: str, seed: tuple[int, int]) -> Rows:
    match = _STRATEGY.fullmatch(strategy)
    return Selected(rows, _indices(match, len(rows), seed)) if match else rows


def _indices(strategy: re.Match[str], total: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    how, number, percent = strategy.groups()
    count = min(total, math.ceil(int(number) * total / 100) if percent else int(number))
    if how == "random":
        return np.random.default_rng(seed).permutation(total)[:count]
    return np.arange(count) if how == "first" else np.arange(total - count, total)
