"""Manifest of a training run: hashes, versions and times, enough to repeat it and compare it with others."""

from __future__ import annotations

import hashlib
import platform
import resource
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from visprobe import __version__

NAME = "manifest.json"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_hash(folder: Path) -> str:
    """Return the SHA-256 over the weight files of a checkpoint folder, by name and content."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(f"{f.name} {file_hash(f)}\n" for f in files).encode()).hexdigest()


def settings_hash(folder: Path) -> str:
    """Return the SHA-256 over a checkpoint folder's configuration, tokenizer and chat template."""
    kinds = {".json", ".jinja", ".txt", ".model", ".bin"}
    files = sorted(f for f in folder.glob("*") if f.suffix in kinds and f.name != NAME)
    return hashlib.sha256("".join(f"{f.name} {file_hash(f)}\n" for f in files).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """Return versions and platform that can change a number; None for a package that is not installed."""
    packages = ("torch", "torchvision", "transformers", "tokenizers", "trl", "peft", "accelerate", "pillow", "numpy")
    return {
        "visprobe": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Clock:
    """Wall time, processor time and peak memory of a run, from its making to `read`."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC)
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, Any]:
        """Return start (UTC, ISO 8601), wall and CPU time in seconds, and peak resident memory in MiB."""
        return {
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - self._wall, 1),
            "cpu_seconds": round(time.process_time() - self._cpu, 1),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
