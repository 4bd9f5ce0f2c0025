"""Every command that README, documents, cards, recipes and the help of the commands show."""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from typer.main import get_command

from visprobe.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/**/*.md",
    "analyses/*/card.md",
    "figures/README.md",
    "training/README.md",
)
SHELLS = ("", "sh", "bash", "shell", "console")
PROGRAMS = ("visprobe", "make", "pip", "python", "printf", "hf", "docker")
FENCE = re.compile(r"^ *(```+) *([^\s`]*)[^\n]*\n(.*?)^ *\1 *$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: ((?:(?!-->).)+) -->\s*\Z", re.DOTALL)
SPAN = re.compile(r"(?<!`)`((?:visprobe|make|pip|python) [^`]+)`(?!`)")
PLACEHOLDER = re.compile(r"…|\.\.\.|(?:^|[ =])[A-Z]+\b")


@dataclass(frozen=True)
class Shown:
    """A line as it is written: its words, where it stands, and the variables set before it."""

    words: tuple[str, ...]
    where: str
    line: str
    variables: tuple[tuple[str, str], ...] = ()


def pages():
    """The documents themselves; what the site's generator makes of them lies in folders with an underscore."""
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path for path in found if not any(part.startswith("_") for part in path.parts))


def blocks(kinds=SHELLS):
    """(place, text, reason not to run it or None) of every fenced block of one of the `kinds`."""
    for path in pages():
        text = path.read_text()
        for block in FENCE.finditer(text):
            if block[2] in kinds:
                line = text.count("\n", 0, block.start()) + 1
                reason = NOT_RUN.search(text[: block.start()])
                yield f"{path.relative_to(ROOT)}:{line}", block[3], reason and " ".join(reason[1].split())


def files():
    """(name, text) of every file that a document shows: a YAML block that begins with its name as a comment."""
    for _, text, _ in blocks(("yaml",)):
        name = re.match(r"# (\S+\.yaml)\n", text)
        if name:
            yield name[1], text


def not_run():
    """(page, reason) of every shell block that says why nobody runs it."""
    return [(place.split(":")[0], reason) for place, _, reason in blocks() if reason]


def spans():
    """(place, text) of every code span that begins like a command."""
    for path in pages():
        text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), path.read_text())
        for span in SPAN.finditer(text):
            yield f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, span.start()) + 1}", " ".join(span[1].split())


def is_mention(text):
    """Whether a span names a command, or shows its shape, and is none that somebody could type."""
    words = tuple(shlex.split(text)[1:])
    if PLACEHOLDER.search(text) or any(path[: len(words)] == words for path in commands()):
        return True
    named = [path for path in commands() if words[: len(path)] == path]
    return bool(named) and lacks_something(named[0], words[len(named[0]) :])


def given(path, words):
    """What `words` give to the command at `path`: name to value."""
    return commands()[path].make_context(" ".join(path), list(words), resilient_parsing=True).params


def lacks_something(path, words):
    """Whether the command at `path` needs more than `words`."""
    values = given(path, words)
    return any(part.required and not values.get(part.name) for part in commands()[path].params)


@cache
def commands():
    """Words after `visprobe` of every command, and the command."""
    found = {}

    def walk(command, words):
        inner = getattr(command, "commands", {})
        for name, sub in inner.items():
            walk(sub, (*words, name))
        if not inner:
            found[words] = command

    walk(get_command(app), ())
    return found


def help_examples():
    """(words of the command, line) of every example in its help."""
    for words, command in commands().items():
        for paragraph in re.split(r"\n\s*\n", command.help or ""):
            if paragraph.strip().startswith("Example:"):
                line = " ".join(paragraph.split()).removeprefix("Example:").strip()
                yield words, line.replace("\\[", "[")


def shown():
    """Every line that somebody could type, launchers taken off, from all places."""
    for place, text, reason in blocks():
        if reason is None:
            for line in re.sub(r"\\\n\s*", "", text).splitlines():
                yield from _commands_of(line.strip().removeprefix("$ "), place)
    for place, text in spans():
        if not is_mention(text):
            yield from _commands_of(text, place)
    for words, line in help_examples():
        yield from _commands_of(line, f"visprobe {' '.join(words)} --help")
    for path in sorted(ROOT.glob("training/*.yaml")):
        for comment in re.findall(r"^#   ((?:.*\\\n#  +)*.+)", path.read_text(), re.MULTILINE):
            yield from _commands_of(re.sub(r"\\\n#\s*", "", comment), str(path.relative_to(ROOT)))


def distinct():
    """One of each, by words and variables."""
    found = {}
    for one in shown():
        found.setdefault((one.words, one.variables), one)
    return list(found.values())


def _commands_of(line, place):
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    words = [[]]
    for word in lexer:
        if word in ("&&", ";"):
            words.append([])
        else:
            words[-1].append(word)
    for one in filter(None, words):
        variables = []
        while re.match(r"[A-Z_]+=", one[0]):
            variables.append(tuple(one.pop(0).split("=", 1)))
        yield Shown(tuple(_without_launcher(one)), place, line, tuple(variables))


def _without_launcher(words):
    """What a single process of the launcher runs."""
    if words[0] in ("accelerate", "torchrun", "python") and "-m" in words:
        return words[words.index("-m") + 1 :]
    if words[:2] == ["sbatch", "training/slurm.sh"]:
        return ["visprobe", "train", *words[2:]]
    return words
