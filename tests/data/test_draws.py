"""Draws of items and classes: one for each name, and a larger share holds a smaller one's."""

import pytest
import torch

from counterpoise.data.draws import (
    check_free,
    check_whole,
    classes_of,
    draw_classes,
    draw_share,
    enough_classes,
    forget_labels,
    kept_rows,
    names_of,
    present_classes,
    remember_labels,
    seeded,
    true_labels,
    value_names,
)
from counterpoise.data.images import Images, Splits
from counterpoise.errors import InputError

CLASSES = ("a", "b", "c", "d", "e")


def part(labels, **fields):
    labels = torch.tensor(labels)
    return Images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, CLASSES, "toy", **fields)


def test_a_generator_depends_on_all_that_is_named_and_on_nothing_else():
    def drawn(*about):
        return torch.rand(3, generator=seeded(*about)).tolist()

    assert drawn(1, "tint") == drawn(1, "tint")
    assert len({tuple(drawn(*about)) for about in ((1, "tint"), (2, "tint"), (1, "blur"), (1, "tint", "x"))}) == 4


def test_a_larger_share_holds_the_smaller_one_s_draw():
    index = torch.arange(100, 200)
    small, large = (draw_share(index, share, seeded("x")) for share in (0.2, 0.5))
    assert (len(small), len(large), len(draw_share(index, 0, seeded("x")))) == (20, 50, 0)
    assert {*small.tolist()} < {*large.tolist()} < {*index.tolist()}
    with pytest.raises(InputError, match=r"share: expected a number of at least 0 and of at most 1, got 1\.5"):
        draw_share(index, 1.5, seeded("x"))


def test_drawn_classes_are_in_order():
    drawn = draw_classes(torch.arange(5), 3, seeded("x"))
    assert drawn.tolist() == sorted({*drawn.tolist()})
    assert len(drawn) == 3


@pytest.mark.parametrize("value", [2.5, 0.0, float("nan"), float("inf")])
def test_what_is_no_whole_number_is_refused_and_a_whole_float_is_taken(value):
    assert check_whole("steps", 3.0, 1) == 3
    with pytest.raises(InputError, match="steps: expected a"):
        check_whole("steps", value, 1)


def test_classes_that_are_there_are_counted_without_the_unlabelled():
    assert present_classes(part([4, -1, 1, 1]), "fewer", 2).tolist() == [1, 4]
    with pytest.raises(InputError, match="imperfection fewer: needs 3 classes with labelled images"):
        present_classes(part([4, -1, 1, 1]), "fewer", 3)
    with pytest.raises(InputError, match="imperfection x: needs 2 classes of both, got 1"):
        enough_classes(torch.tensor([1]), "x", 2, "of both")


def test_labels_of_before_are_remembered_while_others_change():
    before = Splits(part([0, 1, 2]), part([3]))
    remembered = remember_labels(before)
    changed = Images(
        remembered.train.pixels, torch.tensor([4, -1, 2]), CLASSES, "toy", factors=remembered.train.factors
    )
    assert true_labels(changed).tolist() == [0, 1, 2]
    assert classes_of(changed).tolist() == [4, 1, 2]
    assert true_labels(before.test).tolist() == [3]
    assert all(not images.factors for images in forget_labels(remembered))


def test_items_of_a_mask_are_kept_in_order():
    assert kept_rows(part([3, 1, 2]), torch.tensor([True, False, True])).labels.tolist() == [3, 2]


def test_values_have_their_names_or_are_numbers():
    steps = {"step": torch.tensor([0, 2])}
    plain = Splits(part([0, 1], factors=steps), part([0]))
    assert value_names(plain, "step") == ("0", "1", "2")
    named = Splits(part([0, 1], factors=steps, factor_names={"step": ("x", "y", "z")}), part([0]))
    assert value_names(named, "step") == ("x", "y", "z")
    with pytest.raises(InputError, match="imperfection steps=2: the data has a factor or column 'step' of its own"):
        check_free(plain, "steps=2", "step")
    check_free(plain, "clients=2", "client")


def test_only_the_first_few_classes_are_named():
    assert names_of(part([0]), torch.arange(5)) == "a, b, c and 2 more"
