"""What people see: at 80 and 160 columns, with and without colour, on a dumb terminal, and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from functools import cache
from importlib import import_module

import pytest
from rich.cells import cell_len

from visprobe.cli.app import main
from visprobe.cli.output import words, wrapped
from visprobe.report import write

COMMANDS = {
    "compare": ["compare", "base", "moved", "--data", "digits", "--limit", "20", "-q", "-o", "compare"],
    "imagenet": ["imagenet", "--ckpt", "base", "--ckpt", "moved", "--data", "digits", "--limit", "20", "-q",
                 "-o", "net"],
    "gradcam": ["gradcam", "digits", "--ckpt", "base", "--ckpt", "moved", "--limit", "2", "-q", "-o", "looks",
                "--method", "gradient-norm"],
    "list": ["list", "analyses"],
    "scan": ["scan", ".", "--base", "base", "-q"],
    "help": ["--help"],
    "error": ["compare", "base", "moved", "-q", "--data", "a folder that is not there and whose name is long" * 3],
}  # fmt: skip
MEASURING = ("compare", "imagenet", "gradcam")
STYLES = {
    "colour": {"TERM": "xterm-256color"},
    "no colour": {"TERM": "xterm", "NO_COLOR": "1"},
    "dumb": {"TERM": "dumb"},
}
SGR = re.compile(r"\x1b\[[0-9;]*m")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def home(checkpoints, tmp_path_factory):
    """A folder with the checkpoints in it, and features that are there already."""
    # Each child would import these anew.
    for module in (
        "analyses.core.registry",
        "encoders.load",
        "encoders.listing.scan",
        "pipelines.compare",
        "pipelines.attribution.run",
    ):
        import_module(f"visprobe.{module}")
    home = tmp_path_factory.mktemp("terminal")
    for name in ("base", "moved"):
        (home / name).symlink_to(checkpoints / name)
    return home


def shown(arguments, home, columns=None, **environment):
    """What a command prints on a terminal of so many columns, or into pipes: (stdout and stderr, or both as one)."""
    reads = []
    if columns is None:
        out, err = os.pipe(), os.pipe()
        child = os.fork()
        reads = [out[0], err[0]]
    else:
        child, terminal = pty.fork()
        reads = [terminal]
    if child == 0:
        if columns is None:
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
        else:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        _run(arguments, home, environment)
    if columns is None:
        os.close(out[1])
        os.close(err[1])
    texts = [_all(source) for source in reads]
    os.waitpid(child, 0)
    return texts if columns is None else texts[0]


def _run(arguments, home, environment):
    """In the child: the command line, on streams of its own."""
    code = 1
    try:
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM"):
            os.environ.pop(name, None)
        os.environ.update(environment, VISPROBE_CACHE=str(home / "cache"), HF_HUB_OFFLINE="1")
        os.chdir(home)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        sys.argv = ["visprobe", *arguments]
        write.write_report = lambda folder, document: folder / "report.html"  # whose figures take the longest
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _all(source):
    held = b""
    while True:
        try:
            part = os.read(source, 1 << 16)
        except OSError:  # the terminal is gone when its last writer is
            part = b""
        if not part:
            os.close(source)
            return held.decode().replace("\r\n", "\n")
        held += part


@pytest.fixture(scope="module")
def piped(home):
    return cache(lambda name: shown(COMMANDS[name], home))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "style"),
    [(name, style) for name in COMMANDS for style in STYLES if name not in MEASURING or style == "colour"],
)
def test_a_terminal_of_80_columns_and_of_160_shows_the_same(name, style, home, piped):
    texts = {columns: shown(COMMANDS[name], home, columns, **STYLES[style]) for columns in (80, 160)}
    for columns, text in texts.items():
        if style != "colour":
            assert "\x1b" not in text
        plain = SGR.sub("", text)
        assert "\x1b" not in plain and "…" not in plain.replace("{…}", "").replace('": …', "")
        lines = plain.split("\n")
        assert max(map(cell_len, lines)) <= columns
        assert [line for line in lines if re.search(r"\[[^\s\[\]]+,$|\bn =$", line.rstrip())] == []
    numbers = [re.findall(r"[−+\-]?\d+\.\d+(?:·10[⁻⁰-⁹]+)?", SGR.sub("", text)) for text in texts.values()]
    assert sorted(numbers[0]) == sorted(numbers[1])
    if name not in ("help", "list", "scan"):  # there, column headings are repeated or left out where they do not fit
        both = "".join(piped(name))
        assert sorted(re.findall(r"\d+\.\d+", both)) == sorted(re.findall(r"\d+\.\d+", SGR.sub("", texts[80])))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_gets_whole_lines_and_no_codes(name, piped):
    out, err = piped(name)
    assert "\x1b" not in out + err and "…" not in out
    if name == "error":
        assert not out and len(err.splitlines()) == 2
    elif name in MEASURING:
        assert "report: " in out and "━" not in out
        tables = [line for line in out.splitlines() if re.search(r"\] +$", line)]
        assert tables and all(line.count("[") == line.count("]") for line in tables)


@pytest.mark.thorough
def test_progress_is_on_stderr_only(home):
    arguments = [word for word in COMMANDS["compare"] if word != "-q"]
    out, err = shown(arguments, home)
    assert "read encoders: 2/2" in err and "read encoders" not in out and "\x1b" not in err


def test_a_line_ends_where_no_number_is_torn():
    text = "sft differs: top-1 65.0 % against 68.0 %, difference −3.0 points [−8.6, +2.5], n = 100, p = 0.04."
    for width in range(16, 110):  # the longest word and the indent are 15 columns wide
        lines = wrapped(text, width, "  ")
        assert " ".join(line.strip() for line in lines) == text and max(map(cell_len, lines)) <= width
        for whole in ("65.0 %", "[−8.6, +2.5],", "n = 100,", "p = 0.04."):
            assert any(whole in line for line in lines)
    assert words("a [1, 2] n = 3") == ["a", "[1, 2]", "n = 3"]


@pytest.mark.parametrize("text", ["x" * 100, "猫" * 50, "a " + "y" * 90 + " b", ""])
def test_a_word_longer_than_the_line_is_cut(text):
    lines = wrapped(text, 20, "  ")
    assert max(map(cell_len, lines)) <= 20 and "".join(lines).replace(" ", "") == text.replace(" ", "")
