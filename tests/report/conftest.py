from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from visprobe.report.document import build_document
from visprobe.report.write import write_report
from visprobe.results.statement import Statement

Documented = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def documented(planted) -> Documented:
    """A function that makes the document of a planted comparison; keywords replace its parts."""

    def make(names: tuple[str, ...] = ("base", "sft", "dpo"), **changed: Any) -> dict[str, Any]:
        evidence = {"checkpoint": names[1], "site": "block_06", "measure": "top1"}
        parts: dict[str, Any] = {
            "command": ["visprobe", "compare", *names, "--data", "cifar10-2500"],
            "seed": 7,
            "checkpoints": [
                {"name": n, "path": f"/checkpoints/{n}", "tower_hash": "ab" * 32, "parameters": 428_225_600}
                for n in names
            ],
            "data": [
                {
                    "name": "cifar10-2500/val",
                    "n": 1000,
                    "classes": 10,
                    "hash": "cd" * 32,
                    "bad_items": [{"id": "cat/0003.jpg", "reason": "OSError: truncated"}],
                }
            ],
            "results": list(planted(names).values()),
            "verdict": [
                Statement(
                    f"{names[1]} is not measurably different from {names[0]}.",
                    (
                        {"analysis": "imagenet", **evidence, "role": "difference", "reference": names[0]},
                        {"analysis": "imagenet", **evidence, "role": "value"},
                    ),
                )
            ],
            "warnings": ["a warning of the run"],
            "created": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        }
        return build_document(**{**parts, **changed})

    return make


@pytest.fixture(scope="session")
def whole(documented: Documented, shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The report of `documented()` with every figure, written into a folder whose parent was not there either."""
    return shared("report", lambda folder: write_report(folder / "run", documented())) / "run"
