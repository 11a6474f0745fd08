"""The pictures of runs on the page: every pixel as it was written, large ones reduced, missing ones named."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from counterpoise.data.strips import write_strips
from counterpoise.report import strips


def method(label, *seeds, status="done"):
    return {"label": label, "runs": [{"seed": s, "status": status, "folder": f"runs/{label}-{s}"} for s in seeds]}


def pixels(rows=2, columns=2, height=6, width=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3, height, width), dtype=np.uint8)


@pytest.fixture
def keep(tmp_path):
    def write(run, array, **options):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True, exist_ok=True)
        write_strips(folder / "strips.npz", array, [f"c{k}" for k in range(array.shape[1])], **options)

    return write


def decoded(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_pictures_are_those_of_the_first_finished_seed_to_the_pixel(keep, tmp_path):
    keep("a-1", pixels(seed=1), rows=["first", "second"], caption="Two rows.")
    keep("a-2", pixels(seed=2))
    entry = method("a", 0, 1, 2)
    entry["runs"][0]["status"] = "failed"
    found = strips.strips([entry], tmp_path, expected=True)
    [table] = found["tables"]
    assert (table["label"], table["seed"], table["size"]) == ("a", 1, (4, 6))
    assert (found["caption"], table["caption"]) == ("Two rows.", "")
    assert table["columns"] == ("c0", "c1")
    assert [row["name"] for row in table["rows"]] == ["first", "second"]
    for row, expected in zip(table["rows"], pixels(seed=1), strict=True):
        for picture, one in zip(row["pictures"], expected, strict=True):
            np.testing.assert_array_equal(decoded(picture["uri"]).transpose(2, 0, 1), one)
    assert table["rows"][1]["pictures"][0]["says"] == "a, second: c0"
    assert found["left_out"] == []


def test_rows_without_titles_are_counted_in_the_alternative_text(keep, tmp_path):
    keep("a-0", pixels())
    [table] = strips.strips([method("a", 0)], tmp_path, expected=True)["tables"]
    assert not table["named"]
    assert table["rows"][1]["pictures"][1]["says"] == "a, row 2: c1"


def test_captions_that_differ_stand_with_their_methods(keep, tmp_path):
    keep("a-0", pixels(), caption="One.")
    keep("b-0", pixels(), caption="Two.")
    found = strips.strips([method("a", 0), method("b", 0)], tmp_path, expected=True)
    assert found["caption"] == ""
    assert [table["caption"] for table in found["tables"]] == ["One.", "Two."]


def test_large_pictures_are_reduced_and_masks_keep_their_colours(keep, tmp_path):
    mask = np.zeros((1, 1, 3, 400, 200), np.uint8)
    mask[..., ::2, :] = 200
    keep("a-0", mask)
    keep("b-0", pixels(1, 1, 100, 320))
    masks, noise = strips.strips([method("a", 0), method("b", 0)], tmp_path, expected=True)["tables"]
    assert masks["size"] == (80, 160)
    assert noise["size"] == (160, 50)
    assert masks["reduced"]
    small = decoded(masks["rows"][0]["pictures"][0]["uri"])
    assert small.shape == (160, 80, 3)
    assert set(np.unique(small)) <= {0, 200}
    averaged = decoded(noise["rows"][0]["pictures"][0]["uri"])
    assert averaged.std() < pixels(1, 1, 100, 320).std() * 0.8


def test_rows_beyond_the_budget_are_counted_and_their_file_is_named(keep, tmp_path, monkeypatch):
    keep("a-0", pixels(rows=5))
    monkeypatch.setattr(strips, "BUDGET", 3 * 2 * 3 * 6 * 4)
    [table] = strips.strips([method("a", 0)], tmp_path, expected=True)["tables"]
    assert len(table["rows"]) == 3
    assert table["left_out"] == "2 more rows are in runs/a-0/strips.npz"
    monkeypatch.setattr(strips, "BUDGET", 1)
    [table] = strips.strips([method("a", 0)], tmp_path, expected=True)["tables"]
    assert len(table["rows"]) == 1, "one row at the least"


def test_missing_and_damaged_files_are_named_where_any_are_expected(keep, tmp_path):
    keep("a-0", pixels())
    keep("b-0", pixels())
    (tmp_path / "runs/b-0/strips.npz").write_bytes(b"no archive")
    rows = [method("a", 0), method("b", 0), method("c", 0), method("d", 0, status="failed")]
    for expected in (True, False):
        found = strips.strips(rows, tmp_path, expected)
        assert [table["label"] for table in found["tables"]] == ["a"]
        assert found["left_out"] == [
            "b, seed 0: strips.npz cannot be read (File is not a zip file)",
            "c, seed 0: there is no strips.npz",
            "d: no seed finished",
        ]


def test_where_no_run_has_a_file_only_an_expected_one_is_missed(tmp_path):
    rows = [method("a", 0), method("b", 0, status="failed")]
    assert strips.strips(rows, tmp_path, expected=False) == {"tables": [], "caption": "", "left_out": []}
    assert len(strips.strips(rows, tmp_path, expected=True)["left_out"]) == 2
