"""What messages tell people to write: options that exist."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from visprobe.cli.app import app

ROOT = Path(__file__).parents[2] / "visprobe"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
OTHERS = {
    "--help",
    *("--standalone", "--nproc_per_node"),  # torchrun
    *("--backend", "--local_dir", "--target_dir", "--mcore_model", "--to_hf"),  # verl and megatron
    "--mmproj",  # llama.cpp
    *("--token", "--api-key", "--password"),  # what is blacked out in messages
    "--legible",  # a variable of the page's style sheet
}


def options(command):
    own = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return own.union(*(options(one) for one in getattr(command, "commands", {}).values()))


def messages(path):
    """Every text of a module that is no docstring, with its line."""
    tree = ast.parse(path.read_text())
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.lineno, node.value


@pytest.mark.thorough
def test_every_option_that_a_message_names_exists():
    command = get_command(app)
    known = options(command) | OTHERS
    named = [(path, line, option) for path in ROOT.rglob("*.py") for line, text in messages(path)
             for option in OPTION.findall(text)]  # fmt: skip
    assert len(named) > 200  # the search finds them
    assert [f"{path.relative_to(ROOT)}:{line}: {option}" for path, line, option in named if option not in known] == []
