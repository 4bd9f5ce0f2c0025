"""Facts about a run that need no training library: whether they are installed, and the processes."""

from __future__ import annotations

import importlib.util
import os

from visprobe.errors import PrerequisiteError

ONE_STARTED = (
    "accelerate was asked for several processes and started one, as it does on CPUs; "
    "start them with torchrun --standalone --nproc_per_node N -m visprobe train ..."
)


def is_first_process() -> bool:
    """Return whether this process is the one that writes, draws progress bars and prints."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """Return the number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch_note() -> str | None:
    """Return a warning if accelerate was asked for several processes and silently started one.

    accelerate names a meeting point for the processes (MASTER_ADDR) only if it was asked for several of them, and
    sets WORLD_SIZE in each process that it starts.
    """
    by_accelerate = any(name.startswith("ACCELERATE_") for name in os.environ)
    alone = "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    return ONE_STARTED if by_accelerate and alone else None


def require_training() -> None:
    """Refuse to train if the training extra is not installed.

    Raises:
        PrerequisiteError: If a library is missing.
    """
    missing = [name for name in ("trl", "peft", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f"training needs {' and '.join(missing)}", hint="Install the extra: pip install -e '.[train]' in the clone."
        )
