import pytest
import torch

from counterpoise.data import load
from counterpoise.data.factors import LAYOUTS, make_factors
from counterpoise.data.images import Images, Splits
from counterpoise.errors import InputError


@pytest.fixture(scope="module")
def made():
    return {layout: load(f"factors:{layout}") for layout in LAYOUTS}


@pytest.mark.parametrize(
    ("layout", "shape", "values"),
    [
        ("tint", (3, 28, 28), {"garment": 10, "digit": 10, "tint": 10}),
        ("channels", (3, 28, 28), {"garment": 10, "digit": 10}),
        ("scales", (1, 16, 16), {"garment": 10, "quarter": 4, "ground": 3, "bar": 2}),
    ],
)
def test_every_value_of_every_factor_is_there_and_none_depends_on_another(made, layout, shape, values):
    for images in made[layout]:
        assert tuple(images.pixels.shape[1:]) == shape
        assert {name: len(x.unique()) for name, x in images.factors.items()} == values
        assert torch.equal(images.labels, images.factors["garment"])
    names = list(values)
    train = made[layout].train
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            table = torch.zeros(values[first], values[second])
            table.index_put_((train.factors[first], train.factors[second]), torch.ones(len(train)), accumulate=True)
            expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
            freedom = (values[first] - 1) * (values[second] - 1)
            assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5


def test_the_tint_is_the_colour_of_the_ground(made):
    images = made["tint"].train
    edge = images.pixels[:, :, 0, 14].float()  # above most garments, between the digits' corners
    for tint in range(10):
        typical = edge[images.factors["tint"] == tint].median(0).values
        others = torch.stack([edge[images.factors["tint"] == k].median(0).values for k in range(10) if k != tint])
        assert (others - typical).norm(dim=1).min() > 20


def test_channels_hold_the_digit_and_the_garment_as_they_are(made):
    garments, digits = load("fashion-mnist"), load("mnist")
    for images, cloth, ink in zip(made["channels"], garments, digits, strict=True):
        assert torch.equal(images.pixels[:, 1], cloth.pixels[:, 0])
        assert torch.equal(images.pixels[:, 2], cloth.pixels[:, 0])
        same = (ink.pixels[None, :, 0] == images.pixels[:5, None, 0]).flatten(2).all(2)
        assert same.any(1).all()
        assert torch.equal(ink.labels[same.int().argmax(1)], images.factors["digit"][:5])


def test_objects_are_one_to_three_of_twenty_classes(made):
    for images in made["objects"]:
        assert tuple(images.pixels.shape[1:]) == (1, 40, 40)
        there = torch.stack(list(images.factors.values()), 1)
        assert there.shape == (len(images), 20)
        assert set(there.sum(1).tolist()) == {1, 2, 3}
        assert there.gather(1, images.labels[:, None]).all()
        alone, crowd = (images.pixels[there.sum(1) == k].float().mean() for k in (1, 3))
        assert crowd > 1.5 * alone


def test_a_bar_of_one_pixel_and_a_ground_of_three_levels(made):
    images = made["scales"].train
    lines = (images.pixels[:, 0] == 255).all(2).sum(1)
    assert torch.equal(lines, images.factors["bar"])
    ground = images.pixels.flatten(1).median(1).values
    assert (ground == (images.factors["ground"] * 51)).float().mean() > 0.95


@pytest.mark.slow
def test_the_seed_draws_them_and_train_is_not_test(made):
    again, other = load("factors", seed=0), load("factors", seed=1)
    assert torch.equal(made["tint"].train.pixels, again.train.pixels)
    assert not torch.equal(again.train.factors["tint"], other.train.factors["tint"])
    assert not torch.equal(again.train.factors["tint"][:2000], again.test.factors["tint"])


def test_factors_follow_their_images(made):
    images = made["tint"].train
    some = images.subset(torch.tensor([7, 3]))
    assert some.factors["digit"].tolist() == images.factors["digit"][[7, 3]].tolist()


def test_an_unknown_layout_is_refused():
    with pytest.raises(InputError, match=r"layout of factors 'tnt'.*tint"):
        load("factors:tnt")


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_sprites_and_seeds_are_refused_by_name(layout):
    right = Splits(*(images.subset(torch.arange(5)) for images in load("mnist")))
    grey, none = torch.zeros(5, 1, 32, 32, dtype=torch.uint8), torch.full((5,), -1)
    wrong = (
        right.train.with_channels(3),
        right.train.subset(torch.arange(0)),
        Images(grey, right.train.labels, right.train.classes, "large"),
        Images(right.train.pixels, none, right.train.classes, "unlabelled"),
    )
    for images in wrong:
        with pytest.raises(InputError, match=r"digits: test: expected labelled images of shape \[images, 1, 28, 28\]"):
            make_factors(layout, right, right._replace(test=images))
        with pytest.raises(InputError, match="garments: train: expected labelled images"):
            make_factors(layout, right._replace(train=images), right)
    for seed in (1.5, float("nan"), "0", 2**62):
        with pytest.raises(InputError, match="seed: expected a whole number"):
            make_factors(layout, right, right, seed)


def favourites(images):
    """How often each garment is on each hue [garments, hues]."""
    table = torch.zeros(10, 10)
    table.index_put_((images.factors["garment"], images.factors["tint"]), torch.ones(len(images)), accumulate=True)
    return table / table.sum(1, keepdim=True)


def test_with_bias_each_garment_has_a_favourite_hue_in_train_alone():
    train, test = load("factors:tint:bias=0.8")
    shares = favourites(train)
    assert (shares.max(1).values - 0.82).abs().max() < 0.05
    assert len(shares.argmax(1).unique()) == 10
    assert favourites(test).max() < 0.2
    for images in (train, test):
        assert torch.equal(images.factors["group"], images.factors["tint"])
        assert images.factor_names["group"][:3] == ("red", "orange", "lime")
        assert images.name == "factors:tint:bias=0.8"


@pytest.mark.slow
def test_without_bias_and_in_test_the_images_are_as_they_were(made):
    none, all_of_it = (load(f"factors:tint:bias={bias}") for bias in (0, 1))
    for split, images in made["tint"]._asdict().items():
        assert torch.equal(getattr(none, split).pixels, images.pixels)
        assert "group" not in images.factors
    assert torch.equal(all_of_it.test.pixels, made["tint"].test.pixels)
    assert favourites(all_of_it.train).max(1).values.min() == 1
    assert torch.equal(all_of_it.train.factors["digit"], made["tint"].train.factors["digit"])


@pytest.mark.slow
def test_a_larger_bias_moves_the_images_that_a_smaller_one_moves(made):
    before = made["tint"].train.factors["tint"]
    less, more = (load(f"factors:tint:bias={bias}").train.factors["tint"] for bias in (0.3, 0.7))
    assert ((less != before) <= (more != before)).all()


def test_the_hue_of_an_image_is_drawn_as_it_says():
    images = load("factors:tint:bias=0.5").train
    edge = images.pixels[:, :, 0, 14].float()
    typical = torch.stack([edge[images.factors["tint"] == hue].median(0).values for hue in range(10)])
    assert (torch.cdist(typical, typical).fill_diagonal_(1e9) > 20).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("tint:bias=1.5", "bias: expected a number of at least 0 and of at most 1, got 1.5"),
        ("tint:bias=", "bias: expected a number from 0 to 1, got ''"),
        ("tint:bias=nan", "bias: expected a number"),
        ("tint:hue=1", "expected no option but tint:bias=SHARE, got 'tint:hue=1'"),
        ("scales:bias=0.5", "expected no option but tint:bias=SHARE, got 'scales:bias=0.5'"),
    ],
)
def test_options_that_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        load(f"factors:{data}")


def test_the_values_of_factors_have_the_names_of_their_classes(made):
    train = made["scales"].train
    assert train.factor_names == {"garment": train.classes}
    assert made["channels"].test.factor_names["digit"] == tuple("0123456789")
