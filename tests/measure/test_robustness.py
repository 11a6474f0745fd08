"""What a network names under attack: closed forms of linear networks, what only one of the attacks finds, refusals."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from counterpoise.data import Images
from counterpoise.data.rows import Rows
from counterpoise.errors import InputError
from counterpoise.measure.robustness import attacked_classes, attacked_predictions, margin
from worlds import seeded


def linear(weight):
    """Logits weight · x without a bias."""
    net = nn.Linear(weight.shape[1], len(weight), bias=False).to(weight.dtype)
    net.weight.data.copy_(weight)
    return net


def test_the_margin_is_how_far_the_best_wrong_class_is_ahead():
    logits = torch.randn(6, 4, generator=seeded(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 2, 1, 1, 0])
    for row, (h, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        expected = max(score for k, score in enumerate(h) if k != y) - h[y]
        assert margin(logits, labels)[row].item() == pytest.approx(expected)


def test_a_linear_network_of_two_classes_errs_exactly_where_a_corner_does():
    """The worst point moves the difference of logits by radius · |w|₁."""
    x = 1.8 * torch.rand(200, 5, generator=seeded(1), dtype=torch.float64) - 0.9
    weight = torch.randn(2, 5, generator=seeded(2), dtype=torch.float64)
    labels, w = linear(weight)(x).argmax(1), weight[1] - weight[0]
    low, high = (x - 0.08).clamp(-1, 1), (x + 0.08).clamp(-1, 1)
    least = (torch.where(w > 0, low, high) * w).sum(1), (torch.where(w > 0, high, low) * w).sum(1)
    withstands = torch.where(labels == 1, least[0] > 0, least[1] < 0)
    assert 20 < withstands.sum() < 180
    named = attacked_classes(linear(weight), x, labels, 0.08, generator=seeded(3))
    assert torch.equal(named == labels, withstands)
    assert torch.equal(named[~withstands], 1 - labels[~withstands])


def test_an_input_that_is_named_wrongly_or_has_no_label_is_not_attacked():
    """The wrong class of the input itself stays, though an attack would find another."""
    net = linear(torch.tensor([[0.0], [1.0], [-1.0]]))
    x = torch.tensor([[0.05], [0.05], [0.05]])
    assert attacked_classes(net, x, torch.tensor([0, -1, 1]), 0.1, generator=seeded(0)).tolist() == [1, 1, 2]


class Recorded(nn.Module):
    """A network that notes how many rows it saw with and without a gradient to follow."""

    def __init__(self, net):
        super().__init__()
        self.net, self.followed, self.scored = net, [], []

    def forward(self, x):
        (self.followed if torch.is_grad_enabled() else self.scored).append(len(x))
        return self.net(x)


def test_both_attacks_start_again_as_often_as_is_asked_on_what_still_stands():
    net = Recorded(linear(torch.tensor([[0.0, 0.0], [1.0, 1.0]])))
    x = torch.tensor([[0.9, 0.9], [0.02, 0.02]])
    named = attacked_classes(net, x, torch.tensor([1, 1]), 0.1, steps=4, restarts=3, generator=seeded(0))
    assert named.tolist() == [1, 0]
    assert net.followed == [2] * 4 + [1] * 5 * 4  # the second row falls to the first of six attacks
    assert net.scored == [2, 2, *[1] * 5]


class Sure(nn.Module):
    """Logits so far apart that the gradient of cross-entropy is 0 in float32."""

    def forward(self, x):
        return torch.cat([1000 * x, torch.zeros_like(x)], dim=1)


def test_where_cross_entropy_has_no_gradient_the_margin_finds_the_error():
    x, labels = torch.full((20, 1), 0.15), torch.zeros(20, dtype=torch.int64)
    gradient = torch.autograd.grad(nn.functional.cross_entropy(Sure()(x.requires_grad_()), labels, reduction="sum"), x)[
        0
    ]
    assert (gradient == 0).all()
    assert (attacked_classes(Sure(), x.detach(), labels, 0.16, restarts=1, generator=seeded(0)) == 1).all()
    assert (attacked_classes(Sure(), x.detach(), labels, 0.14, restarts=1, generator=seeded(0)) == 0).all()


def test_the_last_step_can_end_anywhere_in_the_ball():
    """With any number of steps, these together go 2.5 radii: from one corner to the other, with some left."""
    net = linear(torch.tensor([[1.0], [-1.0]]))
    x, labels = torch.full((50, 1), 0.099), torch.zeros(50, dtype=torch.int64)
    for steps in (1, 3, 20):
        assert (attacked_classes(net, x, labels, 0.1, steps, restarts=1, generator=seeded(0)) == 1).all()


class Wavy(nn.Module):
    """Classes whose borders are so curved that one start does not find all errors, nor one score those of another."""

    def forward(self, x):
        waves = [torch.sin(rate * x).sum(1, keepdim=True) for rate in (40, 31, 23)]
        return torch.cat([3 + waves[0], waves[1], waves[2]], dim=1)


def fallen(**changes):
    """Which of 300 points of the class 0, all named rightly, an attack makes wrong."""
    x = 1.8 * torch.rand(300, 3, generator=seeded(4), dtype=torch.float64) - 0.9
    x = x[Wavy()(x).argmax(1) == 0]
    given = {"radius": 0.1, "steps": 2, "restarts": 1, **changes}
    return attacked_classes(Wavy(), x, torch.zeros(len(x), dtype=torch.int64), generator=seeded(5), **given) == 1


def test_more_restarts_find_every_error_that_fewer_find_and_some_more():
    found = [fallen(restarts=restarts) for restarts in (1, 2, 4, 8)]
    assert all((fewer <= more).all() for fewer, more in pairwise(found))
    assert 0 < found[0].sum() < found[-1].sum() < len(found[0])


def test_a_larger_radius_makes_more_errors():
    found = [int(fallen(radius=radius, steps=20).sum()) for radius in (0.01, 0.02, 0.04, 0.08)]
    assert all(nearer < farther for nearer, farther in pairwise(found))


@pytest.mark.parametrize("radius", [0.02, 0.08, 0.2])
def test_a_linear_network_of_several_classes_errs_exactly_where_one_of_them_overtakes_the_label(radius):
    """The class k overtakes the label y at the corner of the ball that the sign of w_k - w_y names."""
    x = 1.6 * torch.rand(300, 6, generator=seeded(1), dtype=torch.float64) - 0.8
    weight = torch.randn(4, 6, generator=seeded(2), dtype=torch.float64)
    labels = linear(weight)(x).argmax(1)
    apart = weight[None] - weight[labels][:, None]  # of each class from the label
    withstands = (torch.einsum("nkd,nd->nk", apart, x) + radius * apart.abs().sum(2)).amax(1) <= 0
    assert 10 < withstands.sum() < 290
    named = attacked_classes(linear(weight), x, labels, radius, generator=seeded(3))
    assert not ((named != labels) & withstands).any()
    assert ((named == labels) & ~withstands).sum() <= 3  # an attack that follows the best class may miss another


class Strip(nn.Module):
    """Right everywhere but in a strip that the attack passes through, on its way to where the loss is larger."""

    def forward(self, x):
        return torch.cat([5 - x, x + 10 * ((x > 0.01) & (x < 0.04))], dim=1)


def test_an_error_counts_at_any_point_that_is_visited():
    x, labels = torch.zeros(20, 1), torch.zeros(20, dtype=torch.int64)
    assert (attacked_classes(Strip(), x, labels, 0.1, generator=seeded(0)) == 1).all()


class Scaled(nn.Module):
    """A network of inputs in [0, 1], as torchattacks has them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(2 * x - 1)


def test_what_torchattacks_makes_wrong_from_the_same_starts_is_made_wrong():
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is in the extra bench alone")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.Tanh(), nn.Linear(64, 4)).eval()
    x = 0.2 + 0.6 * torch.rand(200, 1, 6, 6, generator=seeded(7))  # no ball is cut by the range
    labels = net(2 * x - 1).argmax(1)
    torch.manual_seed(1)
    theirs = torchattacks.PGD(Scaled(net), eps=0.03, alpha=2.5 * 0.03 / 20, steps=20)(x, labels)
    wrong = net(2 * theirs - 1).argmax(1) != labels
    torch.manual_seed(1)
    named = attacked_classes(net, 2 * x - 1, labels, 2 * 0.03, steps=20, restarts=1)
    assert 20 < wrong.sum() < 180
    assert ((named != labels) >= wrong).all()  # and those that the margin finds, or a point on the way


def dots(labels, greys):
    pixels = torch.tensor(greys, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images(pixels, torch.tensor(labels, dtype=torch.int64), ("dark", "light"), "greys")


def test_images_are_attacked_by_a_share_of_their_range_and_in_evaluation_mode():
    """A grey of 140 is 0.098 in [-1, 1], so that a share of 0.049 of that range reaches the middle."""
    net = nn.Sequential(nn.Flatten(), linear(torch.tensor([[-1.0], [1.0]])), nn.Dropout(0.9))
    images = dots([1, 1, 0], [140, 255, 128])
    assert attacked_predictions(net, images, 0.048).tolist() == [1, 1, 1]
    assert attacked_predictions(net, images, 0.050).tolist() == [0, 1, 1]
    assert net[2].training


class WavyOnPixels(Wavy):
    def forward(self, x):
        return super().forward(x.flatten(1).expand(-1, 3))


def test_the_seed_decides_the_starts_and_no_batch_those_of_another():
    greys = torch.randint(0, 256, (400,), generator=seeded(6)).tolist()
    of_seed = [attacked_predictions(WavyOnPixels(), dots([0] * 400, greys), 0.05, 2, 1, seed) for seed in (3, 3, 4)]
    assert torch.equal(of_seed[0], of_seed[1])
    assert not torch.equal(of_seed[0], of_seed[2])
    first = [[20] * 200, [128] * 200]
    second = [
        attacked_predictions(WavyOnPixels(), dots([0] * 400, some + greys[200:]), 0.05, 2, 1, batch_size=200)[200:]
        for some in first
    ]
    assert torch.equal(*second)


class Detached(nn.Flatten):
    def forward(self, x):
        return super().forward(x).detach()


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0}, "radius: expected a number above 0, got 0"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"restarts": 0}, "restarts: expected a whole number of at least 1, got 0"),
        ({"labels": torch.tensor([0, 2])}, "labels: expected"),
        ({"labels": torch.tensor([0, -2])}, "labels: expected"),
        (
            {"x": torch.tensor([[0.5, 0.1], [1.5, 0.2]])},
            "x: expected a number of at least -1 and of at most 1, got 1.5",
        ),
        ({"x": torch.full((2, 2), math.nan)}, "x: 4 of 4 numbers are NaN"),
        ({"network": lambda x: x[:, :1]}, r"network\(x\): expected at least 2 columns"),
        ({"network": Detached()}, "network: its logits have no gradient by the inputs"),
    ],
)
def test_bad_input_is_refused_by_name(changes, message):
    given = {"network": nn.Identity(), "x": torch.tensor([[0.5, 0.1], [0.1, 0.2]]), "labels": torch.tensor([0, 1])}
    with pytest.raises(InputError, match=message):
        attacked_classes(**{**given, "radius": 0.1, **changes})


@pytest.mark.usefixtures("plain_shapes")
def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match="images: the data set 'greys' is empty, so there is nothing to attack"):
        attacked_predictions(nn.Identity(), dots([], []), 0.1)
    with pytest.raises(InputError, match="images: expected uint8 images, whose pixels share one range"):
        attacked_predictions(nn.Identity(), Rows(torch.zeros(2, 2), torch.tensor([0, 1]), ("a", "b"), "rows"), 0.1)
    for radius in (0, 1.5):
        with pytest.raises(InputError, match="radius: expected a number above 0 and of at most 1"):
            attacked_predictions(nn.Identity(), dots([0], [1]), radius)
