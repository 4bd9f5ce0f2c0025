"""Files that somebody named: what would hang or fill the memory is refused before it is opened."""

import os
import threading

import pytest

from visprobe.data.sources.folder import ImageFolder
from visprobe.errors import CheckpointError
from visprobe.io.regular import (
    CONFIGURATION,
    IMAGE,
    INDEX,
    WRITTEN,
    check_regular,
    read_object,
    read_regular,
    read_text,
)


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"12\n")
    assert read_regular(tmp_path / "a") == b"12\n"
    assert read_text(tmp_path / "a") == "12\n"


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b") == b"12"


def test_pipes_and_devices_are_refused_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(OSError, match=r"^it is a pipe, a device or a socket, and no file$"):
            check_regular(tmp_path / name)
    with pytest.raises(OSError, match="it is a folder"):
        check_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "nothing")


@pytest.mark.parametrize(("most", "read"), [(WRITTEN, read_text), (IMAGE, lambda path: read_regular(path, IMAGE))])
def test_a_file_over_the_limit_is_not_opened(tmp_path, most, read):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(most)
    assert len(read(tmp_path / "a")) == most
    with (tmp_path / "a").open("wb") as file:
        file.truncate(most + 1)
    (tmp_path / "a").chmod(0)
    with pytest.raises(OSError, match=f"it has {most + 1:,} bytes, and at most {most:,} are read"):
        read(tmp_path / "a")


def test_a_pipe_among_images_is_one_bad_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    images = ImageFolder(tmp_path, name="images")
    failed = []

    def read():
        try:
            images.read(0)
        except OSError as error:
            failed.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert failed == ["it is a pipe, a device or a socket, and no file"]


def test_a_configuration_that_is_a_pipe_or_too_large_is_one_message(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="a pipe, a device or a socket"):
        read_object(tmp_path / "config.json")
    large = tmp_path / "model.safetensors.index.json"
    large.write_text('{"weight_map": {}, "metadata": "' + CONFIGURATION * "x" + '"}')
    with pytest.raises(CheckpointError, match="at most 4,194,304 are read"):
        read_object(large)
    assert read_object(large, INDEX)["weight_map"] == {}
