import json
import os

import pytest

from counterpoise.errors import InputError
from counterpoise.files import (
    aside_of,
    check_output,
    is_output,
    locked,
    make_folder,
    make_output_folder,
    output,
    outputs_in,
    read_json,
    write_json,
    written,
)


def test_an_error_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"x": 1})

    def broken():
        with written(target) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert json.loads(target.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_malformed_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": 1,\n oops}')
    with pytest.raises(InputError, match=r"a\.json: malformed JSON, line 2"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        make_folder(tmp_path / "f")


def test_what_a_user_made_or_changed_is_not_replaced(tmp_path):
    target = tmp_path / "photos-sheet.png"
    target.write_text("a user's")
    with (
        pytest.raises(InputError, match=r"photos-sheet.png: is there, and was not written by counterpoise"),
        output(target),
    ):
        pass
    assert target.read_text() == "a user's"
    target.unlink()
    for text in ("first", "second"):
        with output(target) as aside:
            aside.write_text(text)
    assert target.read_text() == "second"
    target.write_text("retouched")
    with pytest.raises(InputError, match="was changed since"):
        check_output(target)


def test_an_input_is_no_output_by_whatever_name(tmp_path):
    table, link = tmp_path / "t.csv", tmp_path / "link.csv"
    with output(table) as aside:
        aside.write_text("our own")
    link.symlink_to(table)
    for name in (table, link, tmp_path / ".." / tmp_path.name / "t.csv"):
        with pytest.raises(InputError, match="is what the command reads"):
            check_output(name, [table])
    with pytest.raises(InputError, match="was not written by counterpoise"):
        check_output(link)
    (tmp_path / "loose.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="was not written by counterpoise"):
        check_output(tmp_path / "loose.csv")
    with pytest.raises(InputError, match="is a folder"):
        check_output(tmp_path)


def test_only_new_empty_and_own_folders_are_filled(tmp_path):
    for _ in range(2):
        make_output_folder(tmp_path / "new" / "run", "run")
    with pytest.raises(InputError, match=r"holds the files of another command \(run, not comparison\)"):
        make_output_folder(tmp_path / "new" / "run", "comparison")
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / ".notes.part").write_text("mine")
    with pytest.raises(InputError, match=r"users: holds what counterpoise did not write \(.notes.part\)"):
        make_output_folder(tmp_path / "users", "run")
    assert [path.name for path in (tmp_path / "users").iterdir()] == [".notes.part"]


def test_opening_a_folder_clears_only_what_killed_processes_of_ours_left(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    users = ["film.mkv.part", ".notes.partial.txt", "mine/.counterpoise-notes.txt", "runs/a/.x.7.part.json", ".lock"]
    dead = aside_of(tmp_path / "a.json").name.replace(f"-{os.getpid()}-", "-4194305-")  # above the largest number
    alive = aside_of(tmp_path / "a.json").name
    for name in [*users, dead, f"runs/a/{dead}", alive]:
        (tmp_path / name).write_text("text")
    with locked(tmp_path, "comparison"):
        assert not (tmp_path / dead).exists()
        assert not (tmp_path / "runs" / "a" / dead).exists()
    assert all((tmp_path / name).read_text() == "text" for name in [*users, alive])


def test_a_folder_that_holds_only_outputs_is_one(tmp_path):
    make_output_folder(tmp_path / "counterpoise-out" / "demo", "comparison")
    with output(tmp_path / "features.npy") as aside:
        aside.write_text("numbers")
    (tmp_path / "photos").mkdir()
    assert is_output(tmp_path / "counterpoise-out")
    assert outputs_in(tmp_path) == {"features.npy"}
    assert not is_output(tmp_path / "photos")
    (tmp_path / "photos" / "a.png").write_text("a user's")
    assert not is_output(tmp_path / "photos")
    assert not is_output(tmp_path)


def test_a_record_that_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / ".counterpoise.json").write_text("[]")
    with pytest.raises(InputError, match="is not a record of counterpoise"), output(tmp_path / "a.png") as aside:
        aside.write_text("x")
    assert (tmp_path / ".counterpoise.json").read_text() == "[]"
