"""The `visprobe` command: its sub-commands, and what happens to errors and signals."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

from visprobe import __version__
from visprobe.cli import (
    align,
    compare,
    data,
    demo,
    doctor,
    extract_encoder,
    families,
    gradcam,
    imagenet,
    probe,
    robust,
    scan,
    segment,
    swap,
    train,
    transplant,
)
from visprobe.cli.output import print_error
from visprobe.errors import TooManyBadItems, VisprobeError

app = typer.Typer(
    name="visprobe",
    help="What did post-training do to the vision encoder of a multimodal LLM, and does it see better?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
app.command("compare")(compare.command)
app.command("imagenet")(imagenet.command)
app.command("probe")(probe.command)
app.command("align")(align.command)
app.command("segment")(segment.command)
app.command("robust")(robust.command)
app.command("gradcam")(gradcam.command)
app.command("swap")(swap.command)
app.command("scan")(scan.command)
app.command("families")(families.command)
app.command("extract-encoder")(extract_encoder.command)
app.command("transplant")(transplant.command)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.command("demo")(demo.command)
app.command("doctor")(doctor.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"visprobe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line.

    Exit codes: 0 done, 1 failed, 2 usage, 3 done with too many bad items, 4 prerequisite missing, 130, 143.
    """
    signal.signal(signal.SIGTERM, _terminate)
    # Threads of torch that wait by spinning take the cores from whoever else computes on this machine: with two other
    # busy processes on two cores a training step took five times as long. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except (VisprobeError, OSError) as problem:
        if os.environ.get("VISPROBE_DEBUG"):
            raise
        error = problem if isinstance(problem, VisprobeError) else _system_error(problem)
        # Where too many items were bad, the results are already on stdout, as the one JSON document there is.
        print_error(error, as_json="--json" in sys.argv and not isinstance(error, TooManyBadItems))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _system_error(error: OSError) -> VisprobeError:
    """A full disk or a folder that may not be written, in one message."""
    return VisprobeError(
        f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__,
        hint="Check the path, its permissions and the room on its disk; VISPROBE_DEBUG=1 shows where it happened.",
    )


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(143)
