"""Image files and JSON files as data sets have them."""

import io
import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(kind="JPEG", colour=(200, 40, 40), size=(12, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def put_image(tmp_path):
    """Write an image below the temporary folder: put_image("a/b.jpg", kind="PNG")."""

    def put(name, **how):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(**how))
        return path

    return put


@pytest.fixture
def put_json(tmp_path):
    """Write rows as a JSON array, or as JSON Lines if the name ends so."""

    def put(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = name.endswith("l")
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows) if lines else json.dumps(rows)
        path.write_text(text)
        return path

    return put


@pytest.fixture
def colour_of():
    return lambda image: tuple(int(v) for v in np.asarray(image).reshape(-1, 3).mean(0).round())
