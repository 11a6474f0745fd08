"""Maps of classes as files: what is in them, how they are called, and what is refused."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from counterpoise.commands import predict as command
from counterpoise.commands.predict import predict
from counterpoise.commands.predicted_maps import MOST_CLASSES, colour, file_names, gives_maps, write_maps
from counterpoise.data.images import Images
from counterpoise.errors import InputError


class Brightness(nn.Module):
    """Logits of two classes for each pixel: dark, and bright."""

    classes = 2

    def forward(self, images):
        return torch.cat([-images, images], 1)


def made(count=3):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 4, 6), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.full((count,), -1), (), "made")


def test_each_pixel_has_the_index_of_its_likeliest_class(tmp_path):
    images = made()
    paths = write_maps(Brightness(), images, ["a.jpg", "b/c.jpg", "d.jpg"], ["dark", "bright"], tmp_path / "maps", 2)
    assert [str(path.relative_to(tmp_path / "maps")) for path in paths] == ["a.png", "b/c.png", "d.png"]
    for path, pixels in zip(paths, images.pixels[:, 0].numpy(), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), (pixels > 127).astype(np.uint8))
    with (tmp_path / "maps" / "classes.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["dark", "bright"]


def test_a_second_call_replaces_its_own_maps_and_no_other_folder(tmp_path):
    for _ in range(2):
        write_maps(Brightness(), made(), ["a", "b", "c"], ["dark", "bright"], tmp_path / "maps")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match="mine"):
        write_maps(Brightness(), made(), ["a", "b", "c"], ["dark", "bright"], tmp_path / "mine")


def test_no_name_leads_out_of_the_folder():
    assert file_names(["../../etc/passwd", "/root/x.png", "a/../b.png"]) == ["etc/passwd.png", "root/x.png", "a/b.png"]


def test_every_class_has_a_colour_of_its_own():
    assert len({colour(index) for index in range(MOST_CLASSES)}) == MOST_CLASSES


@pytest.mark.parametrize(
    ("net", "classes", "message"),
    [
        (Brightness(), ["dark"], r"expected logits \[images, 1, height, width\], got shape \[3, 2, 4, 6\]"),
        (nn.Sequential(Brightness(), nn.Threshold(9, torch.nan)), ["dark", "bright"], "NaN or infinite"),
        (Brightness(), [str(i) for i in range(256)], "expected at most 255 classes"),
    ],
)
def test_logits_that_make_no_map_are_refused(net, classes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_maps(net, made(), ["a", "b", "c"], classes, tmp_path / "maps")


def test_networks_of_maps_are_known_by_what_they_give():
    assert gives_maps(Brightness(), made())
    assert not gives_maps(nn.Flatten(), made())


def test_predict_names_the_map_of_each_image(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    for i, pixels in enumerate(made().pixels[:, 0].numpy()):
        Image.fromarray(pixels[:, :4]).save(tmp_path / "new" / f"{i}.png")
    (tmp_path / "new" / "3.png").write_bytes(b"no image")
    config = {"shape": [1, 4, 4], "classes": ["dark", "bright"]}
    monkeypatch.setattr(command, "load_labelling_net", lambda folder: (Brightness(), config))
    with pytest.warns(UserWarning, match="their images being unreadable"):
        found = predict("run", tmp_path / "new", tmp_path / "out.csv")
    assert [one.map for one in found] == ["out/0.png", "out/1.png", "out/2.png", None]
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["map"] for row in csv.DictReader(file)] == ["out/0.png", "out/1.png", "out/2.png", ""]
    assert np.asarray(Image.open(tmp_path / "out" / "0.png")).shape == (4, 4)
