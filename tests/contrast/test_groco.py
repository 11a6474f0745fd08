"""GroCo's sorting network and losses against plain loops, closed forms, and the paper's properties."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.groco import (
    GroCo,
    GroCoLoss,
    HardNTXentLoss,
    group_ordering,
    hardest_similarities,
    soft_sort,
)
from counterpoise.contrast.simclr import nt_xent
from counterpoise.data import Images
from counterpoise.data.views import Views
from counterpoise.errors import InputError
from worlds import Encoder, seeded

N = 7
VIEWS = torch.randn(4, N, 5, generator=seeded(0), dtype=torch.float64)


def permutation(scores, steepness=1.0):
    """One list of scores through the network, comparator by comparator, on the columns of the whole matrix."""
    x, columns = list(scores), list(torch.eye(len(scores), dtype=scores.dtype))
    for layer in range(len(x)):
        for i in range(layer % 2, len(x) - 1, 2):
            alpha = 0.5 + math.atan(steepness * (x[i + 1] - x[i])) / math.pi
            for wires in (x, columns):
                a, b = wires[i], wires[i + 1]
                wires[i], wires[i + 1] = alpha * a + (1 - alpha) * b, (1 - alpha) * a + alpha * b
    return torch.stack(columns, dim=1)


def plain(views, negatives=10, steepness=1.0, large=None):
    """The loss from the paper's words, anchor by anchor, from the whole permutation."""
    z, losses = F.normalize(views, dim=2), []
    large = large or len(views)
    for a, i in itertools.product(range(len(views)), range(N)):
        n = sorted((z[a, i] @ z[a, j]).item() for j in range(N) if j != i)[-negatives:]
        p = sorted((z[a, i] @ z[v, i]).item() for v in range(large) if v != a)
        matrix = permutation(torch.tensor(n + p, dtype=views.dtype), steepness)
        own = torch.cat([matrix[: len(n), : len(n)].sum(1), matrix[len(n) :, len(n) :].sum(1)])
        losses.append(-own.log().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("n", range(2, 14))
def test_the_network_comparator_by_comparator(n, rng):
    scores = torch.randn(3, n, generator=rng, dtype=torch.float64)
    found = soft_sort(scores, torch.eye(n, dtype=torch.float64), steepness=2.0)
    torch.testing.assert_close(found, torch.stack([permutation(row, 2.0) for row in scores]))
    torch.testing.assert_close(found.sum(1), torch.ones(3, n, dtype=torch.float64))
    torch.testing.assert_close(found.sum(2), torch.ones(3, n, dtype=torch.float64))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_a_steep_network_sorts(n, rng):
    scores = torch.randn(20, n, generator=rng, dtype=torch.float64)
    found = soft_sort(scores, torch.eye(n, dtype=torch.float64), steepness=1e12)
    torch.testing.assert_close(found.transpose(1, 2), F.one_hot(scores.argsort(1), n).double(), rtol=0, atol=1e-6)


def test_ties_by_hand():
    """Every comparator halves: rank 0 goes back to (1/2, 1/2, 0, 0), (1/2, 1/4, 1/4, 0), (3/8, 3/8, 1/8, 1/8)."""
    found = soft_sort(torch.ones(1, 4), torch.eye(4))[0]
    expected = torch.tensor([[3, 2, 2, 1], [3, 2, 2, 1], [1, 2, 2, 3], [1, 2, 2, 3]]) / 8
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("steepness", [0.5, 1.0, 3.0])
def test_one_positive_and_one_negative_in_closed_form(steepness):
    n, p = (
        torch.tensor([[0.3], [-0.2]]).double().requires_grad_(),
        torch.tensor([[0.1], [0.9]]).double().requires_grad_(),
    )
    loss = group_ordering(n, p, steepness)
    expected = -(0.5 + torch.atan(steepness * (p - n)) / math.pi).log()
    torch.testing.assert_close(loss, expected[:, 0])
    loss.sum().backward()
    assert (p.grad < 0).all()
    assert (n.grad > 0).all()


def test_order_inside_a_group_does_not_matter():
    n, p = VIEWS[0].tanh(), VIEWS[1, :, :3].tanh()
    mixed = group_ordering(n[:, torch.tensor([3, 0, 4, 1, 2])], p[:, torch.tensor([2, 0, 1])])
    torch.testing.assert_close(mixed, group_ordering(n, p))


def test_the_nearest_negatives_stand_next_to_the_farthest_positives():
    n, p = torch.tensor([[0.5, -0.5]]).double(), torch.tensor([[0.9, 0.1]]).double()
    matrix = permutation(torch.tensor([-0.5, 0.5, 0.1, 0.9]).double())
    own = torch.cat([matrix[:2, :2].sum(1), matrix[2:, 2:].sum(1)])
    torch.testing.assert_close(group_ordering(n, p)[0], -own.log().mean())


def test_raising_all_positives_lowers_the_loss(rng):
    n, p = (torch.rand(1500, k, generator=rng, dtype=torch.float64) * 2 - 1 for k in (10, 3))
    assert (group_ordering(n, p + 0.01) < group_ordering(n, p)).all()
    assert (group_ordering(n + 0.01, p) > group_ordering(n, p)).all()


def test_steep_limits():
    low, high = torch.linspace(-1, -0.5, 10)[None], torch.linspace(0.5, 1, 3)[None].requires_grad_()
    assert 0.1 < group_ordering(low, high).item() < 1  # steepness 1 is never done
    assert group_ordering(low, high, 1e9).item() < 1e-6
    wrong = group_ordering(high, low, 1e9)
    assert 5 < wrong.item() <= 100
    wrong.sum().backward()
    assert torch.isfinite(high.grad).all()


@pytest.mark.parametrize(
    ("views", "negatives", "large"), [(2, 3, None), (2, 10, None), (4, 4, None), (4, 4, 2), (4, 2, 3)]
)
def test_the_loss_from_the_papers_words(views, negatives, large):
    loss = GroCoLoss(negatives, steepness=1.5, positive_views=large or 0)
    torch.testing.assert_close(loss(VIEWS[:views]), plain(VIEWS[:views], negatives, 1.5, large))


def test_all_negatives_where_there_are_fewer():
    torch.testing.assert_close(GroCoLoss(N - 1)(VIEWS), GroCoLoss(1000)(VIEWS))


def test_the_tiles_are_seamless(monkeypatch):
    expected = [GroCoLoss(3)(VIEWS), HardNTXentLoss(3)(*VIEWS[:2])]
    monkeypatch.setattr("counterpoise.ops.chunking.TABLE", 2 * N)
    torch.testing.assert_close([GroCoLoss(3)(VIEWS), HardNTXentLoss(3)(*VIEWS[:2])], expected)


def test_negatives_come_from_the_anchors_own_view():
    """All samples look alike in the first view and are apart in the second; the anchors of each see only their own."""
    z = torch.stack([torch.ones(3, 3), torch.eye(3)]).double()
    p = 1 / math.sqrt(3)
    first, second = (group_ordering(torch.full((1, 2), n), torch.tensor([[p]])) for n in (1.0, 0.0))
    torch.testing.assert_close(GroCoLoss()(z).float(), (first + second)[0] / 2)


def test_the_gradient_goes_to_the_anchor_alone():
    """Each row's gradient is that of its own term, with all others held fixed; the value is the same with it off."""
    z = VIEWS[:2].clone().requires_grad_()
    value = GroCoLoss(3)(z)
    value.backward()
    torch.testing.assert_close(value, GroCoLoss(3, stop_gradient=False)(VIEWS[:2]))
    for a, i in ((0, 2), (1, 5)):
        row = VIEWS[a, i].clone().requires_grad_()
        unit = F.normalize(VIEWS[:2], dim=2)
        own = F.normalize(row, dim=0)
        n = torch.stack([own @ unit[a, j] for j in range(N) if j != i]).sort().values[-3:]
        term = group_ordering(n[None], (own @ unit[1 - a, i]).view(1, 1)) / (2 * N)
        torch.testing.assert_close(z.grad[a, i], torch.autograd.grad(term[0], row)[0])


def test_negatives_that_are_not_among_the_hardest_do_not_count():
    z = VIEWS[:2].clone()
    unit = F.normalize(z[0], dim=1)
    far = (unit @ unit.T).argmin(1)[0].item()
    own_number = torch.tensor([0]), torch.arange(len(unit))
    expected = hardest_similarities(unit[:1], unit, own_number, 3)
    unit[far] = -unit[0]
    torch.testing.assert_close(hardest_similarities(unit[:1], unit, own_number, 3), expected)
    keys = unit.requires_grad_()
    hardest_similarities(unit.detach()[:1], keys, own_number, 3).sum().backward()
    assert (keys.grad.abs().sum(1) > 0).sum() == 3


def test_gradient_in_double_precision():
    z = VIEWS[:3, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(GroCoLoss(2, 2.0, stop_gradient=False), (z,), fast_mode=True)
    assert torch.autograd.gradcheck(GroCoLoss(2, 2.0, positive_views=2, stop_gradient=False), (z,), fast_mode=True)
    assert torch.autograd.gradcheck(HardNTXentLoss(2, stop_gradient=False), (z[0], z[1]), fast_mode=True)


def test_invariances(rng):
    """Order of the batch, a common rotation, the rows' lengths, and the order of the views."""
    loss, order = GroCoLoss(3), torch.randperm(N, generator=rng)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64)).Q
    scale = torch.rand(4, N, 1, generator=rng, dtype=torch.float64) + 0.1
    for same in (VIEWS[:, order], VIEWS @ rotation, VIEWS * scale, VIEWS.flip(0)):
        torch.testing.assert_close(loss(same), loss(VIEWS))


def test_equal_embeddings_have_a_finite_gradient():
    z = torch.ones(2, N, 3, requires_grad=True)
    GroCoLoss()(z).backward()
    assert torch.isfinite(z.grad).all()


def test_mixed_precision_is_left_out():
    z = VIEWS.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = [GroCoLoss(3)(z), HardNTXentLoss(3)(z[0], z[1])]
    torch.testing.assert_close(found, [GroCoLoss(3)(z), HardNTXentLoss(3)(z[0], z[1])], rtol=0, atol=0)


def test_the_softmax_with_all_negatives_is_nt_xent():
    ours, theirs = VIEWS[0].clone().requires_grad_(), VIEWS[0].clone().requires_grad_()
    value, expected = (
        HardNTXentLoss(2 * N - 2, 0.2, stop_gradient=False)(ours, VIEWS[1]),
        nt_xent(theirs, VIEWS[1], 0.2),
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, ours), torch.autograd.grad(expected, theirs))


def test_the_softmax_of_the_hardest_negatives_written_out():
    z = F.normalize(VIEWS[:2], dim=2).reshape(2 * N, 5).requires_grad_()
    keys, expected = z.detach(), 0.0
    for i in range(2 * N):
        negatives = torch.stack([z[i] @ keys[j] for j in range(2 * N) if j % N != i % N]).sort().values[-3:]
        positive = z[i] @ keys[(i + N) % (2 * N)]
        expected -= torch.log_softmax(torch.cat([positive[None], negatives]) / 0.5, 0)[0] / (2 * N)
    rows = F.normalize(VIEWS[:2], dim=2).requires_grad_()
    value = HardNTXentLoss(3)(*rows)
    torch.testing.assert_close(value, expected)
    (found,) = torch.autograd.grad(value, rows)
    (gradient,) = torch.autograd.grad(expected, z)
    unit = z.detach()
    gradient -= (gradient * unit).sum(1, keepdim=True) * unit  # the loss normalises its rows again
    torch.testing.assert_close(found.view(2 * N, 5), gradient)


def test_further_views_are_negatives_of_all_other_samples():
    """The authors' baseline for several views: neither a positive nor a negative of the sample that they show."""
    z = F.normalize(VIEWS[:3], dim=2)
    expected = 0.0
    for anchor, positive in ((0, 1), (1, 0)):
        for i in range(N):
            negatives = [z[anchor, i] @ z[view, j] for view in range(3) for j in range(N) if j != i]
            logits = torch.stack([z[anchor, i] @ z[positive, i], *negatives])
            expected -= torch.log_softmax(logits / 0.5, 0)[0] / (2 * N)
    loss = HardNTXentLoss(10**6, 0.5, stop_gradient=False)
    torch.testing.assert_close(loss(VIEWS[0], VIEWS[1], [VIEWS[2]]), expected)
    with pytest.raises(InputError, match=r"further\[0\]"):
        loss(VIEWS[0], VIEWS[1], [VIEWS[2] * math.nan])


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match=r"views: expected \[at least 2 views, batch, dim\], got shape \[1, 7, 5\]"):
        GroCoLoss()(VIEWS[:1])
    with pytest.raises(InputError, match=r"views: expected \[at least 3 views, batch, dim\], got shape \[2, 7, 5\]"):
        GroCoLoss(positive_views=3)(VIEWS[:2])
    with pytest.raises(InputError, match="views: expected at least 2 rows, got 1"):
        GroCoLoss()(VIEWS[:, :1])
    with pytest.raises(InputError, match="views: 140 of 140 numbers are NaN"):
        GroCoLoss()(VIEWS * math.nan)
    with pytest.raises(InputError, match="negatives: expected a whole number of at least 1, got 0"):
        GroCoLoss(negatives=0)
    with pytest.raises(InputError, match="steepness: expected a number above 0, got 0"):
        GroCoLoss(steepness=0)
    with pytest.raises(InputError, match="positive_views: expected at least 2, or 0 for all views, got 1"):
        GroCoLoss(positive_views=1)
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        HardNTXentLoss()(VIEWS[0, :1], VIEWS[1, :1])
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        HardNTXentLoss(temperature=0)
    with pytest.raises(InputError, match="compare 'sort' is not known; did you mean 'sorting'"):
        GroCo(Encoder(), compare="sort")


@pytest.mark.parametrize("compare", ["sorting", "softmax"])
def test_the_method_compares_the_projections_of_all_views(compare, rng):
    method = GroCo(Encoder(), views=3, negatives=3, steepness=2.0, compare=compare, temperature=0.3, hidden=8, dim=3)
    # So far apart that batch normalisation's epsilon does not show.
    views = [30 * torch.randn(N, 1, 4, 4, generator=rng) for _ in range(3)]
    z = torch.stack([method.head(method.encoder(view)) for view in views])
    torch.testing.assert_close(z.var(1, unbiased=False), torch.ones(3, 3), rtol=1e-3, atol=1e-3)
    softmax = HardNTXentLoss(3, 0.3)
    pairs = (softmax(z[0], z[1], [z[2]]) + softmax(z[0], z[2], [z[1]]) + softmax(z[1], z[2], [z[0]])) / 3
    expected = GroCoLoss(3, 2.0)(z) if compare == "sorting" else pairs
    torch.testing.assert_close(method.loss(views, torch.full((N,), -1), torch.arange(N)), expected)


class Pooled(nn.Sequential):
    """An encoder of images of any size, without batch normalisation, so that views do not depend on each other."""

    features = 4

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def multi_crop(**arguments):
    torch.manual_seed(0)
    given = {"augment": Views(28, blur=0.3), "small_views": 3, "hidden": 8, "dim": 3, "negatives": 4, **arguments}
    return GroCo(Pooled(), **given)


def pixels(rng, batch=N):
    return torch.randint(0, 256, (batch, 1, 28, 28), generator=rng, dtype=torch.uint8)


def test_small_views_come_last_and_in_their_own_size(rng):
    index = torch.arange(N)
    views = multi_crop().views_of(pixels(rng), index, index)
    assert [view.shape[-1] for view in views] == [28, 28, 12, 12, 12]
    assert not torch.equal(views[3], views[4])
    assert multi_crop(small_size=1.0).views_of(pixels(rng), index, index)[-1].shape[-1] == 28


def test_small_views_differ_from_the_others_in_part_and_size_alone():
    method = multi_crop(small_crop=(0.1, 0.2))
    small, large = vars(method.small()), vars(method.augment)
    assert {name for name in small if small[name] != large[name]} == {"size", "crop"}
    assert small["crop"] == (0.1, 0.2)


def test_a_small_view_shows_its_share_of_the_image():
    """Of a ramp from left to right, a crop shows a range as wide as the crop is."""
    ramp = torch.arange(100, dtype=torch.uint8).expand(200, 1, 100, 100)
    method = multi_crop(augment=Views(100, ratio=(1.0, 1.0), jitter=0.0, grayscale=0.0), small_crop=(0.04, 0.09))
    index = torch.arange(200)
    for view, low, high in zip(method.views_of(ramp, index, index)[1:3], (44, 19), (100, 31), strict=True):
        width = (view.amax((1, 2, 3)) - view.amin((1, 2, 3))) * 127.5
        assert low - 4 < width.min()
        assert width.max() < high


@pytest.mark.parametrize("compare", ["sorting", "softmax"])
def test_small_views_are_anchors_but_no_positives(compare, rng):
    method = multi_crop(compare=compare)
    index = torch.arange(N)
    views = method.views_of(pixels(rng), index, index)
    z = torch.stack([method.head(method.encoder(view)) for view in views]).detach()
    if compare == "sorting":
        expected = GroCoLoss(4, positive_views=2)(z)
        torch.testing.assert_close(expected.double(), plain(z.double(), 4, large=2), rtol=1e-4, atol=1e-5)
    else:
        pairs = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
        rest = [[z[k] for k in range(5) if k not in pair] for pair in pairs]
        losses = [HardNTXentLoss(4)(z[a], z[b], more) for (a, b), more in zip(pairs, rest, strict=True)]
        expected = sum(losses) / len(pairs)
    torch.testing.assert_close(method.loss(views, index, index).detach(), expected)


def test_without_small_views_nothing_changes(rng):
    """Neither the weights nor the random numbers that views are drawn by."""
    given, index = pixels(rng), torch.arange(N)
    drawn = []
    for method in (multi_crop(small_views=0), GroCo(Pooled(), augment=Views(28, blur=0.3), hidden=8, dim=3)):
        torch.manual_seed(1)
        drawn.append(method.views_of(given, index, index))
    torch.testing.assert_close(*drawn, rtol=0, atol=0)
    weights = [multi_crop(small_views=n).state_dict() for n in (0, 3)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_checking_the_data_leaves_the_method_as_it_was(rng):
    method = multi_crop()
    before = {name: x.clone() for name, x in method.state_dict().items()}
    method.check_data(Images(pixels(rng), torch.arange(N) % 2, ("a", "b"), "noise"), 4)
    torch.testing.assert_close(method.state_dict(), before, rtol=0, atol=0)
    assert method.training
    assert method.encoder.training


@pytest.mark.usefixtures("plain_shapes")
def test_small_views_that_cannot_be_are_refused(rng):
    images = Images(pixels(rng), torch.arange(N) % 2, ("a", "b"), "noise")
    with pytest.raises(InputError, match="small_size: the encoder does not take 2x2 pixels"):
        multi_crop(small_size=0.01).check_data(images, 4)
    with pytest.raises(InputError, match="small_views: are crops of images and need `Views` as `augment`, got none"):
        multi_crop(augment=None).check_data(images, 4)
    with pytest.raises(InputError, match=r"small_views: .* got Identity"):
        multi_crop(augment=nn.Identity()).views_of(images.pixels, images.labels, images.labels)
    with pytest.raises(InputError, match="small_crop: expected two shares 0 < low <= high <= 1, got"):
        multi_crop(small_crop=(0.2, 0.1))
    with pytest.raises(InputError, match="small_crop: expected two shares"):
        multi_crop(small_crop=(0.2,))
    with pytest.raises(InputError, match="small_size: expected a number above 0 and of at most 1, got 0"):
        multi_crop(small_size=0.0)
    with pytest.raises(InputError, match="small_views: expected a whole number of at least 0, got -1"):
        multi_crop(small_views=-1)
