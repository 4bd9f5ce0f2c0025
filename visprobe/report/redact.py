"""Secrets out of everything that is written: tokens in a command line, in a URL, in the environment."""

from __future__ import annotations

import os
import re

_SHOWN = "[redacted]"
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN")
_SHORTEST_SECRET = 8
_PATTERNS = (
    re.compile(r"(?<![A-Za-z0-9])(?:hf_|ghp_|github_pat_|sk-)[A-Za-z0-9_-]{16,}"),
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?:(?<=token=)|(?<=api_key=)|(?<=api-key=)|(?<=secret=)|(?<=password=))[^&\s'\"]+"),
    re.compile(r"(?i)(?:(?<=--token )|(?<=--api-key )|(?<=--password ))\S+"),
)


def redact(text: str) -> str:
    """`text` without what looks like a secret, and without the value of any well-known secret variable."""
    for name in _VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _SHOWN)
    for pattern in _PATTERNS:
        text = pattern.sub(_SHOWN, text)
    return text
