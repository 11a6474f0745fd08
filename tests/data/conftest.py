"""Scenes, the annotated images that are made of them, and sets that are not those of this machine."""

import json
import warnings

import pytest
import torch
from PIL import Image

from annotated import COUNT, SIDE
from counterpoise.data import known_sets
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.scenes import Scenes


@pytest.fixture(scope="module")
def made():
    return Scenes(COUNT, size=SIDE, most=7)


@pytest.fixture(scope="module")
def data(made):
    return from_scenes(made)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def nothing_of_this_machine(request, tmp_path, monkeypatch):
    if "full" not in request.node.name:
        monkeypatch.delenv("COUNTERPOISE_DATA", raising=False)
    monkeypatch.setenv("COUNTERPOISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_sets, "DEBIAN", tmp_path / "debian")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A Hugging Face set on disk: 10 train and 4 test images, one of them damaged, one without a label."""
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    def stored(value):
        file = BytesIO()
        Image.new("L", (5, 5), value).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    def part(values):
        features = datasets.Features(
            {
                "id": datasets.Value("int64"),
                "photo": datasets.Image(),
                "kind": datasets.ClassLabel(names=["cat", "dog"]),
            }
        )
        photos = [stored(value) for value in values]
        kinds = [value % 2 for value in values]
        if 0 in values:
            photos[3]["bytes"], kinds[5] = b"damaged", -1
        columns = {"id": list(values), "photo": photos, "kind": kinds}
        return datasets.Dataset.from_dict(columns, features=features)

    folder = tmp_path_factory.mktemp("hf")
    whole = datasets.DatasetDict(train=part(range(10)), validation=part([1, 2]), test=part(range(10, 14)))
    whole.save_to_disk(str(folder / "pets"))
    whole["test"].save_to_disk(str(folder / "single"))
    whole["test"].remove_columns("photo").save_to_disk(str(folder / "no-images"))
    renamed = whole["test"].cast_column("kind", datasets.Value("int64")).rename_column("kind", "Label")
    renamed.save_to_disk(str(folder / "by-name"))
    return folder


@pytest.fixture
def coco(tmp_path):
    """Two images with an object each in one square, and a third without; `change` alters the annotations."""

    def make(change=lambda content: None):
        generator = torch.Generator().manual_seed(0)
        for name in ("a", "b", "c"):
            pixels = torch.randint(256, (20, 30, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / f"{name}.png")
        square = {"category_id": 3, "bbox": [10, 5, 10, 10], "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]}
        content = {
            "images": [
                {"id": i, "file_name": f"{name}.png", "height": 20, "width": 30} for i, name in enumerate("abc")
            ],
            "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "ash"}],
            "annotations": [{"id": 7 + i, "image_id": i, **square} for i in range(2)],
        }
        change(content)
        (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return make
