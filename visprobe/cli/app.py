"""Entry point of the `visprobe` command: its sub-commands, and the handling of errors and signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from contextlib import suppress
from types import FrameType
from typing import Annotated, NoReturn, TextIO

import typer
from typer import Abort
from typer.core import TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from visprobe import __version__
from visprobe.cli.checkpoints import extract_encoder, families, scan, transplant
from visprobe.cli.config_file import COMMON, mention_env_var, read_environment, variable
from visprobe.cli.look import figure, gradcam, report
from visprobe.cli.measure import align, compare, imagenet, probe, robust, segment, swap
from visprobe.cli.output import print_error, print_error_document, print_traceback
from visprobe.cli.training import data, demo, train
from visprobe.cli.utilities import cache, doctor
from visprobe.cli.utilities import list as list_
from visprobe.errors import PrerequisiteError, UsageError, VisprobeError
from visprobe.io.disk import translate_os_error

MEASURE, LOOK, TRAIN, CHECKPOINTS, UTILITIES = "Measure", "Look", "Train", "Checkpoints", "Utilities"
EXIT_CODES = {
    0: "done",
    1: "failed",
    2: "a flag, an argument or a configuration is wrong",
    3: "done and written, but more images were unusable than --max-bad allows, a checkpoint of a scan cannot be read, "
    "or a --fail-on condition was met",
    4: "something must be installed, mounted or allowed first, or a disk is full",
    130: "interrupted, and the same command goes on from there",
    143: "terminated, and the same command goes on from there",
}

_INTERRUPTED = 130
# Hints for a required option that is missing, by Typer's message.
_MISSING = {
    "Missing option '--data' / '-d'.": "Images: a folder, a hub id, or 'digits', the built-in scenes. ",
    "Missing option '--ckpt'.": "Checkpoints follow --ckpt, once for each. ",
}

app = typer.Typer(
    name="visprobe",
    help="What did post-training do to the vision encoder of a multimodal LLM, and does it see better?",
    epilog=(
        f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}.\n\n"
        f"Environment: {', '.join(map(variable, COMMON))} stand for options in every command that measures; "
        "VISPROBE_CACHE is the folder of the caches; VISPROBE_DEBUG=1 shows tracebacks."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
app.command("compare", rich_help_panel=MEASURE)(compare.command)
app.command("imagenet", rich_help_panel=MEASURE)(imagenet.command)
app.command("probe", rich_help_panel=MEASURE)(probe.command)
app.command("align", rich_help_panel=MEASURE)(align.command)
app.command("segment", rich_help_panel=MEASURE)(segment.command)
app.command("robust", rich_help_panel=MEASURE)(robust.command)
app.command("swap", rich_help_panel=MEASURE)(swap.command)
app.command("gradcam", rich_help_panel=LOOK)(gradcam.command)
app.command("report", rich_help_panel=LOOK)(report.command)
app.command("figure", rich_help_panel=LOOK)(figure.command)
app.command("demo", rich_help_panel=TRAIN)(demo.command)
app.add_typer(train.app, name="train", rich_help_panel=TRAIN)
app.add_typer(data.app, name="data", rich_help_panel=TRAIN)
app.command("scan", rich_help_panel=CHECKPOINTS)(scan.command)
app.command("families", rich_help_panel=CHECKPOINTS)(families.command)
app.command("extract-encoder", rich_help_panel=CHECKPOINTS)(extract_encoder.command)
app.command("transplant", rich_help_panel=CHECKPOINTS)(transplant.command)
app.command("list", rich_help_panel=UTILITIES)(list_.command)
app.add_typer(cache.app, name="cache", rich_help_panel=UTILITIES)
app.command("doctor", rich_help_panel=UTILITIES)(doctor.command)


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
    """Run the command line, and exit with one of `EXIT_CODES`."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.excepthook = print_traceback
    if os.environ.get("NO_COLOR"):
        from typer import rich_utils

        rich_utils.COLOR_SYSTEM = None  # otherwise help is still bold
    # Some photographs of every large set have damaged EXIF data; their pixels are whole.
    warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)
    # Threads of torch that spin while they wait take the cores from other processes: with two other busy processes on
    # two cores a training step took five times as long. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None if the parent closed them
    commands = get_command(app)
    assert isinstance(commands, TyperGroup)
    read_environment(commands)
    try:
        left = commands(standalone_mode=False)  # an exit code if a command ended early: --help, --version
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe, as in `visprobe list measures | head -1`
        _discard_stdout()
        left = 1
    except (VisprobeError, OSError, TyperException, RuntimeError) as problem:
        if os.environ.get("VISPROBE_DEBUG") or (isinstance(problem, RuntimeError) and not _no_memory(problem)):
            raise
        if isinstance(problem, TyperException) and not problem.format_message():
            sys.exit(problem.exit_code)  # a group without a command has shown its help
        error = _explained(problem, _called(commands))
        _tell(error)
        left = error.exit_code
    except KeyboardInterrupt:
        left = _INTERRUPTED
    except Abort as no:  # a question was answered with no; Typer turns any EOFError into Abort as well
        if isinstance(no.__cause__, EOFError):
            raise no.__cause__ from None
        print("nothing was done", file=sys.stderr)
        left = 1
    if left == _INTERRUPTED:
        print("interrupted; the same command goes on from here", file=sys.stderr)
    sys.exit(left or 0)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _discard_stdout() -> None:
    """Redirect stdout to the null device: Python would flush it again at exit, and complain."""
    with suppress(OSError), _nowhere() as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _tell(error: VisprobeError) -> None:
    with suppress(OSError):
        print_error(error)
    try:
        if "--json" in sys.argv and not error.results_shown:
            print_error_document(error)
        sys.stdout.flush()
    except OSError:  # it was stdout that had no room
        _discard_stdout()


def _called(command: object) -> str:
    """Return the command that the command line names, as it would be typed."""
    names = ["visprobe"]
    for word in (word.replace("_", "-") for word in sys.argv[1:]):
        if not isinstance(command, TyperGroup) or word not in command.commands:
            break
        command = command.commands[word]
        names.append(word)
    return " ".join(names)


def _no_memory(problem: RuntimeError) -> bool:
    return type(problem).__name__ == "OutOfMemoryError"  # torch's, compared by name because importing torch is slow


def _explained(problem: Exception, command: str) -> VisprobeError:
    if isinstance(problem, RuntimeError):
        return PrerequisiteError(
            "the memory of the accelerator is too small, or others use it",
            hint="Write a smaller --batch-size, free the accelerator, or --device cpu.",
        )
    if isinstance(problem, TyperException):
        said = " ".join(problem.format_message().split()).replace("Value error, ", "")
        # Name an option's environment variable only if it is set, as the value may come from it.
        said = re.sub(r" \(env var: '(\w+)'\)", lambda found: found[0] if found[1] in os.environ else "", said)
        return UsageError(said, hint=f"{_MISSING.get(said, '')}{command} --help shows what there is.")
    if isinstance(problem, OSError):
        return translate_os_error(problem)
    assert isinstance(problem, VisprobeError)
    problem.message = mention_env_var(problem.message)
    return problem


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(143)
