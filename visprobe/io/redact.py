"""Removal of secrets from everything that is written: tokens in a command line, a URL, the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_SHOWN = "[redacted]"
_SHORTEST_SECRET = 8
# A variable of such a name holds a secret; one that ends in _FILE or _PATH holds the path of one.
_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|(API|ACCESS|PRIVATE|AUTH)_?KEY)(_ID)?$")
_KEY = r"(?:token|api[_-]?key|access[_-]key(?:[_-]id)?|secret|passw(?:or)?d|authorization)"
_PATTERNS = (
    re.compile(r"(?<![A-Za-z])(?:hf_|gh[opsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    re.compile(r"(?<=:/)[^/\s:@\"'<>]+:[^/\s@\"'<>]+(?=@)"),  # a path keeps one slash of "https://user:password@host"
    re.compile(r"(?<=://)[^/\s:@\"'<>]+:[^/\s@\"'<>]+(?=@)"),
)
_NAMED = (
    re.compile(rf"(?i)({_KEY}=)[^&\s'\"]{{8,}}"),
    re.compile(rf"(?i)({_KEY}[\"']?: ?[\"']?(?:bearer )?)[A-Za-z0-9_+/=.-]{{8,}}"),
    re.compile(r"(?i)((?:--token|--api-key|--password|\bbearer) )[^\s()]{8,}"),
)


def redact(text: str) -> str:
    """Remove from `text` what looks like a secret, and the values of variables whose names say that they are one."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """Return `redact` for many texts, with the variables as they are now; results are cached."""
    held = [(name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST_SECRET]
    secrets = [value for name, value in held if _VARIABLE.search(name.upper())]

    @cache
    def redact(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, _SHOWN)
        for pattern in _PATTERNS:
            text = pattern.sub(_SHOWN, text)
        for pattern in _NAMED:
            text = pattern.sub(rf"\g<1>{_SHOWN}", text)
        return text

    return redact


def redacted(value: Any) -> Any:
    """Remove what looks like a secret from every text in a JSON value, keys included."""
    return _redacted(value, redactor())


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(one, redact) for key, one in value.items()}
    return [_redacted(one, redact) for one in value] if isinstance(value, list | tuple) else value
