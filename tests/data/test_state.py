import json
import os
from functools import partial

import numpy as np
import pytest

from counterpoise.data import named
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


def key_after(data, path, content=b"another"):
    """The key of the data's state before and after a file of it has another content."""
    before = state_key(data_state(data))
    path.write_bytes(content)
    return before, state_key(data_state(data))


@pytest.mark.parametrize("option", ["", ":labels=others.npy"])
def test_a_matrix_and_its_labels_count(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    for name in ("x.npy", "x.labels.npy", "others.npy"):
        np.save(tmp_path / name, np.zeros(3))
    keys = key_after(f"x.npy{option}", tmp_path / "x.npy")
    assert "" != keys[0] != keys[1]
    used, unused = ("others.npy", "x.labels.npy") if option else ("x.labels.npy", "others.npy")
    keys = key_after(f"rows:x.npy{option}", tmp_path / used)
    assert keys[0] != keys[1]
    keys = key_after(f"rows:x.npy{option}", tmp_path / unused)
    assert keys[0] == keys[1]


@pytest.mark.parametrize("spec", ["rows:{}", "rows:{}:label=b", "{}:label=b", "{}"])
def test_a_table_of_rows_counts_whatever_stands_around_its_name(tmp_path, spec):
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,x\n2,y\n")
    before, after = key_after(spec.format(table), table)
    assert "" != before != after


def test_a_theme_of_icons_counts_and_its_index(tmp_path, monkeypatch):
    monkeypatch.setattr(named, "source_files", partial(named.source_files, root=tmp_path))
    icon = tmp_path / "Tango" / "48x48" / "apps" / "a.png"
    icon.parent.mkdir(parents=True)
    icon.write_bytes(b"pixels")
    index = tmp_path / "Tango" / "index.theme"
    index.write_text("[Icon Theme]\nName=x\nDirectories=48x48/apps\n\n[48x48/apps]\nSize=48\nContext=Apps\n")
    keys = [*key_after("icons:themes=tango", icon), *key_after("icons:themes=tango", index, index.read_bytes() + b"\n")]
    assert "" not in keys
    assert len({*keys}) == 3
    assert state_key(data_state("icons:themes=oxygen")) != keys[-1]


def test_emoji_count_and_their_names(tmp_path):
    picture = tmp_path / "img" / "twitter" / "64" / "0.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"pixels")
    entry = {"name": "A", "short_name": "a", "image": "0.png", "category": "b", "subcategory": "c"}
    names = tmp_path / "emoji.json"
    names.write_text(json.dumps([entry]))
    keys = key_after(f"emoji:{tmp_path}", picture)
    more = key_after(f"emoji:{tmp_path}:label=category", names, json.dumps([{**entry, "name": "B"}]).encode())
    assert "" not in keys
    assert keys[0] != keys[1] == more[0] != more[1]


@pytest.fixture
def boxes(tmp_path):
    """A folder in COCO's format of two images; one of them is not there."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 4} for i in range(2)]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(b"pixels")
    return tmp_path


def test_annotations_count_and_the_images_that_they_name(boxes):
    keys = [*key_after(boxes, boxes / "images" / "0.png"), *key_after(boxes, boxes / "images" / "1.png")]
    file = boxes / "annotations.json"
    keys += key_after(boxes, file, file.read_bytes() + b" ")
    assert "" not in keys
    assert len({*keys}) == 4
    alone = key_after(file, file, file.read_bytes() + b" ")
    assert "" != alone[0] != alone[1]
    before, after = key_after(file, boxes / "images" / "1.png", b"third")
    assert before != after


def test_an_image_that_the_annotations_name_anew_counts(boxes):
    file = boxes / "annotations.json"
    state_key(data_state(boxes))
    (boxes / "images" / "2.png").write_bytes(b"pixels")
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = "2.png"
    file.write_text(json.dumps(content))
    assert {*data_state(file)} == {str(file), *(str(boxes / "images" / name) for name in ("0.png", "2.png"))}


def test_annotations_that_are_none_count_as_files(boxes, photos):
    for folder in (boxes, photos):
        file = folder / "annotations.json"
        file.write_text("notes of my own")
        for data in (folder, file):
            before, after = key_after(data, file, b"more notes")
            assert "" != before != after
            file.write_text("notes of my own")
    before, after = key_after(photos, photos / "ash" / "0.png")
    assert "" != before != after


def test_masks_count_and_the_names_of_their_classes(tmp_path):
    names = ("images/a.png", "masks/a.png", "classes.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"pixels")
    keys = [state_key(data_state(tmp_path)), *(key_after(tmp_path, tmp_path / name)[1] for name in names)]
    assert "" not in keys
    assert len({*keys}) == 4


@pytest.mark.parametrize(
    "data",
    [
        "sklearn:wine",
        "scenes:count=3",
        "nowhere.npy",
        "nowhere.json",
        "digits",
        "glyphs:classes=20",
        "no-such-name",
        "diabetes",
        "planted",
    ],
)
def test_data_without_files_has_no_state(data):
    assert state_key(data_state(data)) == ""
