"""Strips of pictures, written and read again; files that are damaged, hostile or too large."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch

from counterpoise.data import strips
from counterpoise.data.strips import Strips, read_strips, write_strips
from counterpoise.errors import InputError, Unwritable

COLUMNS = ("image", "truth", "prediction")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "strips.npz"


def pictures(rows=2, columns=3, channels=3, height=4, width=5):
    return np.random.default_rng(0).integers(0, 256, (rows, columns, channels, height, width), dtype=np.uint8)


def archive(path, **changes):
    """A file with the arrays of `write_strips`, some of them replaced or, by None, left out."""
    arrays = {
        "pixels": pictures(),
        "columns": np.array(COLUMNS),
        "rows": np.array(["a", "b"]),
        "caption": np.array([""]),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def member(path, content, name="pixels"):
    """A file in which one member's bytes are these."""
    archive(path, **{name: None})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"{name}.npy", content)
    return path


def npy(shape, body=b"", dtype="|u1"):
    """The bytes of an array whose header claims a shape, whatever follows it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def test_what_is_written_is_read_again(path):
    caption = "Two scenes: “zwei” 場面."
    write_strips(path, pictures(), COLUMNS, ["scene 3", ""], caption)
    found = read_strips(path)
    np.testing.assert_array_equal(found.pixels, pictures())
    assert found[1:] == (COLUMNS, ("scene 3", ""), caption)
    assert [entry.name for entry in path.parent.iterdir()] == ["strips.npz"], "nothing is left beside it"


def test_titles_of_rows_and_the_caption_may_be_left_out(path):
    write_strips(path, pictures(), list(COLUMNS))
    assert read_strips(path)[1:] == (COLUMNS, (), "")


def test_tensors_are_taken_and_grey_pictures_become_rgb(path):
    grey = torch.from_numpy(pictures(channels=1))
    write_strips(path, grey, COLUMNS)
    found = read_strips(path).pixels
    assert found.shape == (2, 3, 3, 4, 5)
    for channel in range(3):
        np.testing.assert_array_equal(found[:, :, channel], grey[:, :, 0].numpy())


def test_an_array_in_fortran_order_is_read_as_it_is(path):
    np.testing.assert_array_equal(read_strips(archive(path, pixels=np.asfortranarray(pictures()))).pixels, pictures())


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixels": pictures().astype(np.float32)}, r"pixels: expected uint8 \[rows columns 3 .*, got float32"),
        ({"pixels": pictures(channels=4)}, r"pixels: expected uint8 .* got uint8 \[2, 3, 4, 4, 5\]"),
        ({"pixels": pictures()[0]}, r"pixels: expected uint8 .* got uint8 \[3, 3, 4, 5\]"),
        ({"pixels": pictures(rows=0)}, r"none of them 0, got uint8 \[0, 3, 3, 4, 5\]"),
        ({"pixels": pictures(rows=257, height=1, width=1)}, "at most 256 rows and 64 columns, got 257 and 3"),
        ({"pixels": pictures(columns=65), "columns": ["x"] * 65}, "at most 256 rows and 64 columns, got 2 and 65"),
        ({"pixels": pictures(1, 3, 3, 1025, 1)}, "at most 1024 pixels a side, got 1025 × 1"),
        ({"columns": COLUMNS[:2]}, "columns: expected 3 titles, one a column, got 2"),
        ({"columns": "abc"}, "columns: expected a sequence of texts, got 'abc'"),
        ({"columns": ["a", "b", 3]}, "columns: expected a sequence of texts"),
        ({"columns": ["a", "b", " "]}, "columns: expected a title for every column, got an empty one"),
        ({"columns": ["a", "b", "c" * 201]}, "titles of at most 200 characters, got one of 201"),
        ({"rows": ["a"]}, "rows: expected 2 titles, one a row, or none, got 1"),
        ({"caption": "c" * 1001}, "caption: expected a text of at most 1000 characters, got 1001 characters"),
        ({"caption": None}, "caption: expected a text .* got NoneType"),
    ],
)
def test_wrong_pictures_and_titles_are_refused_and_nothing_is_written(path, options, message):
    with pytest.raises(InputError, match=message):
        write_strips(path, **({"pixels": pictures(), "columns": COLUMNS} | options))
    assert not path.exists()


def test_more_pixels_than_allowed_are_refused(path, monkeypatch):
    monkeypatch.setattr(strips, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"pixels: expected at most 1 MiB, got 2\.2 MiB"):
        write_strips(path, pictures(1, 3, 3, 512, 512), COLUMNS)
    monkeypatch.undo()
    write_strips(path, pictures(1, 3, 3, 512, 512), COLUMNS)
    monkeypatch.setattr(strips, "MOST_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"strips\.npz: pixels: expected at most 1,048,576 bytes, got 2,359,"):
        read_strips(path)


def test_a_folder_that_is_gone_is_named(tmp_path):
    with pytest.raises(Unwritable, match="gone: is not there any more"):
        write_strips(tmp_path / "gone" / "strips.npz", pictures(), COLUMNS)


def test_a_missing_file_is_named(path):
    with pytest.raises(InputError, match=r"there is no strips\.npz"):
        read_strips(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": None}, r"strips\.npz: pixels: expected an array of this name, got none"),
        ({"caption": None}, r"strips\.npz: caption: expected an array of this name, got none"),
        ({"pixels": pictures().astype(float)}, r"pixels: expected uint8 .* got float64"),
        ({"columns": np.array([1, 2, 3])}, r"columns: expected a vector of texts, got int64 \[3\]"),
        ({"columns": np.array([COLUMNS])}, r"columns: expected a vector of texts, got <U10 \[1, 3\]"),
        ({"columns": np.array([{}] * 3, dtype=object)}, r"columns: expected \d+ bytes of plain values"),
        ({"columns": np.array(["a", "b"])}, "columns: expected 3 titles"),
        ({"rows": np.array(["a"] * 3)}, "rows: expected 2 titles"),
        ({"rows": np.array(["a" * 201, "b"])}, "rows: expected titles of at most 200 characters"),
        ({"rows": np.array(["a"] * 300000)}, "rows: expected at most 204,800 bytes, got 1,200,"),
        ({"caption": np.array(["a", "b"])}, "caption: expected one text, got 2"),
    ],
)
def test_a_file_with_other_arrays_is_refused_by_name(path, changes, message):
    with pytest.raises(InputError, match=message):
        read_strips(archive(path, **changes))


def test_a_file_cut_short_anywhere_or_changed_anywhere_is_refused_or_read_whole(path):
    whole = archive(path).read_bytes()
    expected = read_strips(path)
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"strips\.npz"):
            read_strips(path)
    refused = 0
    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = read_strips(path)
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(found.pixels, expected.pixels)
            assert found[1:] == expected[1:]
    assert refused > 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no array", "cannot be read"),
        (npy((10**12, 3, 3, 4, 5)), r"the header claims 180000000000000 of uint8"),
        (npy((2, 3, 3, 4, 5), b"short"), "expected 5 bytes of plain values, the header claims 360"),
        (npy((-1, 3)), "pixels"),
        (npy((2,), b"cos\nsystem\n", "|O"), "plain values"),
        (b"\x93NUMPY\x03\x00" + struct.pack("<I", 4) + b"{}  ", r"expected version 1\.0 or 2\.0"),
    ],
)
def test_a_header_that_lies_takes_no_memory(path, content, message):
    with pytest.raises(InputError, match=message):
        read_strips(member(path, content))


def test_a_member_that_unpacks_to_more_than_it_may_is_not_unpacked(path, monkeypatch):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("pixels.npy", bytes(strips.MOST_BYTES + strips.HEADER_BYTES + 1))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(InputError, match=r"pixels: expected at most 67,108,864 bytes, got 67,125,249"):
        read_strips(path)


def test_strips_are_plain_named_tuples():
    made = Strips(pictures(), COLUMNS)
    assert made.rows == ()
    assert made.caption == ""
