"""Where this machine keeps what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Folder `name` in $VISPROBE_CACHE, or in the user's cache folder of this platform."""
    import platformdirs

    return Path(os.environ.get("VISPROBE_CACHE") or platformdirs.user_cache_dir("visprobe")) / name
