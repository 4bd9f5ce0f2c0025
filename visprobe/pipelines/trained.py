"""Training provenance of checkpoints, from the manifests that `visprobe train` writes into their folders."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visprobe.training.run_folder.manifest import NAME

HASH = 12  # characters of a hash that are enough to tell two apart


def training_of(checkpoint: str | Path) -> dict[str, Any] | None:
    """Return settings and data of a checkpoint's training for the report; None without a readable manifest."""
    try:
        manifest = json.loads((Path(checkpoint) / NAME).read_text())
        recipe, rows = manifest["inputs"]["recipe"], manifest["rows"]
        return {
            "stage": recipe["stage"],
            "started from": Path(manifest["base"]).name,
            "rows": f"{rows['used']} of {rows['count']} of {rows['name']}",
            "prompts": rows["prompts"][:HASH],
            "steps": manifest["seen"]["steps"],
            "rows seen": manifest["seen"]["rows"],
            "learning rate": recipe["learning_rate"],
            "trained parts": ", ".join(recipe["train"]),
            "end of turn": manifest["end_of_turn"],
            "seed": recipe["seed"],
        }
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # no manifest, one of another program, or one of an older version
        return None


def unlike_prompts(checkpoints: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning if checkpoints were trained on different prompts.

    Args:
        checkpoints: Provenance of each checkpoint; "training" where it is known.
    """
    told: dict[str, list[str]] = defaultdict(list)
    for one in checkpoints:
        if training := one.get("training"):
            told[training["prompts"]].append(one["name"])
    if len(told) < 2:
        return []
    groups = "; ".join(f"{', '.join(names)} ({prompts})" for prompts, names in told.items())
    return [f"the checkpoints were trained on different prompts, so that more than the method differs: {groups}"]
