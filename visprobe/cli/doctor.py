"""`visprobe doctor`: is this machine ready, and if not, what is to be done."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import distributions, version
from typing import NamedTuple

import typer
from rich.console import Console
from rich.markup import escape

import visprobe


class Check(NamedTuple):
    """One line of the doctor: whether it is well, what was found, what to do."""

    well: bool
    found: str
    advice: str = ""


def command() -> None:
    """Check the installation: versions, devices, faiss, training extra, feature store.

    Example: visprobe doctor
    """
    console = Console()
    results = [check() for check in CHECKS]
    for result in results:
        mark = "[green]ok[/]  " if result.well else "[red]look[/]"
        console.print(f"{mark} {escape(result.found)}", highlight=False, soft_wrap=True)
        if result.advice:
            console.print(f"     {escape(result.advice)}", highlight=False, soft_wrap=True)
    if not all(result.well for result in results):
        raise typer.Exit(4)


def _versions() -> Check:
    packages = ("torch", "transformers", "safetensors", "datasets")
    found = ", ".join(f"{package} {version(package)}" for package in packages)
    return Check(True, f"visprobe {visprobe.__version__}, Python {platform.python_version()}, {found}")


def _owner() -> Check:
    """Another project on the package index has the same name; both installed at once overwrite each other."""
    names = {d.version for d in distributions() if (d.metadata["Name"] or "").lower() == "visprobe"}
    if names <= {visprobe.__version__}:
        return Check(True, f"the package visprobe is this one, at {visprobe.__path__[0]}")
    return Check(
        False,
        f"distributions named visprobe: {', '.join(sorted(names))}; this one is {visprobe.__version__}",
        "Another project has the same name on the package index: pip uninstall visprobe, then install from the clone.",
    )


def _devices() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(True, f"no CUDA device; {torch.get_num_threads()} CPU threads")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check(True, f"{len(names)} CUDA device(s): {', '.join(names)}")


def _faiss() -> Check:
    installed = sorted({d.metadata["Name"] for d in distributions() if (d.metadata["Name"] or "").startswith("faiss")})
    if len(installed) > 1:
        return Check(
            False,
            f"installed at once: {', '.join(installed)}; they overwrite each other's files",
            f"pip uninstall {' '.join(installed)}, then install the extra 'cpu' or 'cuda', not both.",
        )
    return Check(True, installed[0] if installed else "faiss is not installed (extra 'cpu' or 'cuda')")


def _training() -> Check:
    missing = [name for name in ("trl", "accelerate", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        return Check(True, f"no training here: {', '.join(missing)} missing", "Install the extra 'train' to train.")
    return Check(True, f"training: trl {version('trl')}, accelerate {version('accelerate')}")


def _store() -> Check:
    from visprobe.features.store import default_folder

    folder = default_folder()
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free / 2**30
    return Check(free > 1, f"feature store {folder}, {free:.0f} GiB free", "" if free > 1 else "Set VISPROBE_CACHE.")


CHECKS: tuple[Callable[[], Check], ...] = (_versions, _owner, _devices, _faiss, _training, _store)
