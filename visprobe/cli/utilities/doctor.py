"""`visprobe doctor`: check of the installation and of this machine, with advice."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import distributions, version
from typing import NamedTuple

import typer

import visprobe
from visprobe.cli import options as o
from visprobe.cli.output import print_paragraph, printable
from visprobe.errors import VisprobeError
from visprobe.io.disk import size_text

_PROGRAM = "visprobe.__main__:main"
_LEAST_FREE = 2**30  # bytes
_HUB_PATIENCE = 3.0  # seconds


class Check(NamedTuple):
    """Result of a check: True if all is well, the finding, and advice if there is any."""

    well: bool
    found: str
    advice: str = ""


def command(json: o.Json = False) -> None:
    """Check the installation, and the whole path on a small example.

    Example: visprobe doctor

    Example: visprobe doctor --json
    """
    results = [check() for check in CHECKS]
    if json:
        from visprobe.io.atomic import to_json

        print(to_json({"checks": [result._asdict() for result in results]}))
    else:
        _print(results)
    if not all(result.well for result in results):
        raise typer.Exit(4)


def _print(results: Sequence[Check]) -> None:
    for result in results:
        mark, style = ("ok  ", "green") if result.well else ("look", "red")
        print_paragraph(mark, printable(result.found), style=style)
        if result.advice:
            print_paragraph("    ", printable(result.advice))


def _versions() -> Check:
    packages = ("torch", "transformers", "safetensors", "datasets")
    found = ", ".join(f"{package} {version(package)}" for package in packages)
    return Check(True, f"visprobe {visprobe.__version__}, Python {platform.python_version()}, {found}")


def _owner() -> Check:
    """Detect another project of the same name: both installed at once overwrite each other."""
    found = [d for d in distributions() if (d.metadata["Name"] or "").lower() == "visprobe"]
    foreign = [d.version for d in found if not any(entry.value == _PROGRAM for entry in d.entry_points)]
    if found and not foreign:
        return Check(True, f"the package visprobe is this one, at {visprobe.__path__[0]}")
    return Check(
        False,
        f"distributions named visprobe that are not this one: {', '.join(foreign)}" if foreign else "not installed",
        "Another project has the same name on the package index: pip uninstall visprobe, then install from the clone.",
    )


def _devices() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(True, f"no CUDA device; {torch.get_num_threads()} CPU threads")
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = [f"{device.name} with {size_text(device.total_memory)}" for device in found]
    return Check(True, f"{len(names)} CUDA device(s): {', '.join(names)}; CUDA {torch.version.cuda}")


def _memory() -> Check:
    try:
        page, total, free = (os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "PHYS_PAGES", "AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not every system has these names
        return Check(True, "memory: this system does not say how much")
    return Check(True, f"memory: {size_text(total * page)}, {size_text(free * page)} of it free")


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


def _gguf() -> Check:
    if importlib.util.find_spec("gguf") is None:
        return Check(True, "gguf is not installed", "Install the extra 'gguf' to read quantised files of llama.cpp.")
    return Check(True, f"gguf {version('gguf')}")


def _caches() -> Check:
    from visprobe.io.cache import CACHES, abandoned, cache_folder, size_on_disk

    root = cache_folder(".")
    existing = next(parent for parent in [root, *root.absolute().parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    sizes = [f"{name} {size_text(sum(map(size_on_disk, cache_folder(name).rglob('*'))))}" for name in CACHES]
    left = sum(len(abandoned(cache_folder(name))) for name in CACHES)
    advice = "visprobe cache prune removes temporary files of killed runs." if left else ""
    found = f"caches in {root}: {', '.join(sizes)}; {size_text(free)} free on their disk"
    if not os.access(existing, os.W_OK):
        return Check(False, f"{found}; they cannot be written", "Set VISPROBE_CACHE to a folder that you may write to.")
    return Check(free > _LEAST_FREE, found, advice if free > _LEAST_FREE else "Set VISPROBE_CACHE to a larger disk.")


def _hub() -> Check:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        return Check(True, "hub: HF_HUB_OFFLINE is set, only what is here already is read")
    try:
        # No token is sent: this tests the connection, not access to a private model.
        get_session().head(constants.ENDPOINT, headers=build_hf_headers(token=False), timeout=_HUB_PATIENCE)
    except Exception as error:  # of whichever HTTP library huggingface_hub uses
        return Check(
            True,
            f"hub: {constants.ENDPOINT} cannot be reached ({type(error).__name__})",
            "Checkpoints in folders work all the same. Behind a proxy set HTTPS_PROXY; for a mirror, HF_ENDPOINT.",
        )
    return Check(True, f"hub: {constants.ENDPOINT} can be reached")


def _whole_path() -> Check:
    from visprobe.demo.self_check import IMAGES, self_check

    started = time.monotonic()
    try:
        cka = self_check()
    except VisprobeError as error:
        return Check(False, f"end to end: {error.message}", error.hint)
    except Exception as error:  # a broken installation can raise anything
        advice = "Reinstall visprobe with the versions in constraints.txt."
        return Check(False, f"end to end: {type(error).__name__}: {error}", advice)
    seconds = time.monotonic() - started
    found = f"end to end: {IMAGES} images, a planted change found at its place (CKA {cka:.4f}), a report written"
    return Check(True, f"{found}; {seconds:.1f} s")


CHECKS: tuple[Callable[[], Check], ...] = (
    _versions, _owner, _devices, _memory, _faiss, _training, _gguf, _caches, _hub, _whole_path,
)  # fmt: skip
