"""Pictures that are looked into: copies count once, masks that show nothing are refused."""

import numpy as np
import pytest
from PIL import Image

from visprobe.data.prompts import Prompt
from visprobe.data.sources.files import open_named
from visprobe.errors import UsageError
from visprobe.pipelines.attribution.images import images_of, load_pictures


@pytest.fixture
def folder(tmp_path):
    """a and b show the same, c something else."""
    (tmp_path / "photos").mkdir()
    for name, grey in (("a", 9), ("b", 9), ("c", 200)):
        Image.new("RGB", (8, 6), (grey,) * 3).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def loaded(folder, region=None):
    return load_pictures(open_named([str(folder / "photos")]).query, Prompt("what ?"), region=region)[0]


def test_copies_are_of_one_image(folder):
    a, b, c = loaded(folder)
    assert images_of([a, b, c]) == [a.id, a.id, c.id] and images_of([b, c]) == [b.id, c.id]


def test_a_folder_without_a_mask_of_any_picture_is_refused(folder):
    (folder / "masks").mkdir()
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "masks" / "c.png")
    with pytest.raises(UsageError, match="no mask of 3 pictures holds a pixel"):
        loaded(folder, str(folder / "masks"))
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(folder / "masks" / "b.png")
    assert [picture.region is not None for picture in loaded(folder, str(folder / "masks"))] == [False, True, False]
