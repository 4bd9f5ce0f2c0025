"""The world of the documented commands, made once for all processes of a test run."""

import pytest
import world as worlds


@pytest.fixture(scope="session")
def world(shared):
    return shared("world", worlds.build)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")
