"""The world of the documented commands, made once for all processes of a test run."""

import os

import pytest
import world as worlds
from filelock import FileLock


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whose folder lies in that of the whole run
        root = root.parent
    with FileLock(root / "world.lock"):
        if not (root / "world.done").exists():
            worlds.build(root / "world")
            (root / "world.done").touch()
    return root / "world"


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")
