"""Paths that users give, and the files below them."""

import os

import pytest

from counterpoise.data.paths import as_path, files_below, stamp_of
from counterpoise.errors import InputError


def test_the_home_folder_is_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("data", "~/pets") == tmp_path / "pets"


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("text", ["a\0b", "~nobody-of-this-name/pets", None, 3, "a" * 5000])
def test_what_cannot_be_looked_for_is_refused_by_name(text):
    with pytest.raises(InputError, match=r"^data: '"):
        as_path("data", text)


def test_files_of_every_depth_are_found_in_order_and_files_are_their_own(tmp_path):
    files = [tmp_path / name for name in ("a/1", "a/b/2", "c")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert files_below([tmp_path / "c", tmp_path / "a", tmp_path / "nowhere"]) == sorted(files)


def test_a_stamp_changes_with_any_file(tmp_path):
    (tmp_path / "a").write_text("1")
    before = stamp_of([tmp_path])
    assert stamp_of([tmp_path]) == before
    os.utime(tmp_path / "a", ns=(0, 0))
    changed = stamp_of([tmp_path])
    assert changed != before
    (tmp_path / "b").touch()
    assert stamp_of([tmp_path]) not in (before, changed)
