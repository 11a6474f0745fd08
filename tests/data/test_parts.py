"""Images, rows and annotated images alike: imperfections, factors, and parts that are joined."""

import subprocess
import sys

import pytest
import torch

from counterpoise import data
from counterpoise.data.annotated import Annotated, AnnotatedSplits, hide_maps
from counterpoise.data.annotated_parts import join
from counterpoise.data.annotated_scenes import from_scenes
from counterpoise.data.draws import seeded
from counterpoise.data.images import Images, Splits, joined
from counterpoise.data.imperfect import IMPERFECTIONS, make_imperfect, make_imperfect_with_truth
from counterpoise.data.parts import Labelled, Mapped, Pair, Part, Pictures
from counterpoise.data.rows import Rows, RowSplits, joined_rows
from counterpoise.data.scenes import Scenes
from counterpoise.data.targets import Targets
from counterpoise.errors import InputError

CLASSES = ("a", "b", "c", "d", "e")
DOMAINS = ("day", "night", "dusk")
OF_LABELS = [
    ["long-tail=10"],
    ["random-tail=10"],
    ["linear-tail=10"],
    ["fewer=0.5"],
    ["label-noise=0.4"],
    ["label-noise-asymmetric=0.4"],
    ["label-noise-by-size=0.4"],
    ["unlabelled=0.9"],
    ["labelled=0.3"],
    ["unknown=2"],
    ["missing=2"],
    ["outsiders=0.4", "unlabelled=0.9"],
    ["known=0.4"],
    ["new-classes=2"],
    ["steps=2", "first-step=1"],
    ["domain-steps=2"],
    ["clients=3", "client-skew=0.5"],
    ["forget=0.2"],
    ["forget-class=2", "forget=0.2"],
    ["forget-class=a,c"],
]
OF_PIXELS = ["tint=0.5", "blur=1", "noise=0.1", "client-tint=1", "client-noise=0.3"]
EVERY = {"unlabelled", "clients", "domain-steps", "forget"}


def images(count: int = 200) -> Images:
    pixels = torch.arange(count)[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8)
    domains = torch.arange(count) // 7 % 3
    made = Images(pixels, torch.arange(count) % 5, CLASSES, "toy", paths=tuple(map(str, range(count))))
    return made.with_factor("domain", domains, DOMAINS)


def rows(count: int = 200) -> Rows:
    """Rows with the labels, paths and domains of `images`; the number in each is its place."""
    same = images(count)
    inputs = torch.arange(count)[:, None].float()
    return Rows(
        inputs, same.labels, CLASSES, "toy", paths=same.paths, factors=same.factors, factor_names=same.factor_names
    )


@pytest.fixture(scope="module")
def scenes() -> AnnotatedSplits:
    return AnnotatedSplits(*(from_scenes(Scenes(count, part, size=32)) for count, part in ((20, "train"), (6, "test"))))


def test_all_three_are_parts_and_each_is_what_its_kind_has(scenes):
    kinds = {Images: images(5), Rows: rows(5), Annotated: scenes.train}
    assert all(isinstance(part, Part) for part in kinds.values())
    assert [kind for kind, part in kinds.items() if isinstance(part, Pictures)] == [Images, Annotated]
    assert [kind for kind, part in kinds.items() if isinstance(part, Mapped)] == [Annotated]
    assert isinstance(kinds[Rows], Labelled)
    assert isinstance(kinds[Images], Labelled)
    assert all(isinstance(pair, Pair) for pair in (scenes, Splits(images(2), images(2)), RowSplits(rows(2), rows(2))))


@pytest.mark.parametrize("specs", OF_LABELS)
def test_what_needs_labels_alone_does_the_same_to_rows_as_to_images(specs):
    of_rows, truth = make_imperfect_with_truth(RowSplits(rows(), rows(60)), specs, seed=3)
    of_images, true = make_imperfect_with_truth(Splits(images(), images(60)), specs, seed=3)
    assert isinstance(of_rows, RowSplits)
    assert torch.equal(truth, true)
    for ours, theirs in zip(of_rows, of_images, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.paths == theirs.paths
        assert ours.inputs[:, 0].long().tolist() == list(map(int, ours.paths))
        assert ours.factors.keys() == theirs.factors.keys()
        assert all(torch.equal(values, theirs.factors[name]) for name, values in ours.factors.items())
        assert ours.factor_names == theirs.factor_names
        assert ours.notes == tuple(note.replace("images", "rows") for note in theirs.notes)
    assert any(part.notes for part in of_rows)


def test_the_notes_of_rows_speak_of_rows():
    made = make_imperfect(RowSplits(rows(), rows()), ["long-tail=10"], seed=0)
    assert made.train.notes[-1] == "train: long tail, ratio 10: 40 → 4 rows per class, 86 of 200 rows kept"


def test_rows_without_imperfections_are_left_as_they_are():
    given = RowSplits(rows(), rows(5))
    assert make_imperfect(given, [], seed=0) == given


@pytest.mark.parametrize("spec", ["rotation=30", *OF_PIXELS])
def test_shifts_of_pixels_are_refused_of_rows_by_name(spec):
    specs = [spec, *(["clients=2"] if "client" in spec else [])]
    with pytest.raises(InputError, match=f"imperfection '{spec}': .* is for images.*, got rows"):
        make_imperfect(RowSplits(rows(), rows()), specs, seed=0)


@pytest.mark.parametrize("name", [name for name, known in IMPERFECTIONS.items() if known.apply])
def test_annotated_images_take_what_needs_no_label_and_moves_no_pixel(scenes, name):
    spec = f"{name}=2" if IMPERFECTIONS[name].whole else f"{name}=0.5"
    if name in ("long-tail", "random-tail", "linear-tail"):
        spec = f"{name}=2"
    specs = [spec, *(["clients=2"] if name in ("client-tint", "client-noise") else [])]
    if name in EVERY or f"{name}=" in " ".join(OF_PIXELS):
        made = make_imperfect(scenes, specs, seed=0)
        assert isinstance(made, AnnotatedSplits)
        assert len(made.train.notes) + len(made.test.notes) > len(scenes.train.notes) + len(scenes.test.notes)
        return
    with pytest.raises(InputError, match=f"imperfection '{spec}': {name} is for images.*, got annotated images"):
        make_imperfect(scenes, specs, seed=0)


def test_a_skew_by_labels_is_refused_of_annotated_images(scenes):
    with pytest.raises(InputError, match="client-skew is for images and rows, got annotated images"):
        make_imperfect(scenes, ["clients=2", "client-skew=1"], seed=0)


def test_unlabelled_annotated_images_lose_whole_maps(scenes):
    made = make_imperfect(scenes, ["unlabelled=0.9"], seed=4)
    expected, note = hide_maps(scenes.train, 0.9, seeded(4, "train", "unlabelled"))
    assert torch.equal(made.train.maps, expected.maps)
    assert int(made.train.labelled.sum()) == 2
    assert made.train.notes[-1] == f"train: {note}" == "train: 18 of 20 maps taken away"
    assert made.test is scenes.test


def test_shifts_leave_maps_and_objects_alone(scenes):
    made = make_imperfect(scenes, ["noise=0.1"], seed=0).test
    assert not torch.equal(made.pixels, scenes.test.pixels)
    assert torch.equal(made.maps, scenes.test.maps)
    assert torch.equal(made.boxes, scenes.test.boxes)


def test_a_tint_makes_both_splits_of_grey_annotated_images_rgb():
    pixels, maps = torch.full((2, 1, 4, 4), 90, dtype=torch.uint8), torch.ones(2, 4, 4, dtype=torch.uint8)
    grey = Annotated(pixels, maps, ("cat",), "pets")
    made = make_imperfect(AnnotatedSplits(grey, grey), ["tint=1"], seed=0)
    assert [part.pixels.shape[1] for part in made] == [3, 3]
    assert (made.train.pixels == 90).all()


def test_annotated_images_have_no_truth_of_one_label_each(scenes):
    with pytest.raises(InputError, match="splits: expected images or rows, which have labels, got annotated images"):
        make_imperfect_with_truth(scenes, [], seed=0)


@pytest.mark.parametrize(
    ("make", "put_together"),
    [
        (images, joined),
        (rows, joined_rows),
        (lambda count: from_scenes(Scenes(count, size=32)), join),
    ],
)
def test_parts_of_which_one_lacks_a_factor_are_joined_alike(make, put_together):
    plain = make(2)
    known = plain.with_factor("client", torch.tensor([1, 0]), ("north", "south"))
    for parts, values in (([plain, known], [-1, -1, 1, 0]), ([known, plain], [1, 0, -1, -1])):
        both = put_together(parts)
        assert both.factors["client"].tolist() == values
        assert both.factors["domain"].tolist() == plain.factors["domain"].tolist() * 2
        assert both.factor_names == {**plain.factor_names, "client": ("north", "south")}
    assert put_together([known, known.without_factor("client")]).factors["client"].tolist() == [1, 0, -1, -1]
    others = plain.with_factor("client", torch.tensor([0, 0]), ("west",))
    with pytest.raises(InputError, match="the same names of the values of 'client' in all parts, got north, south and"):
        put_together([known, others])
    assert plain.without_factor("client") is plain


@pytest.mark.slow
def test_what_is_exported_is_there_and_imported_where_it_is_used():
    code = (
        "import sys, counterpoise.data as data; "
        "print([name for name in ('rows', 'annotated', 'named') if f'counterpoise.data.{name}' in sys.modules]); "
        "print(all(hasattr(data, name) and name in dir(data) for name in data.__all__), data.Rows.__module__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["[]", "True counterpoise.data.rows"]
    with pytest.raises(AttributeError, match="has no attribute 'Row'"):
        data.Row  # noqa: B018


def three_of_each():
    """Images, rows and targets whose second entry is 0, 1 and 2."""
    which, numbers = torch.arange(3), torch.arange(6.0).view(3, 2)
    images = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), which, CLASSES, "images")
    return images, Rows(numbers, which, CLASSES, "rows"), Targets(numbers, which.float(), "targets")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.uint32])
def test_items_are_chosen_by_integers_of_every_type(dtype):
    for part in three_of_each():
        chosen = part.subset(torch.tensor([2, 0], dtype=dtype))
        assert [int(chosen[i][1]) for i in range(2)] == [2, 0]


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([True, False, True]), "index: expected integers, got torch.bool"),
        (torch.tensor([0.0]), "index: expected integers, got torch.float32"),
        (torch.tensor([3]), "index: expected integers from 0 to 2, got 3"),
        (torch.tensor([-1]), "index: expected integers from 0 to 2, got -1"),
    ],
)
def test_what_is_no_position_is_refused(index, message):
    for part in three_of_each():
        with pytest.raises(InputError, match=message):
            part.subset(index)
