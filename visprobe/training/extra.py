"""Whether the libraries that training needs are there."""

from __future__ import annotations

import importlib.util

from visprobe.errors import PrerequisiteError


def require_training() -> None:
    """Refuse at once, with advice, where the training extra is not installed.

    Raises:
        PrerequisiteError: If a library is missing.
    """
    missing = [name for name in ("trl", "peft", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise PrerequisiteError(
            f"training needs {' and '.join(missing)}", hint="Install the extra: pip install -e '.[train]' in the clone."
        )
