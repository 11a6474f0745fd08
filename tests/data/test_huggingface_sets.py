"""Sets of Hugging Face: their splits, columns, labels and factors."""

import pytest
from PIL import Image

from counterpoise.data import huggingface_sets, load
from counterpoise.data.sources import load_all
from counterpoise.errors import InputError, MissingExtra

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


def test_huggingface_from_disk(pets):
    with pytest.warns(UserWarning, match=r"hf:pets: 1 of 14 images cannot be read and are left out: train\[3\]"):
        train, test = load(f"hf:{pets}/pets")
    assert train.classes == ("cat", "dog")
    assert train.pixels[:, 0, 2, 2].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert train.labels.tolist() == [0, 1, 0, 0, -1, 0, 1, 0, 1]
    assert test.pixels[:, 0, 2, 2].tolist() == [10, 11, 12, 13]
    assert "left out of the data: validation" in train.notes


def test_huggingface_without_splits_or_class_type(pets):
    train, test = load(f"hf:{pets}/single")
    assert (train.counts() + test.counts()).tolist() == [2, 2]
    assert load(f"hf:{pets}/by-name").train.classes == ("0", "1")


def test_huggingface_errors(pets, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="expected a column of images, found: id, kind"):
        load(f"hf:{pets}/no-images")
    with pytest.raises(InputError, match=r"hf:some/where: no such folder; download=True \(--download\)"):
        load("hf:some/where")
    with pytest.raises(InputError, match="cannot be loaded"):
        load(f"hf:{tmp_path}")
    monkeypatch.setattr(huggingface_sets, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"counterpoise\[huggingface\]"):
        load("hf:some/where")


@pytest.fixture(scope="module")
def make_set(tmp_path_factory):
    """Writes a Hugging Face set, whose splits are given by their columns; image i of a split is of the value i."""
    datasets = pytest.importorskip("datasets")
    from io import BytesIO

    def stored(value):
        file = BytesIO()
        Image.new("L", (5, 5), value).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    def part(columns):
        count = len(next(iter(columns.values())))
        given = {"image": [stored(i) for i in range(count)], **{name: list(values) for name, values in columns.items()}}
        whole = datasets.Dataset.from_dict(given).cast_column("image", datasets.Image())
        for name, values in columns.items():
            if hasattr(values, "names"):
                whole = whole.cast_column(name, datasets.ClassLabel(names=values.names))
        return whole

    def make(**parts):
        folder = tmp_path_factory.mktemp("hf")
        datasets.DatasetDict({name: part(columns) for name, columns in parts.items()}).save_to_disk(str(folder))
        return f"hf:{folder}"

    return make


class Classes(list):
    """Values of a column that knows its classes."""

    def __init__(self, values, names):
        super().__init__(values)
        self.names = names


def test_huggingface_validation_and_labels_as_those_of_folders(make_set):
    name = make_set(train={"label": ["b", "a", "nan", None]}, validation={"label": ["a", "c"]})
    train, test = load(name)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("a", "b", "c"), [1, 0, -1, -1], [0, 2])
    whole = load_all(name)
    assert whole.splits == ("train",) * 4 + ("validation",) * 2
    assert whole.labels == ("b", "a", None, None, "a", "c")
    assert whole.images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    with pytest.raises(InputError, match="expected a split named train to learn from, found: test"):
        load(make_set(test={"label": ["a"]}))


def test_huggingface_classes_that_differ_between_splits(make_set):
    name = make_set(
        train={"label": Classes([0, 1, -1], ["cat", "dog"])}, test={"label": Classes([0, 1], ["dog", "cat"])}
    )
    train, test = load(name)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("cat", "dog"), [0, 1, -1], [1, 0])
    unlabelled = make_set(train={"label": Classes([1, 0], ["dog", "cat"])}, test={"number": [1, 2]})
    train, test = load(unlabelled)
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("dog", "cat"), [1, 0], [-1, -1])


@pytest.mark.filterwarnings("ignore:.*nearly constant")
def test_huggingface_columns_of_factors_are_those_of_tables(make_set):
    name = make_set(
        train={
            "domain": Classes([0, 1, -1, 1], ["sketch", "photo"]),
            "label": Classes([0, 1, 0, 1], ["cat", "dog"]),
            "Client": ["10", "9", "nan", "9"],
            "forget": ["yes", "no", "1", ""],
        },
        test={"domain": Classes([1, 0], ["sketch", "photo"]), "label": Classes([1, 0], ["cat", "dog"])},
    )
    with pytest.warns(match="column 'client': values in this order .*: 9, 10; 3 rows have none"):
        train, test = load(name)
    assert (train.classes, train.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert train.factor_names["domain"] == test.factor_names["domain"] == ("photo", "sketch")
    assert (train.factors["domain"].tolist(), test.factors["domain"].tolist()) == ([1, 0, -1, 0], [0, 1])
    assert (train.factors["client"].tolist(), test.factors["client"].tolist()) == ([1, 0, -1, 0], [-1, -1])
    assert (train.factors["forget"].tolist(), train.factor_names["forget"]) == ([1, 0, 1, 0], ("kept", "forgotten"))
    with pytest.raises(InputError, match="columns 'Step' and 'step' may each be the step"):
        load(make_set(train={"label": ["a"], "Step": ["1"], "step": ["2"]}))


@pytest.mark.filterwarnings("ignore:.*nearly constant")
def test_the_only_huggingface_column_of_classes_is_the_label_whatever_it_is_called(make_set):
    train, _ = load(
        make_set(train={"group": Classes([0, 1, 0, 1], ["cat", "dog"])}, test={"group": Classes([0], ["cat", "dog"])})
    )
    assert (train.classes, train.factors) == (("cat", "dog"), {})


def test_huggingface_columns_that_are_refused(make_set):
    with pytest.raises(InputError, match="columns class and target may each be the label"):
        load(make_set(train={"class": ["a"], "target": ["b"]}))
    with pytest.raises(InputError, match="column 'label' holds lists; expected one text or number"):
        load(make_set(train={"label": [["a"]]}))
    with pytest.warns(match=r"column 'fine' serves as label"), pytest.warns(match=r"not used \(1\): coarse"):
        load(make_set(train={"fine": Classes([0, 0], ["a"]), "coarse": Classes([0, 0], ["b"])}))
