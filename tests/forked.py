"""Processes that kill themselves: one imports everything once, and each script runs in a fork of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

# Seconds after which a process that a test started is given up: it hangs. A busy machine takes ten times as long as an
# idle one, and how long anything takes is no test's business.
HANGS = 1200

# Imports are most of what a new interpreter would take here. Nothing is computed before a fork, so no thread is lost
# in it; the standard output of scripts goes where their errors go, and the number of threads is the caller's.
_PARENT = """
import json, os, sys
import datasets, peft, torch, transformers, trl
from transformers import LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil, Trainer
import visprobe.data.digits, visprobe.features.extract, visprobe.report.maps_beside, visprobe.report.trajectory
import visprobe.training.digits, visprobe.training.run
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    script, arguments, environment, threads = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        sys.argv = ["-c", *arguments]
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""


class Forked:
    """Runs scripts, each in a process of its own; starts at the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, script: str, *arguments: object) -> int:
        """The exit code of `python -c script arguments`, minus the signal that ended it."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin and self._process.stdout
        asked = (script, [str(one) for one in arguments], dict(os.environ), torch.get_num_threads())
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
