"""Processes that kill themselves, or work together: one imports everything once, and scripts run in forks of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import torch

# Seconds after which a process that a test started is given up: it hangs. A busy machine takes ten times as long as an
# idle one, and how long anything takes is no test's business.
HANGS = 1200

# Imports are most of what a new interpreter would take here. Nothing is computed before a fork, so no thread is lost
# in it; the standard output of scripts goes where their errors go, and the number of threads is the caller's.
_PARENT = """
import json, os, signal, sys
import datasets, peft, torch, transformers, trl
from transformers import LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil, Trainer
import visprobe.demo.scenes, visprobe.features.extract, visprobe.pipelines.trajectory
import visprobe.pipelines.attribution.during_training
import visprobe.demo.rows, visprobe.training.run
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    script, arguments, environments, threads = json.loads(line)
    places, codes = {}, [0] * len(environments)
    for place, environment in enumerate(environments):
        child = os.fork()
        if not child:
            os.environ.clear()
            os.environ.update(environment)
            torch.set_num_threads(threads)
            sys.argv = ["-c", *arguments]
            exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
            sys.exit()
        places[child] = place
    while places:
        child, status = os.wait()
        codes[places.pop(child)] = os.waitstatus_to_exitcode(status)
        for other in places if status else ():  # it would wait for the one that has gone
            os.kill(other, signal.SIGKILL)
    print(json.dumps(codes), file=answers, flush=True)
"""


class Forked:
    """Runs scripts, each in a process of its own; starts at the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, script: str, *arguments: object) -> int:
        """The exit code of `python -c script arguments`, minus the signal that ended it."""
        return self._run(script, arguments, [dict(os.environ)])[0]

    def together(self, count: int, script: str, *arguments: object) -> list[int]:
        """The exit codes of `count` processes that find each other as torchrun's do; all end when one fails."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        ranks = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
        environments = [{**os.environ, **{name: str(value) for name, value in one.items()}} for one in ranks]
        return self._run(script, arguments, environments)

    def _run(self, script: str, arguments: tuple[object, ...], environments: list[dict[str, str]]) -> list[int]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._process.stdin and self._process.stdout
        asked = (script, [str(one) for one in arguments], environments, torch.get_num_threads())
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()
