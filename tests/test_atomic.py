from pathlib import Path

import pytest

from lora_atelier import atomic

pytestmark = pytest.mark.torchfree


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "sub" / "日本語.txt"
    atomic.write_text(path, "old")

    atomic.write_text(path, "new\n")

    assert path.read_bytes() == b"new\n"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    atomic.write_text(path, "old")

    def full(temporary):
        temporary.write_text("ha", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic.write_with(path, full)

    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replacement_waits_while_a_reader_holds_the_file(tmp_path, monkeypatch):
    """Windows refuses to replace an open file; its PermissionError is faked here."""
    refusals = iter([PermissionError(13, "in use"), PermissionError(13, "in use"), None])
    real = Path.replace

    def replace(source, target):
        refusal = next(refusals)
        if refusal is not None:
            raise refusal
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: None)

    atomic.write_text(tmp_path / "a", "x")

    assert (tmp_path / "a").read_text(encoding="utf-8") == "x"


def test_a_folder_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "step-000100"

    def half(folder):
        (folder / "one").write_text("1", encoding="utf-8")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        atomic.write_folder(path, half)
    assert list(tmp_path.iterdir()) == []

    atomic.write_folder(path, lambda folder: (folder / "one").write_text("1", encoding="utf-8"))
    assert [p.name for p in path.iterdir()] == ["one"]
