"""Steps, clients and requests to forget: what is written, in which sizes, and what else stays as it is."""

import numpy as np
import pytest
import torch

from counterpoise.data.divisions import FEWEST, clients, domain_steps, forget, forget_classes, steps
from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import make_imperfect
from counterpoise.errors import InputError

CLASSES = tuple("abcdefg")


def part(count: int, classes: int = 7) -> Images:
    pixels = torch.full((count, 1, 4, 4), 200, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, CLASSES, "toy")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SPLITS = Splits(part(1400), part(280))


def groups(images: Images, factor: str) -> list[set[int]]:
    """The classes of each value of a factor."""
    values = images.factors[factor]
    return [{*images.labels[values == value].tolist()} for value in range(int(values.max()) + 1)]


@pytest.mark.parametrize(
    ("count", "first", "sizes"),
    [(7, None, [1] * 7), (3, None, [3, 2, 2]), (3, 1, [1, 3, 3]), (4, 4, [4, 1, 1, 1]), (2, 5, [5, 2])],
)
def test_classes_come_in_steps_of_even_size_after_the_first(count, first, sizes):
    made, _ = steps(SPLITS, count, seeded(), first)
    assert [len(found) for found in groups(made.train, "step")] == sizes
    assert groups(made.test, "step") == groups(made.train, "step")
    assert set.union(*groups(made.train, "step")) == set(range(7))
    named = [{CLASSES[label] for label in found} for found in groups(made.train, "step")]
    assert [set(name.split(", ")) for name in made.train.factor_names["step"] if "more" not in name] == [
        found for found in named if len(found) <= 3
    ]
    assert torch.equal(made.train.labels, SPLITS.train.labels)
    assert torch.equal(made.train.pixels, SPLITS.train.pixels)


def test_the_note_names_the_steps():
    made = make_imperfect(SPLITS, ["steps=7"], 0)
    names = made.train.factor_names["step"]
    expected = f"train and test: classes come in 7 steps: {'; '.join(names[:5])}; and 2 more"
    assert made.train.notes == made.test.notes == (expected,)


def test_the_order_of_the_classes_is_drawn():
    first = [frozenset(groups(make_imperfect(SPLITS, ["steps=7"], seed).train, "step")[0]) for seed in range(20)]
    assert len(set(first)) > 3


def test_an_image_whose_label_was_taken_away_comes_with_its_class():
    made = make_imperfect(SPLITS, ["steps=3", "unlabelled=0.5"], 0)
    bare = make_imperfect(SPLITS, ["steps=3"], 0)
    assert torch.equal(made.train.factors["step"], bare.train.factors["step"])
    assert (made.train.labels == -1).sum() == 700


def test_a_wrong_label_comes_with_the_class_that_it_names():
    made = make_imperfect(SPLITS, ["steps=7", "label-noise=0.5"], 0).train
    assert all(len(found) == 1 for found in groups(made, "step"))


def test_images_of_no_class_and_of_classes_that_train_has_not_are_in_no_step():
    train = Images(SPLITS.train.pixels, SPLITS.train.labels.masked_fill(SPLITS.train.labels == 3, -1), CLASSES, "toy")
    made, note = steps(Splits(train, SPLITS.test), 2, seeded())
    assert torch.equal(made.train.factors["step"] == -1, train.labels == -1)
    assert torch.equal(made.test.factors["step"] == -1, SPLITS.test.labels == 3)
    assert note.endswith("; 200 images of train and 40 images of test in none of them")


def test_domains_come_in_steps():
    names = ("sketch", "photo", "clipart", "paint")
    splits = Splits(*(x.with_factor("domain", torch.arange(len(x)) // 7 % 5 - 1, names) for x in SPLITS))
    made, note = domain_steps(splits, 3, seeded())
    for images in made:
        domain, step = images.factors["domain"], images.factors["step"]
        assert torch.equal(step == -1, domain == -1)
        assert {(*domain[step == k].unique().tolist(),) for k in range(3)} == {
            tuple(names.index(name) for name in joined.split(", ")) for joined in images.factor_names["step"]
        }
    assert sorted(len(joined.split(", ")) for joined in made.train.factor_names["step"]) == [1, 1, 2]
    assert "domains come in 3 steps: " in note
    with pytest.raises(InputError, match=r"expected at most 4 steps, one a domain \(sketch, photo, clipart and 1 more"):
        domain_steps(splits, 5, seeded())


def test_domains_without_names_are_numbers():
    splits = Splits(*(x.with_factor("domain", torch.arange(len(x)) % 2) for x in SPLITS))
    assert sorted(domain_steps(splits, 2, seeded())[0].train.factor_names["step"]) == ["0", "1"]


def test_clients_are_of_one_size_and_of_all_classes():
    made, note = clients(SPLITS, 3, seeded())
    for images in made:
        sizes = torch.bincount(images.factors["client"])
        assert sizes.max() - sizes.min() <= 1
        assert groups(images, "client") == [set(range(7))] * 3
    assert made.train.factor_names["client"] == ("client 1", "client 2", "client 3")
    assert note == "3 clients, divided at random: 466 to 467 images of train each"


def mixture(images: Images, count: int) -> torch.Tensor:
    """Which share of each class every client has [classes, clients]."""
    table = torch.zeros(7, count).index_put_(
        (images.labels, images.factors["client"]), torch.ones(len(images)), accumulate=True
    )
    return table / table.sum(1, keepdim=True)


def test_skewed_clients_have_the_same_mixture_in_test():
    made, _ = clients(SPLITS, 4, seeded(), 0.3)
    train, test = (mixture(images, 4) for images in made)
    assert (train - test).abs().max() < 0.05
    assert (train.max(1).values > 0.5).any()


def test_a_large_alpha_is_even_and_a_small_one_gives_each_class_to_few():
    even, skewed = (mixture(clients(SPLITS, 4, seeded(), alpha)[0].train, 4) for alpha in (1e6, 0.001))
    assert (even - 0.25).abs().max() < 0.01
    assert (skewed.max(1).values > 0.95).all()
    assert torch.bincount(clients(SPLITS, 4, seeded(), 0.001)[0].train.factors["client"]).min() >= FEWEST


def test_the_shares_are_dirichlets():
    """The variance of a share of Dirichlet(α) over k clients is (k-1) / (k² (kα + 1))."""
    shares = torch.cat([mixture(clients(SPLITS, 5, seeded(seed), 1.0)[0].train, 5) for seed in range(60)])
    assert shares.var().item() == pytest.approx(4 / (25 * 6), rel=0.1)
    assert np.isclose(shares.mean(), 0.2)


@pytest.mark.slow
def test_a_skew_that_leaves_a_client_without_images_is_refused():
    with pytest.raises(InputError, match=r"client-skew=0.001: none of 10,000 draws gave each of 40 clients 10 images"):
        clients(SPLITS, 40, seeded(), 0.001)


def test_a_share_of_the_images_is_to_be_forgotten():
    made, note = forget(SPLITS, 0.1, seeded())
    assert made.train.factors["forget"].sum() == 140
    assert not made.test.factors["forget"].any()
    assert made.train.factor_names["forget"] == ("kept", "forgotten")
    assert note == "140 of 1,400 images of train are to be forgotten"
    more, _ = forget(SPLITS, 0.5, seeded())
    assert (made.train.factors["forget"] <= more.train.factors["forget"]).all()


def test_classes_are_forgotten_as_a_whole_in_train_and_test():
    made, _ = forget_classes(SPLITS, 2, seeded())
    for images in made:
        gone = images.labels[images.factors["forget"] == 1].unique()
        assert len(gone) == 2
        assert torch.equal(images.factors["forget"] == 1, torch.isin(images.labels, gone))


def test_classes_are_forgotten_by_name():
    made = make_imperfect(SPLITS, ["forget-class=c, a"], 0)
    assert groups(made.train, "forget")[1] == {0, 2}
    assert made.train.notes[-1] == "train and test: 400 of 1,400 images of train, of a, c, are to be forgotten"


def test_a_class_whose_name_is_a_number_is_quoted():
    numbered = Splits(*(Images(x.pixels, x.labels, ("3", "1,5", *CLASSES[2:]), "toy") for x in SPLITS))
    assert groups(make_imperfect(numbered, ["forget-class='3'"], 0).train, "forget")[1] == {0}
    assert groups(make_imperfect(numbered, ["forget-class='1,5',c"], 0).train, "forget")[1] == {1, 2}
    assert len(groups(make_imperfect(numbered, ["forget-class=3"], 0).train, "forget")[1]) == 3


def test_both_together_forget_a_share_of_these_classes():
    for specs in (["forget=0.4", "forget-class=5"], ["forget-class=5", "forget=0.4"]):
        made = make_imperfect(SPLITS, specs, 0)
        asked = made.train.labels[made.train.factors["forget"] == 1]
        assert torch.bincount(asked, minlength=7).sort().values.tolist() == [0, 0, 80, 80, 80, 80, 80]
        assert not made.test.factors["forget"].any()
        assert sum("forgotten" in note for note in made.train.notes) == 1


@pytest.mark.parametrize(
    ("factor", "spec"),
    [("client", "clients=5"), ("step", "steps=2"), ("step", "domain-steps=2"), ("forget", "forget=0.5")],
)
def test_a_factor_of_the_data_is_not_written_over(factor, spec):
    splits = SPLITS._replace(train=SPLITS.train.with_factor(factor, torch.zeros(1400, dtype=torch.int64)))
    with pytest.raises(InputError, match=f"the data has a factor or column '{factor}' of its own; leave one out"):
        make_imperfect(splits, [spec], 0)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("function", "name", "wrong"),
    [
        *((f, "count", (1, 0, -1, 2.5, float("nan"), "2")) for f in (steps, domain_steps, clients)),
        (forget, "share", (-0.1, 1.1, float("nan"), "1")),
        (forget_classes, "which", (0, 1.5, -1, float("nan"))),
        (lambda s, x, g: steps(s, 2, g, x), "first_step", (0, 1.5, float("inf"), "2")),
        (lambda s, x, g: clients(s, 2, g, x), "client_skew", (0, -1, 1e7, float("nan"), "1")),
        (lambda s, x, g: forget_classes(s, 2, g, x), "forget", (-1, 2, float("nan"), "1")),
    ],
)
def test_the_functions_refuse_what_their_specs_refuse(function, name, wrong):
    for value in wrong:
        with pytest.raises(InputError, match=f"^{name}: expected a "):
            function(SPLITS, value, torch.Generator())
