"""Errors of the system as errors that a user can act on, from any library and from every public function."""

import errno

import pytest
from safetensors import SafetensorError

import visprobe
from visprobe.errors import PrerequisiteError, UsageError, VisprobeError
from visprobe.io.atomic import filling, replacing, write_bytes
from visprobe.io.disk import is_disk_full, plain_errors, size_text, translate_os_error

FULL = [  # as they were raised on a full tmpfs
    OSError(errno.ENOSPC, "No space left on device", "out"),
    OSError(errno.EDQUOT, "Disk quota exceeded", "out"),
    OSError(errno.EFBIG, "File too large", "out"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2586112 vs 2586004"),
    RuntimeError("basic_ios::clear: iostream error"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:20])
def test_a_full_disk_is_one_message_with_exit_code_4_and_leaves_nothing(tmp_path, error):
    (tmp_path / "old").write_bytes(b"old")
    said = r"the disk is full: .*/old cannot be written"
    with pytest.raises(PrerequisiteError, match=said) as caught, replacing(tmp_path / "old") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert caught.value.exit_code == 4 and "VISPROBE_CACHE" in caught.value.hint
    with pytest.raises(PrerequisiteError, match="the disk is full"), filling(tmp_path / "new" / "folder") as temporary:
        (temporary / "file").write_bytes(b"half")
        raise error
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize("error", [ValueError("no room in the model"), RuntimeError("shapes differ"), KeyError("a")])
def test_other_errors_pass_as_they_are(tmp_path, error):
    assert not is_disk_full(error)
    with pytest.raises(type(error)), replacing(tmp_path / "file"):
        raise error


def test_a_usage_error_inside_is_not_a_full_disk(tmp_path):
    with pytest.raises(UsageError), replacing(tmp_path / "file"):
        raise UsageError("No space left between names", hint="Name less.")


def test_what_may_not_be_written_is_a_matter_of_permission():
    assert translate_os_error(PermissionError(errno.EACCES, "Permission denied", "out")).exit_code == 4
    assert translate_os_error(OSError(errno.EROFS, "Read-only file system", "out")).exit_code == 4
    missing = translate_os_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "out"))
    assert missing.exit_code == 1 and missing.message == "out: No such file or directory"


def test_every_public_function_raises_errors_of_visprobe_alone(tmp_path):
    functions = [getattr(visprobe, name) for name in visprobe.__all__ if name.islower()]
    assert len(functions) == 13
    for function in functions:
        assert function.__wrapped__.__name__ == function.__name__

    @plain_errors
    def writes():
        write_bytes(tmp_path / "file" / "below", b"")

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VisprobeError, match="file"):
        writes()


def test_sizes_are_said_as_people_read_them():
    assert [size_text(count) for count in (0, 1023, 1536, 3 << 20, 5 << 40)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "3.0 MiB", "5.0 TiB",
    ]  # fmt: skip
