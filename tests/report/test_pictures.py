"""Galleries read, thumbnails found again in the sprite, neighbours against scikit-learn, maps that keep neighbours."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from counterpoise.errors import InputError
from counterpoise.report import pictures


def save(path, **changes):
    arrays = {
        "pixels": np.zeros((4, 1, 8, 8), np.uint8),
        "labels": np.arange(4),
        "features": np.eye(4, dtype=np.float16),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_gallery_is_read_in_full_precision(tmp_path):
    gallery = pictures.read_gallery(save(tmp_path / "gallery.npz"))
    assert gallery.features.dtype == np.float32
    np.testing.assert_array_equal(gallery.features, np.eye(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None}, "cannot be read"),
        ({"pixels": np.zeros((4, 8, 8), np.uint8)}, r"expected uint8 pixels \[G C H W\]"),
        ({"pixels": np.zeros((4, 1, 8, 8))}, "expected uint8 pixels"),
        ({"labels": np.arange(3)}, "4 images, 3 labels and 4 features"),
        ({"features": np.full((4, 2), np.nan)}, "not all finite"),
        ({"labels": np.array([{}] * 4, dtype=object)}, "cannot be read"),
    ],
)
def test_a_bad_gallery_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        pictures.read_gallery(save(tmp_path / "gallery.npz", **changes))


def test_a_missing_and_a_broken_gallery(tmp_path):
    with pytest.raises(InputError, match=r"there is no gallery\.npz"):
        pictures.read_gallery(tmp_path / "gallery.npz")
    whole = save(tmp_path / "gallery.npz").read_bytes()
    (tmp_path / "gallery.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        pictures.read_gallery(tmp_path / "gallery.npz")


def test_a_gallery_changed_anywhere_is_refused_or_read_as_it_was(tmp_path):
    path = tmp_path / "gallery.npz"
    np.savez_compressed(path, pixels=np.zeros((4, 1, 8, 8), np.uint8), labels=np.arange(4), features=np.eye(4))
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = pictures.read_gallery(path)
        except InputError:
            refused += 1
        else:
            np.testing.assert_array_equal(found.features, np.eye(4))
    assert refused > 20


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_found_again_in_the_sprite(channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (53, channels, 10, 6), dtype=np.uint8)
    sheet = pictures.sprite(pixels)
    drawn = np.array(Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2]))))
    assert drawn.shape[:2] == (10 * sheet.rows, 6 * sheet.columns)
    for index in (0, 24, 25, 52):
        across, down = (float(part.rstrip("%")) / 100 for part in sheet.place(index).partition(":")[2].split())
        x, y = round(across * (sheet.columns - 1)) * 6, round(down * (sheet.rows - 1)) * 10
        cut = drawn[y : y + 10, x : x + 6].reshape(10, 6, channels)
        np.testing.assert_array_equal(cut.transpose(2, 0, 1), pixels[index])


def test_large_images_become_small_thumbnails():
    sheet = pictures.sprite(np.zeros((2, 3, 100, 200), np.uint8))
    drawn = Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2])))
    assert drawn.size == (2 * 32, 16)
    assert sheet.ratio == 2


def test_each_of_few_classes_has_a_colour_and_shape_of_its_own():
    few = pictures.colouring(np.array([40, 7, 40, 16, -1]), [f"c{k}" for k in range(50)], [])
    assert few == ([2, 0, 2, 1, 3], [(0, "c7"), (1, "c16"), (2, "c40"), (3, "no label")], "class")


def test_many_classes_have_the_colour_of_their_group():
    names = [f"c{k}" for k in range(20)]
    uneven = pictures.colouring(np.arange(20), names, [*range(100, 0, -5)])
    assert uneven.by == "group"
    assert [text.split(":")[0] for _, text in uneven.legend] == ["head", "medium", "tail"]
    assert uneven.keys == [0] * 7 + [1] * 7 + [2] * 6
    for counts in ([50] * 20, [0] * 20 + [9, 500], []):  # alike; of classes that training has not seen; not known
        runs = pictures.colouring(np.arange(20), [*names, "x", "y"], counts)
        assert len(runs.legend) == 8
        assert runs.keys == sorted(runs.keys)
        assert runs.legend[0] == (0, "c0 to c2 (3 classes)")


def test_neighbours_against_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 5)).astype(np.float32)
    search = NearestNeighbors(n_neighbors=7, metric="cosine").fit(features)
    expected = search.kneighbors(features[[3, 8]], return_distance=False)[:, 1:]
    assert pictures.neighbours(features, [3, 8]) == expected.tolist()


def test_neighbours_of_few_images():
    assert pictures.neighbours(np.eye(3, dtype=np.float32), [0]) == [[1, 2]]


def test_sample_takes_every_class_and_spreads_over_many():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(60) % 6)
    assert sorted(labels[pictures.sample(labels, 6)]) == list(range(6))
    many = pictures.sample(np.arange(100), 10)
    assert (many[0], many[-1], len(set(many))) == (0, 99, 10)


def test_the_map_keeps_clusters_apart_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    centres = 10 * np.eye(3, 8, dtype=np.float32)
    labels = np.arange(45) % 3
    features = centres[labels] + rng.standard_normal((45, 8)).astype(np.float32)
    positions = pictures.flatten(features)
    np.testing.assert_array_equal(positions, pictures.flatten(features))
    assert positions.min() == 0
    assert positions.max() == 1
    search = NearestNeighbors(n_neighbors=2).fit(positions)
    nearest = search.kneighbors(positions, return_distance=False)[:, 1]
    assert (labels[nearest] == labels).mean() > 0.95


def test_a_map_of_one_dimension():
    rng = np.random.default_rng(0)
    assert np.isfinite(pictures.flatten(rng.standard_normal((9, 1)).astype(np.float32))).all()


def test_collapse_has_no_map():
    with pytest.raises(InputError, match="complete collapse"):
        pictures.flatten(np.ones((20, 4), np.float32))
    with pytest.raises(InputError, match="complete collapse"):
        pictures.flatten(np.zeros((20, 4), np.float32))
    with pytest.raises(InputError, match="at least 4 images, got 3"):
        pictures.flatten(np.eye(3, dtype=np.float32))


def test_thumbnails_do_not_touch():
    rng = np.random.default_rng(0)
    positions = rng.random((300, 2))
    chosen = [index for index, _ in pictures.thumbnails(positions)]
    at = 18 + 364 * positions[chosen]
    apart = np.abs(at[:, None] - at).max(-1) + 1e9 * np.eye(len(chosen))
    assert len(chosen) > 10
    assert apart.min() >= pictures.APART
