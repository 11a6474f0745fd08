"""The losses against their plain forms and limits, and what the paper says of their gradients."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.contrastive_behaviour import (
    HardContrastive,
    HardContrastiveLoss,
    SimpleContrastiveLoss,
    hard_contrastive,
    hard_negatives,
    penalty_entropy,
    relative_penalty,
    simple_contrastive,
)
from counterpoise.contrast.moco import queue_nce
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.measure import tolerance, uniformity
from worlds import Encoder, seeded

N, M, D = 6, 20, 5
Q, P = F.normalize(torch.randn(2, N, D, generator=seeded(0), dtype=torch.float64), dim=2)
K = F.normalize(torch.randn(M, D, generator=seeded(1), dtype=torch.float64), dim=1)
NUMBERS = (torch.arange(N), torch.arange(M) % 9)  # numbers 0 and 1 are three negatives', the others two's


def plain_rows(queries, positives, negatives, temperature, kept, exclude=None):
    """Row by row: the softmax loss with the `kept(number)` largest negatives of each query, no two being equal."""
    found = []
    for i, query in enumerate(queries):
        s = torch.stack(
            [query @ n for j, n in enumerate(negatives) if exclude is None or exclude[0][i] != exclude[1][j]]
        )
        hard = s.sort(descending=True).values[: kept(len(s))]
        found.append(
            -(query @ positives[i]) / temperature
            + torch.cat([hard, (query @ positives[i])[None]]).div(temperature).exp().sum().log()
        )
    return torch.stack(found)


def plain_simple(queries, positives, negatives, kept, weight=None, exclude=None):
    found = []
    for i, query in enumerate(queries):
        s = torch.stack(
            [query @ n for j, n in enumerate(negatives) if exclude is None or exclude[0][i] != exclude[1][j]]
        )
        hard = s.sort(descending=True).values[: kept(len(s))]
        found.append(-(query @ positives[i]) + (hard.mean() if weight is None else weight * hard.sum()))
    return torch.stack(found)


def by_similarity(loss, positive, similarity):
    """A loss as a function of the similarities, through rows whose inner products these are.

    A query e_0 has the coordinate s with a key (s, sqrt(1 - s^2)) of length 1.
    """

    def keys(s):
        return torch.stack([s, (1 - s.square()).sqrt()], dim=-1)

    return loss(torch.tensor([[1.0, 0.0]], dtype=torch.float64), keys(positive)[None], keys(similarity))


S, S_POSITIVE = (torch.linspace(-0.8, 0.9, 8, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))


def gradients(loss):
    positive, similarity = S_POSITIVE.clone().requires_grad_(), S.clone().requires_grad_()
    return torch.autograd.grad(by_similarity(loss, positive, similarity), (positive, similarity))


def test_one_hard_negative_worked_by_hand():
    """Of the similarities 0, 0.6 and -1, half of three is rounded to two: log(1 + e^{0.6 - 1} + e^{0 - 1})."""
    query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    two = math.log(1 + math.exp(-0.4) + math.exp(-1))
    assert HardContrastiveLoss(1.0, alpha=0.5)(query, 5 * query, negatives).item() == pytest.approx(two, abs=1e-6)
    assert HardContrastiveLoss(1.0, num_hard=1)(query, query, 3 * negatives).item() == pytest.approx(
        math.log(1 + math.exp(-0.4)), abs=1e-6
    )
    assert SimpleContrastiveLoss(0.5)(query, query, negatives).item() == pytest.approx(-1 + 0.3, abs=1e-6)
    assert SimpleContrastiveLoss(weight=2.0)(query, query, negatives).item() == pytest.approx(-1 - 0.8, abs=1e-6)


@pytest.mark.parametrize("exclude", [None, NUMBERS], ids=["all", "some excluded"])
@pytest.mark.parametrize(
    ("share", "kept"),
    [
        ({"alpha": 1.0}, lambda n: n),
        ({"alpha": 0.3}, lambda n: round(0.3 * n)),
        ({"alpha": 1e-3}, lambda n: 1),
        ({"num_hard": 4}, lambda n: 4),
        ({"num_hard": 1000}, lambda n: n),
    ],
)
def test_losses_written_out(share, kept, exclude):
    hard = hard_contrastive(Q, P, K, 0.2, **share, exclude=exclude)
    torch.testing.assert_close(hard, plain_rows(Q, P, K, 0.2, kept, exclude).mean(), rtol=1e-12, atol=1e-12)
    for weight in (None, 0.7):
        simple = simple_contrastive(Q, P, K, **share, weight=weight, exclude=exclude)
        expected = plain_simple(Q, P, K, kept, weight, exclude).mean()
        torch.testing.assert_close(simple, expected, rtol=1e-12, atol=1e-12)


def test_all_negatives_are_the_ordinary_loss():
    ordinary = queue_nce(Q, P, K, 0.2)
    assert HardContrastiveLoss(0.2, alpha=1.0)(Q, P, K) == ordinary
    torch.testing.assert_close(HardContrastiveLoss(0.2, num_hard=M)(Q, P, K), ordinary, rtol=1e-14, atol=1e-14)


def test_the_loss_grows_with_the_number_of_hard_negatives():
    losses = torch.stack([hard_contrastive(Q, P, K, 0.3, num_hard=k) for k in range(1, M + 1)])
    assert (losses.diff() > 0).all()


@pytest.mark.parametrize("temperature", [0.05, 0.3, 3.0])
def test_gradients_of_the_ordinary_loss(temperature):
    """Equation 4: P_ij / T on a negative, and minus their sum on the positive; equation 5 is their ratio."""
    on_positive, on_negatives = gradients(HardContrastiveLoss(temperature, alpha=1.0))
    p = torch.cat([S, S_POSITIVE[None]]).div(temperature).softmax(0)
    torch.testing.assert_close(on_negatives, p[:-1] / temperature)
    torch.testing.assert_close(on_positive, -on_negatives.sum())
    torch.testing.assert_close(relative_penalty(S, temperature), on_negatives / on_positive.abs())


def test_hard_negatives_share_the_push_among_themselves():
    on_positive, on_negatives = gradients(HardContrastiveLoss(0.3, num_hard=3))
    assert (on_negatives[:-3] == 0).all()
    torch.testing.assert_close(on_negatives[-3:], -on_positive * relative_penalty(S[-3:], 0.3))


def test_ties_at_the_threshold_are_all_kept():
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    keys = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.6, -0.8], [0.0, 1.0]], dtype=torch.float64).requires_grad_()
    loss = hard_contrastive(query, query, keys, 1.0, num_hard=2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.2) + 2 * math.exp(-0.4)))
    loss.backward()
    assert keys.grad[3].abs().max() == 0
    torch.testing.assert_close(keys.grad[1].abs(), keys.grad[2].abs())
    assert keys.grad[1].abs().max() > 0.01


def test_the_positive_is_in_the_denominator_however_far_it_is():
    query, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    near = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    expected = math.log(1 + math.exp(0.6 + 1))
    assert hard_contrastive(query, far, near, 1.0, num_hard=1).item() == pytest.approx(expected, abs=1e-6)


def test_relative_penalty_is_uniform_for_large_temperatures_and_one_sided_for_small_ones():
    torch.testing.assert_close(relative_penalty(S, 1e6), torch.full_like(S, 1 / len(S)), rtol=1e-5, atol=0)
    assert relative_penalty(S, 1e-2)[-1].item() == pytest.approx(1, abs=1e-6)
    hidden = relative_penalty(S.masked_fill(S < 0, -torch.inf), 0.3)
    torch.testing.assert_close(hidden[S >= 0], relative_penalty(S[S >= 0], 0.3))


@pytest.mark.parametrize("exclude", [None, NUMBERS], ids=["all", "some excluded"])
def test_penalty_entropy_is_that_of_the_penalties_and_rises_with_the_temperature(exclude):
    similarity = Q @ K.T
    if exclude:
        similarity = similarity.masked_fill(exclude[0][:, None] == exclude[1], -torch.inf)
    temperatures = [0.03, 0.1, 0.3, 1.0, 10.0]
    found = [penalty_entropy(2 * Q, K / 3, t, exclude) for t in temperatures]
    for t, entropy in zip(temperatures, found, strict=True):
        torch.testing.assert_close(entropy, torch.special.entr(relative_penalty(similarity, t)).sum(1))
    assert (torch.stack(found).diff(dim=0) > 0).all()


def test_penalty_entropy_of_equally_near_negatives_does_not_depend_on_the_temperature():
    same = K[:1].expand(4, -1)
    for t in (0.05, 5.0):
        torch.testing.assert_close(penalty_entropy(Q, same, t), torch.full((N,), math.log(4)).double())


def test_small_temperature_is_the_hinge_on_the_hardest_negative():
    """Equation 6, for positives nearer and farther than the hardest negative."""
    positives = torch.cat([Q[:3], P[3:]])
    gap = (Q @ K.T).amax(1) - (Q * positives).sum(1)
    assert gap.min() < -0.1 < 0.1 < gap.max()
    for alpha in (1.0, 0.1):
        value = 1e-3 * hard_contrastive(Q, positives, K, 1e-3, alpha)
        torch.testing.assert_close(value, gap.clamp(min=0).mean(), rtol=0, atol=1e-3)


def test_large_temperature_is_the_simple_loss_scaled():
    """Equation 7: T (L - log(1 + K)) tends to K / (1 + K) times the simple loss of the K negatives that count."""
    for share, kept in (({"alpha": 1.0}, M), ({"num_hard": 5}, 5)):
        value = 1e4 * (hard_contrastive(Q, P, K, 1e4, **share) - math.log(1 + kept))
        torch.testing.assert_close(value, kept / (1 + kept) * simple_contrastive(Q, P, K, **share), rtol=0, atol=1e-4)


def test_a_table_in_parts_is_the_table(monkeypatch):
    """With values and gradients of queries, positives and negatives."""
    losses = [HardContrastiveLoss(0.2, 0.3), SimpleContrastiveLoss(0.3)]
    for exclude in (None, NUMBERS):
        for loss in losses:
            found = []
            for table in (1 << 22, 2 * M, 1):
                monkeypatch.setattr("counterpoise.ops.chunking.TABLE", table)
                leaves = [x.clone().requires_grad_() for x in (Q, P, K)]
                value = loss(*leaves, exclude=exclude)
                found.append([value, *torch.autograd.grad(value, leaves)])
            for others in found[1:]:
                for ours, whole in zip(others, found[0], strict=True):
                    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [HardContrastiveLoss(0.3, 0.3), SimpleContrastiveLoss(), SimpleContrastiveLoss(0.3)])
def test_gradient_in_double_precision(loss):
    leaves, exclude = [x.clone().requires_grad_() for x in (Q[:3], P[:3], K[:12])], (NUMBERS[0][:3], NUMBERS[1][:12])
    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, exclude=exclude), leaves)


@pytest.mark.parametrize("loss", [HardContrastiveLoss(0.3, 0.3), SimpleContrastiveLoss(), SimpleContrastiveLoss(0.3)])
def test_invariances(loss, rng):
    """Order of queries and of negatives, a common rotation, and the rows' lengths."""
    first, second = torch.randperm(N, generator=rng), torch.randperm(M, generator=rng)
    rotation = torch.linalg.qr(torch.randn(D, D, generator=rng, dtype=torch.float64)).Q
    expected = loss(Q, P, K)
    for same in (loss(Q[first], P[first], K[second]), loss(*(x @ rotation for x in (Q, P, K))), loss(9 * Q, P / 9, K)):
        torch.testing.assert_close(same, expected)


def test_autocast_does_not_lower_the_precision():
    q, p, k = (x.float() for x in (Q, P, K))
    for loss in (HardContrastiveLoss(0.05, 0.3), SimpleContrastiveLoss(0.3)):
        with torch.autocast("cpu", torch.bfloat16):
            low = loss(q, p, k)
        torch.testing.assert_close(low, loss(q, p, k), rtol=1e-6, atol=1e-6)


def test_equal_rows_give_the_log_of_one_and_the_negatives():
    one = torch.ones(3, 2)
    assert HardContrastiveLoss(0.1, 0.1)(one, one, torch.ones(7, 2)).item() == pytest.approx(math.log(8), abs=1e-6)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    for loss in (HardContrastiveLoss(), SimpleContrastiveLoss(), SimpleContrastiveLoss(0.5)):
        with pytest.raises(
            InputError, match=r"queries and positives: expected the same shape, got \[6, 5\] and \[5, 5\]"
        ):
            loss(Q, P[:5], K)
        with pytest.raises(InputError, match="queries and negatives: expected the same width, got 5 and 4"):
            loss(Q, P, K[:, :4])
        with pytest.raises(InputError, match="negatives: expected at least 1 rows, got 0"):
            loss(Q, P, K[:0])
        with pytest.raises(InputError, match="positives: 30 of 30 numbers are NaN"):
            loss(Q, P * math.nan, K)
        with pytest.raises(InputError, match="exclude: expected one integer for each of the 20 rows, got shape"):
            loss(Q, P, K, exclude=(NUMBERS[0], NUMBERS[0]))
        with pytest.raises(InputError, match="negatives: query 2 has none left to compare with"):
            loss(Q, P, K, exclude=(NUMBERS[0], torch.full((M,), 2)))
    for make in (HardContrastiveLoss, SimpleContrastiveLoss):
        with pytest.raises(InputError, match="alpha: expected a number above 0 and of at most 1, got 0"):
            make(alpha=0)
        with pytest.raises(InputError, match="num_hard: expected a whole number of at least 1, got 0"):
            make(num_hard=0)
    with pytest.raises(InputError, match="temperature: expected a number above 0, got -1"):
        HardContrastiveLoss(-1)
    with pytest.raises(InputError, match="weight: expected a number of at least 0, got -1"):
        SimpleContrastiveLoss(weight=-1)


def test_the_hard_negatives_of_a_row_are_its_own():
    similarity = Q @ K.T
    kept = hard_negatives(similarity, num_hard=4)
    assert (kept.sum(1) == 4).all()
    for row, mask in zip(similarity, kept, strict=True):
        assert set(mask.nonzero().flatten().tolist()) == set(row.argsort(descending=True)[:4].tolist())


def made(**arguments):
    torch.manual_seed(0)
    return HardContrastive(Encoder(), samples=12, **{"dim": 3, **arguments})


def batch(rng, index=(7, 2, 9)):
    views = [torch.randn(len(index), 1, 4, 4, generator=rng)]
    return views, torch.full((len(index),), -1), torch.tensor(index)


@pytest.mark.parametrize(("simple", "alpha"), [(False, 1.0), (False, 0.2), (True, 1.0), (True, 0.2)])
def test_the_method_compares_with_the_bank_of_which_the_own_entry_is_the_positive(simple, alpha, rng):
    method = made(simple=simple, alpha=alpha, temperature=0.4)
    bank, (views, labels, index) = method.bank.clone(), batch(rng)
    z = F.normalize(method.head(method.encoder(views[0])), dim=1)
    rows, kept = [], round(11 * alpha)
    for query, own in zip(z, index, strict=True):
        others = torch.cat([bank[:own], bank[own + 1 :]])
        given = (query[None], bank[own][None], others)
        rows.append(plain_simple(*given, lambda _: kept) if simple else plain_rows(*given, 0.4, lambda _: kept))
    torch.testing.assert_close(method.loss(views, labels, index), torch.cat(rows).mean())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_the_bank_follows_the_embeddings_of_the_images_seen(momentum, rng):
    method = made(momentum=momentum)
    before, (views, labels, index) = method.bank.clone(), batch(rng)
    z = F.normalize(method.head(method.encoder(views[0])), dim=1)
    method.loss(views, labels, index).backward()
    expected = before.clone()
    expected[index] = F.normalize(momentum * before[index] + (1 - momentum) * z, dim=1).detach()
    torch.testing.assert_close(method.bank, expected)
    assert method.encoder.weight.grad.abs().max() > 0


def test_evaluation_leaves_the_bank(rng):
    method = made().eval()
    before = copy.deepcopy(method.state_dict())
    method.loss(*batch(rng))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_diagnostics_measure_the_embeddings(rng):
    method = made()
    pixels = torch.randint(0, 256, (12, 1, 4, 4), generator=rng, dtype=torch.uint8)
    images = Images(pixels, torch.arange(12) % 2, ("a", "b"), "noise")
    z = method.head(method.encoder(to_float(pixels))).detach()
    found = method.diagnostics(images, images, images)
    assert found == pytest.approx(
        {
            "embedding_uniformity": uniformity(z).item(),
            "embedding_tolerance": tolerance(z, images.labels).item(),
        },
        abs=1e-6,
    )
    alone = Images(pixels[:2], torch.arange(2), ("a", "b"), "noise")
    assert set(method.diagnostics(images, images, alone)) == {"embedding_uniformity"}


@pytest.mark.parametrize(("name", "value"), [("momentum", 1.5), ("alpha", 2.0), ("temperature", 0)])
def test_arguments_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name}: expected a (whole )?number .*, got {value:g}"):
        made(**{name: value})
