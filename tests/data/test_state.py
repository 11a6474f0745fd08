import os

import pytest

from counterpoise.data.state import changed_files, check_unchanged, data_state, state_key
from counterpoise.errors import InputError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("ash", "elm"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            (folder / name / f"{i}.png").write_bytes(b"pixels")
    return folder


def test_whatever_changes_in_a_folder_changes_its_key(photos):
    keys = [state_key(data_state(photos))]
    assert state_key(data_state(photos)) == keys[0]
    (photos / "ash" / "0.png").write_bytes(b"others")
    keys.append(state_key(data_state(photos)))
    (photos / "ash" / "1.png").unlink()
    keys.append(state_key(data_state(photos)))
    (photos / "elm" / "3.png").write_bytes(b"pixels")
    keys.append(state_key(data_state(photos)))
    assert len(set(keys)) == 4


def test_a_change_shows_though_size_and_time_are_set_back(photos):
    file = photos / "ash" / "0.png"
    status, key = file.stat(), state_key(data_state(photos))
    file.write_bytes(b"PIXELS")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert state_key(data_state(photos)) != key


def test_the_images_of_a_table_count_and_those_behind_links(photos, tmp_path):
    table, linked = tmp_path / "list.csv", tmp_path / "linked"
    table.write_text("path,label\nphotos/ash/0.png,ash\nphotos/elm/0.png,elm\nphotos/elm/gone.png,elm\n")
    linked.symlink_to(photos)
    keys = [state_key(data_state(place)) for place in (table, linked)]
    (photos / "elm" / "0.png").write_bytes(b"others")
    changed = [state_key(data_state(place)) for place in (table, linked)]
    assert keys[0] != changed[0]
    assert keys[1] != changed[1]
    (photos / "elm" / "gone.png").write_bytes(b"here now")
    assert state_key(data_state(table)) != changed[0]


def test_the_home_folder_is_filled_in(photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert state_key(data_state("~/photos")) == state_key(data_state(photos)) != ""


def test_the_file_that_changed_is_named(photos):
    before = data_state(photos)
    os.utime(photos / "elm" / "1.png", (1, 1))
    (photos / "ash" / "0.png").unlink()
    words = changed_files(before, data_state(photos))
    assert words == f"changed: {photos}/elm/1.png; removed: {photos}/ash/0.png"
    with pytest.raises(InputError, match=r"were changed while the command ran \(last: .*elm/1.png\)"):
        check_unchanged(str(photos), None, state_key(before))
    check_unchanged(str(photos), None, state_key(data_state(photos)))


@pytest.mark.parametrize("data", ["digits", "glyphs:classes=20", "no-such-name", "diabetes", "planted"])
def test_data_without_files_has_no_state(data):
    assert state_key(data_state(data)) == ""
