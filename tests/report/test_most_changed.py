import base64
import io

import numpy as np
import pytest
from PIL import Image

from visprobe.data.image_set import Item
from visprobe.report.page.most_changed import most_changed, with_thumbnails
from visprobe.report.page.render import render
from visprobe.results.result import Result


class Pictures:
    """Images of 300x200, each of one colour; the second cannot be read any more."""

    name, classes = "pictures", None
    items = tuple(Item(f"image-{i}") for i in range(60))

    def read(self, index: int) -> bytes:
        if index == 1:
            raise OSError("gone")
        data = io.BytesIO()
        Image.new("RGB", (300, 200), (4 * index, 0, 0)).save(data, "PNG")
        return data.getvalue()


def result(checkpoints: int = 2, shown: int = 24) -> Result:
    ones = [{"id": f"image-{i}", "class": None, "change": 0.5 / (i + 1)} for i in range(shown)]
    return Result("images", "?", (), {"most_changed": {f"sft-{k}": ones for k in range(checkpoints)}})


def test_thumbnails_are_small_pictures_of_their_images() -> None:
    pictures = with_thumbnails(result(), Pictures()).settings["thumbnails"]
    assert set(pictures) == {f"image-{i}" for i in range(12)} - {"image-1"}
    for item, source in pictures.items():
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert image.size == (96, 64)
        # JPEG moves a flat colour by a few of 255 levels.
        assert np.abs(np.asarray(image)[..., 0].astype(int) - 4 * int(item.removeprefix("image-"))).max() <= 6


@pytest.mark.parametrize("checkpoints", [1, 2, 5, 24, 40])
def test_a_page_has_at_most_24(checkpoints: int) -> None:
    shown = dict(most_changed([with_thumbnails(result(checkpoints), Pictures())]))
    assert 0 < sum(map(len, shown.values())) <= 24
    assert shown["sft-0"][0].change == "0.5"


def test_other_results_stay_as_they_are() -> None:
    other = Result("drift", "?", (), {"base": "base"})
    assert with_thumbnails(other, Pictures()) is other and not list(most_changed([other, result()]))


@pytest.mark.thorough
def test_the_page_shows_them_and_nothing_else_that_a_report_names_as_picture(documented) -> None:
    found = with_thumbnails(result(), Pictures())
    found.settings["thumbnails"]["image-0"] = "https://example.org/spy.png"
    html = render(documented(results=[found], verdict=[]), {})
    assert html.count("<img ") == 2 * 10 and "example.org" not in html
    assert 'src="data:image/jpeg;base64,' in html and "Images that moved most" in html
