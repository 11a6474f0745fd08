"""Classes of one side alone, and labels that are hidden: which ones, how many, and what stays."""

import pytest
import torch

from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect, make_imperfect_with_truth
from counterpoise.data.openset import known, known_first, labelled, missing_classes, new_classes, outsiders
from counterpoise.errors import InputError

CLASSES = tuple("abcdefghij")


def part(count: int) -> Images:
    return Images(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.arange(count) % 10, CLASSES, "toy")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


SPLITS = Splits(part(2000), part(400))


def present(images: Images) -> set[int]:
    return {*images.counts().nonzero().flatten().tolist()}


def test_missing_classes_leave_test_alone():
    made = make_imperfect(SPLITS, ["missing=3"], 0)
    assert torch.equal(made.train.labels, SPLITS.train.labels)
    assert len(present(made.test)) == 7
    assert len(made.test) == 280
    assert made.test.notes[-1].endswith("their 120 images left out of test, those of train stay")


@pytest.mark.parametrize("specs", [["unknown=3", "missing=3"], ["missing=3", "unknown=3"]])
def test_unknown_and_missing_classes_are_never_the_same(specs):
    """Four classes are shared, three are of train alone, three of test alone, in whichever order they are asked for."""
    for seed in range(20):
        made = make_imperfect(SPLITS, specs, seed)
        train, test = map(present, made)
        assert (len(train), len(test), len(train & test), len(train | test)) == (7, 7, 4, 10)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_outsiders_are_a_share_of_the_unlabelled_images(share):
    made, truth = make_imperfect_with_truth(SPLITS, [f"outsiders={share}", "unlabelled=0.9"], 0)
    stay = present(made.test)
    assert len(stay) == 5
    assert present(made.train) == stay
    pool = truth[made.train.labels == -1]
    outside = sum(label not in stay for label in pool.tolist())
    assert outside == pytest.approx(share * len(pool), abs=1)
    assert len(pool) > 400
    assert (made.train.labels[made.train.labels >= 0] == truth[made.train.labels >= 0]).all()


def test_the_labelled_images_are_the_same_whatever_the_share_of_outsiders():
    numbered = SPLITS._replace(train=SPLITS.train.with_factor("number", torch.arange(2000)))
    kept = []
    for share in (0, 0.3, 0.8):
        train = make_imperfect(numbered, [f"outsiders={share}", "unlabelled=0.9"], 0).train
        kept.append(train.factors["number"][train.labels >= 0].tolist())
    assert kept[0] == kept[1] == kept[2]


def test_a_side_of_the_pool_that_is_too_large_is_cut():
    notes = [make_imperfect(SPLITS, [f"outsiders={share}", "unlabelled=1"], 0).train.notes[-1] for share in (0.5, 0.8)]
    assert "1,000 of the 2,000 unlabelled images; 0 of theirs and 0 unlabelled images" in notes[0]
    assert "1,000 of the 1,250 unlabelled images; 0 of theirs and 750 unlabelled images" in notes[1]


def test_no_label_of_an_outsider_is_left_by_noise():
    made, truth = make_imperfect_with_truth(SPLITS, ["label-noise=0.5", "outsiders=0.5", "unlabelled=0.5"], 0)
    stay = torch.tensor(sorted(present(made.test)))
    labels = made.train.labels
    assert torch.isin(labels[labels >= 0], stay).all()
    assert torch.isin(truth[labels >= 0], stay).all()
    assert (labels != truth)[labels >= 0].any()


def test_users_unlabelled_images_are_the_pool_of_the_classes_that_stay():
    train = Images(SPLITS.train.pixels, SPLITS.train.labels.masked_fill(torch.arange(2000) < 300, -1), CLASSES, "toy")
    made = make_imperfect(Splits(train, SPLITS.test), ["outsiders=0.5"], 0).train
    assert (made.labels == -1).sum() == 600


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.01, 1), (0.5, 5), (1, 10)])
def test_known_classes_alone_have_labels(share, count):
    made = make_imperfect(SPLITS, [f"known={share}"], 0)
    assert len(present(made.train)) == count
    assert len(made.train) == 2000
    assert (made.train.counts()[made.train.counts() > 0] == 200).all()
    assert torch.equal(made.test.labels, SPLITS.test.labels)


def test_half_of_the_labels_of_known_classes():
    for specs in (["known=0.5", "labelled=0.5"], ["labelled=0.5", "known=0.5"]):
        made = make_imperfect(SPLITS, specs, 0).train
        assert sorted(made.counts().tolist()) == [0] * 5 + [100] * 5
    assert made.notes[-1] == "train: 500 of 1,000 labels kept, 50% of each of 5 classes"


def test_labelled_keeps_one_of_every_class_and_more_keeps_what_less_keeps():
    few, more = (labelled(SPLITS.train, share, seeded())[0].labels for share in (0.001, 0.5))
    assert torch.bincount(few[few >= 0]).tolist() == [1] * 10
    assert (more[few >= 0] >= 0).all()
    assert (labelled(SPLITS.train, 0, seeded())[0].labels == -1).all()
    assert torch.equal(labelled(SPLITS.train, 1, seeded())[0].labels, SPLITS.train.labels)


def test_without_known_classes_there_are_no_labels_to_count():
    made = make_imperfect(SPLITS, ["known=0", "labelled=0.5"], 0).train
    assert (made.labels == -1).all()
    bare = Images(SPLITS.train.pixels, torch.full((2000,), -1), CLASSES, "toy")
    with pytest.raises(InputError, match="imperfection labelled: needs 1 classes with labelled images, got 0"):
        labelled(bare, 0.5, seeded())


@pytest.mark.parametrize(("amount", "count"), [(0.2, 2), (0.01, 1), (1, 1), (3, 3), (9, 9), (0.94, 9)])
def test_new_classes_have_no_labels_in_train_and_are_judged(amount, count):
    made = make_imperfect(SPLITS, [f"new-classes={amount}"], 0)
    assert len(present(made.train)) == 10 - count
    assert (made.train.labels == -1).sum() == 200 * count
    assert torch.equal(made.test.labels, SPLITS.test.labels)
    assert made.train.notes[-1].startswith(f"train and test: {count} new classes (")


def test_known_classes_first_in_every_part():
    made = make_imperfect(SPLITS, ["known=0.4"], 3)
    count, (train, test) = known_first(made.train, made.test)
    assert count == 4
    assert present(train) == {0, 1, 2, 3}
    for before, after in zip(made, (train, test), strict=True):
        assert torch.equal(before.labels == -1, after.labels == -1)
        rows = (before.labels >= 0).nonzero().flatten().tolist()
        assert all(before.classes[before.labels[i]] == after.classes[after.labels[i]] for i in rows)
    assert list(train.classes[:4]) == sorted(train.classes[:4])
    assert list(train.classes[4:]) == sorted(train.classes[4:])
    with pytest.raises(InputError, match="others: expected the classes of train"):
        known_first(made.train, Images(SPLITS.test.pixels, SPLITS.test.labels, CLASSES[::-1], "toy"))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("function", "name", "wrong"),
    [
        (missing_classes, "count", (0, 1.5, float("nan"), "1")),
        (new_classes, "amount", (-1, 1.5, float("nan"), "1")),
        *((f, "share", (-0.1, 1.1, float("nan"), "1")) for f in (outsiders, known)),
    ],
)
def test_the_functions_refuse_what_their_specs_refuse(function, name, wrong):
    for value in wrong:
        with pytest.raises(InputError, match=f"^{name}: expected a "):
            function(SPLITS, value, torch.Generator())


@pytest.mark.parametrize("spec", ["missing=1", "outsiders=0.5", "known=0.5", "new-classes=1", "labelled=0.5"])
def test_data_without_labels_has_no_classes_to_hide(spec):
    bare = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.full((4,), -1), (), "toy")
    with pytest.raises(InputError, match=r"needs \d classes .*, got 0"):
        make_imperfect(Splits(bare, bare), [spec], 0)
