"""Content of report.json: results of a run, and everything that they depend on."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import visprobe
from visprobe.analyses.core.gates import Gate
from visprobe.io.redact import redactor
from visprobe.results.result import Result
from visprobe.results.statement import Statement

SCHEMA = "visprobe.report/2"
_PACKAGES = (
    "torch", "transformers", "safetensors", "datasets", "numpy", "scipy", "scikit-learn", "pillow", "matplotlib",
)  # fmt: skip


def build_document(
    *,
    command: Sequence[str],
    seed: int,
    checkpoints: Sequence[Mapping[str, Any]],
    data: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    verdict: Sequence[Statement],
    warnings: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    gates: Sequence[Gate] = (),
    created: datetime | None = None,
) -> dict[str, Any]:
    """Build the whole report as plain JSON values, with secrets removed from every text.

    Args:
        command: Words of the command line, program name first.
        seed: Seed of the run.
        checkpoints: Provenance of each checkpoint, the base first; "name" is required, the rest is shown as it is.
        data: Each image set: "name", "n", "classes", "hash" and "bad_items" (a list of "id" and "reason").
        results: Results of the analyses.
        verdict: Conclusions in sentences, each with references to the rows it rests on.
        warnings: Warnings about the run as a whole; results and checkpoints carry their own.
        options: Each option of the command: "value" and "origin" ("command line", "environment", "file …", "default").
        gates: Outcomes of the conditions that were set.
        created: When the run ended; now, if None.

    Returns:
        A dict that `write_report` writes and `render` shows.
    """
    redact = redactor()
    document = {
        "schema": SCHEMA,
        "visprobe": visprobe.__version__,
        "created": (created or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        "command": redact(shlex.join(redact(word) for word in command)),
        "seed": seed,
        "checkpoints": checkpoints,
        "data": data,
        "results": [result.to_json() for result in results],
        "verdict": verdict,
        "warnings": warnings,
        "options": options or {},
        "gates": gates,
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
    }
    plain: dict[str, Any] = _plain(document, redact)
    return plain


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _plain(value: Any, redact: Callable[[str], str]) -> Any:
    """Convert `value` for JSON; a lone surrogate (of an undecodable file name) is spelled out, as UTF-8 has none."""
    if isinstance(value, str | Path):
        return redact(str(value)).encode("utf-8", "backslashreplace").decode()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {_plain(str(key), redact): _plain(item, redact) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, redact) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value
