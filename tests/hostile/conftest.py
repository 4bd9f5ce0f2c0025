"""A folder in which every name is hostile."""

import pytest
from hostile_names import make_images, make_models


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Everything that is read: data/{train,val}/CLASS/FILE, flat/, masked/, models/."""
    root = tmp_path_factory.mktemp("hostile")
    make_images(root)
    make_models(root / "models")
    return root
