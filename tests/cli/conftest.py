"""Small checkpoints and a way to run the command line inside the test process."""

import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pydantic import TypeAdapter

from visprobe.cli.app import main
from visprobe.report.schema import Report, Runs

REPORTS: TypeAdapter[Report | Runs] = TypeAdapter(Report | Runs)


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments):
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(sys, "argv", ["visprobe", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        if left.value.code in (None, 0, 3):
            conforms(arguments)
        return Ran(int(left.value.code or 0), captured.out, captured.err)

    return call


def conforms(arguments: Sequence[object]) -> None:
    """What any command wrote as report.json is what the schema promises."""
    for flag, folder in itertools.pairwise(arguments):
        if flag == "-o" and (report := Path(str(folder)) / "report.json").is_file():
            REPORTS.validate_json(report.read_bytes(), strict=True)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """base, moved (one block of the tower perturbed), frozen (only the language model changed)."""
    from visprobe.demo.small_llava import build_model, build_processor

    root = tmp_path_factory.mktemp("checkpoints")
    processor, model = build_processor(), None
    for name in ("base", "moved", "frozen"):
        model = build_model(processor, seed=0)
        part = {"moved": "vision_tower.encoder.layers.2.", "frozen": "language_model."}.get(name)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, value in model.named_parameters():
                if part and part in key:
                    value += 0.05 * torch.randn(value.shape, generator=generator)
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return root
