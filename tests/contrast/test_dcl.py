"""DCL and DCLW against their plain forms, closed forms, and the algebra that the paper rests on."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from counterpoise.contrast.dcl import DCL, DCLLoss, dcl, npc_multiplier, queue_dcl, von_mises_fisher_weights
from counterpoise.contrast.moco import queue_nce
from counterpoise.errors import InputError
from worlds import Encoder, seeded

N, T = 7, 0.2
Z1 = F.normalize(torch.randn(N, 5, generator=seeded(0), dtype=torch.float64), dim=1)
Z2 = F.normalize(Z1 + torch.randn(N, 5, generator=seeded(1), dtype=torch.float64) / 2, dim=1)
PAIRED = torch.eye(N).bool().repeat(2, 2)  # an anchor itself and its positive
POSITIVE = torch.arange(2 * N).roll(N)


def gram(z1, z2):
    z = torch.cat([z1, z2])
    return z @ z.T


def dcl_rows(similarity, temperature=T, weights=None):
    """The loss of each anchor from the matrix of similarities."""
    positive = similarity.gather(1, POSITIVE[:, None])[:, 0] / temperature
    negatives = (similarity / temperature).masked_fill(PAIRED, -torch.inf).logsumexp(1)
    return negatives - (positive if weights is None else positive * weights.repeat(2))


def nt_xent_rows(similarity, temperature=T):
    logits = (similarity / temperature).masked_fill(torch.eye(2 * N).bool(), -torch.inf)
    return F.cross_entropy(logits, POSITIVE, reduction="none")


def one_way(z1, z2, temperature=T, weights=1.0):
    """The loss with anchors in the first view alone, sample by sample."""
    total = 0.0
    for i in range(len(z1)):
        negatives = [z1[i] @ z[j] / temperature for z in (z1, z2) for j in range(len(z1)) if j != i]
        weight = weights if isinstance(weights, float) else weights[i]
        total += torch.stack(negatives).exp().sum().log() - weight * (z1[i] @ z2[i]) / temperature
    return total / len(z1)


def mises_fisher(z1, z2, sigma=0.5):
    e = ((z1 * z2).sum(1) / sigma).exp()
    return 2 - e / e.mean()


def test_two_samples_with_equal_views_worked_by_hand():
    """One other sample, seen twice: -1/T + log 2 + s/T."""
    z = Z1[:2]
    expected = -1 / T + math.log(2) + (z[0] @ z[1]).item() / T
    assert DCLLoss(T)(z, 3 * z).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_embeddings_give_the_log_of_the_number_of_negatives(temperature, weighted):
    z = Z1[:1].expand(N, -1)
    assert DCLLoss(temperature, weighted)(z, z).item() == pytest.approx(math.log(2 * N - 2), abs=1e-12)


def test_distance_to_nt_xent():
    """InfoNCE exceeds DCL by the mean of log(1 + p/U), p being the positive's and U the negatives' exponentials."""
    similarity = gram(Z1, Z2)
    p = (similarity / T).exp().gather(1, POSITIVE[:, None])[:, 0]
    u = (similarity / T).exp().masked_fill(PAIRED, 0).sum(1)
    gap = nt_xent_rows(similarity).mean() - DCLLoss(T)(Z1, Z2)
    torch.testing.assert_close(gap, torch.log1p(p / u).mean(), rtol=0, atol=1e-10)


def test_gradient_of_infonce_is_the_multiplier_times_that_of_dcl():
    """On the similarities, anchor by anchor: Proposition 1."""
    similarity = gram(Z1, Z2).requires_grad_()
    torch.testing.assert_close(dcl(Z1, Z2, T), dcl_rows(similarity).mean())
    (coupled,) = torch.autograd.grad(nt_xent_rows(similarity).sum(), similarity)
    (decoupled,) = torch.autograd.grad(dcl_rows(similarity).sum(), similarity)
    multiplier = npc_multiplier(Z1, 2 * Z2, T)
    torch.testing.assert_close(coupled, multiplier[:, None] * decoupled, rtol=1e-10, atol=1e-12)
    assert multiplier.min() > 0.01
    assert multiplier.max() < 0.99


def test_easy_positives_silence_infonce_but_not_dcl():
    assert npc_multiplier(torch.eye(4), torch.eye(4), 0.05).max() < 1e-7
    z = torch.eye(4, dtype=torch.float64, requires_grad=True)
    dcl(z, torch.eye(4, dtype=torch.float64), 0.05).backward()
    assert z.grad.abs().max() > 1


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_on_the_similarities(weighted, rng):
    """Of a positive -w/(T N), whatever the batch; of an anchor's negatives their softmax, 1/(T N) in all.

    With 2N independent rows Z, a gradient G on Z determines the gradients A on the similarities: G Z^-1 = A + A'.
    """
    z = torch.randn(2 * N, 2 * N, generator=rng, dtype=torch.float64).div(4).requires_grad_()
    z1, z2 = z.chunk(2)
    DCLLoss(T, weighted, normalize=False)(z1, z2).backward()
    weights = mises_fisher(z1, z2) if weighted else torch.ones(N, dtype=torch.float64)
    found = z.grad @ torch.linalg.inv(z)
    torch.testing.assert_close(found.gather(1, POSITIVE[:, None])[:, 0], -weights.repeat(2) / (T * N))
    pushes = (gram(z1, z2) / T).masked_fill(PAIRED, -torch.inf).softmax(1)  # rows sum to 1
    torch.testing.assert_close(found.masked_fill(PAIRED, 0), (pushes + pushes.T) / (2 * T * N))


def test_weights_average_to_one_and_fall_with_the_alignment():
    weights = von_mises_fisher_weights(Z1, Z2)
    torch.testing.assert_close(weights, mises_fisher(Z1, Z2))
    assert weights.mean().item() == pytest.approx(1, abs=1e-12)
    by_similarity = weights[(Z1 * Z2).sum(1).argsort()]
    assert (by_similarity.diff() < 0).all()
    assert 2 - N < weights.min() < 1 < weights.max() < 2


def test_wide_sigma_is_dcl():
    torch.testing.assert_close(DCLLoss(T, weighted=True, sigma=1e9)(Z1, Z2), DCLLoss(T)(Z1, Z2))


@pytest.mark.parametrize("weighted", [False, True])
def test_both_directions_written_out(weighted):
    weights = mises_fisher(Z1, Z2) if weighted else 1.0
    forward, backward = one_way(Z1, Z2, T, weights), one_way(Z2, Z1, T, weights)
    torch.testing.assert_close(DCLLoss(T, weighted)(Z1, Z2), (forward + backward) / 2)
    torch.testing.assert_close(DCLLoss(T, weighted, reduction="sum")(Z1, Z2), forward + backward)
    torch.testing.assert_close(DCLLoss(T, weighted)(Z2, Z1), DCLLoss(T, weighted)(Z1, Z2))


@pytest.mark.parametrize("detach", [False, True])
def test_gradient_through_the_weights(detach):
    ours, theirs = Z1.clone().requires_grad_(), Z1.clone().requires_grad_()
    DCLLoss(T, weighted=True, detach_weights=detach)(ours, Z2).backward()
    unit = F.normalize(theirs, dim=1)
    weights = mises_fisher(unit, Z2)
    dcl_rows(gram(unit, Z2), T, weights.detach() if detach else weights).mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_in_double_precision(weighted):
    loss = DCLLoss(T, weighted, detach_weights=False)
    assert torch.autograd.gradcheck(loss, (Z1.clone().requires_grad_(), Z2.clone().requires_grad_()))


@pytest.mark.parametrize("weighted", [False, True])
def test_invariances(weighted, rng):
    """Order of the batch, a common rotation, and, as rows are normalised, their lengths."""
    loss = DCLLoss(T, weighted)
    order = torch.randperm(N, generator=rng)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=rng, dtype=torch.float64)).Q
    for same in (loss(Z1[order], Z2[order]), loss(Z1 @ rotation, Z2 @ rotation), loss(Z1 * 100, Z2 / 100)):
        torch.testing.assert_close(same, loss(Z1, Z2))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_bfloat16_input_is_computed_in_float32(weighted, normalize):
    z1, z2 = Z1.bfloat16().requires_grad_(), Z2.bfloat16()
    loss = DCLLoss(0.05, weighted, normalize=normalize)
    value = loss(z1, z2)
    value.backward()
    torch.testing.assert_close(value, loss(z1.float(), z2.float()))
    assert value.dtype == torch.float32
    assert torch.isfinite(z1.grad).all()


def test_the_bound_is_reached_by_the_best_arrangement_of_two_samples():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert DCLLoss(T)(z, z).item() == pytest.approx(math.log(2) - 2 / T, abs=1e-5)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = DCLLoss()
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        loss(Z1[:1], Z2[:1])
    with pytest.raises(InputError, match=r"z1 and z2: expected the same shape, got \[7, 5\] and \[7, 4\]"):
        loss(Z1, Z2[:, :4])
    with pytest.raises(InputError, match=r"z1: expected a matrix \[rows, dim\], got shape \[5\]"):
        loss(Z1[0], Z2[0])
    with pytest.raises(InputError, match="z2: 35 of 35 numbers are NaN or infinite"):
        npc_multiplier(Z1, Z2 * math.nan)
    with pytest.raises(InputError, match=r"weights: expected one for each of the 7 samples, got shape \[7, 1\]"):
        dcl(Z1, Z2, weights=torch.ones(N, 1))
    with pytest.raises(InputError, match="z1: expected at least 2 rows, got 1"):
        von_mises_fisher_weights(Z1[:1], Z2[:1])
    with pytest.raises(InputError, match="temperature: expected a number above 0, got -1"):
        DCLLoss(temperature=-1)
    with pytest.raises(InputError, match="sigma: expected a number above 0, got 0"):
        DCLLoss(sigma=0)
    with pytest.raises(InputError, match="reduction 'men' is not known; did you mean 'mean'"):
        DCLLoss(reduction="men")


@pytest.mark.parametrize("weighted", [False, True])
def test_the_method_compares_the_projections_of_both_views(weighted, rng):
    method = DCL(Encoder(), temperature=T, weighted=weighted, sigma=0.3, hidden=8, dim=3)
    views = [torch.randn(N, 1, 4, 4, generator=rng) for _ in range(2)]
    z1, z2 = (F.normalize(method.head(method.encoder(view)), dim=1) for view in views)
    weights = mises_fisher(z1, z2, 0.3) if weighted else None
    value = method.loss(views, torch.full((N,), -1), torch.arange(N))
    torch.testing.assert_close(value, dcl_rows(gram(z1, z2), T, weights).mean())


@pytest.mark.parametrize("weighted", [False, True])
def test_one_way_takes_the_first_views_rows_as_anchors(weighted):
    weights = mises_fisher(Z1, Z2) if weighted else 1.0
    loss = DCLLoss(T, weighted, one_way=True)
    torch.testing.assert_close(loss(Z1, Z2), one_way(Z1, Z2, weights=weights), rtol=0, atol=1e-12)
    both = (loss(Z1, Z2) + loss(Z2, Z1)) / 2
    torch.testing.assert_close(both, DCLLoss(T, weighted)(Z1, Z2), rtol=0, atol=1e-12)


def test_the_sum_over_one_direction_is_that_direction():
    single = DCLLoss(T, one_way=True)(Z1, Z2)
    assert DCLLoss(T, one_way=True, reduction="sum")(Z1, Z2) == single
    torch.testing.assert_close(DCLLoss(T, reduction="sum")(Z1, Z2), single + DCLLoss(T, one_way=True)(Z2, Z1))


@pytest.mark.slow
def test_one_way_gives_the_second_view_a_gradient_as_candidates():
    z1, z2 = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    dcl(z1, z2, T, one_way=True).backward()
    assert z1.grad.abs().max() > 0
    assert z2.grad.abs().max() > 0
    assert torch.autograd.gradcheck(lambda a, b: dcl(a, b, T, one_way=True), (z1, z2))


def plain_queue(queries, keys, queue, temperature=T, weights=1.0):
    """The loss of each query, term by term."""
    q, k, queue = (F.normalize(x, dim=1) for x in (queries, keys, queue))
    negatives = (q @ queue.T / temperature).exp().sum(1).log()
    return negatives - weights * (q * k).sum(1) / temperature


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_queue_form_against_all_logits(weighted, detach, rng):
    queue = 3 * torch.randn(11, 5, generator=rng, dtype=torch.float64)
    queries, keys = (2 * z.clone().requires_grad_() for z in (Z1, Z2))
    value = DCLLoss(T, weighted, 0.4, detach_weights=detach)(queries, keys, queue)
    weights = mises_fisher(F.normalize(queries, dim=1), F.normalize(keys, dim=1), 0.4) if weighted else torch.ones(N)
    expected = plain_queue(queries, keys, queue, weights=weights.detach() if detach else weights).mean()
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(value, (queries, keys))
    torch.testing.assert_close(found, torch.autograd.grad(expected, (queries, keys)), rtol=0, atol=1e-12)


def test_queue_form_is_moco_without_the_positive_in_the_denominator(rng):
    """As for two views, InfoNCE is larger by the log of one plus the positive's share beside the negatives."""
    queue = F.normalize(torch.randn(9, 5, generator=rng, dtype=torch.float64), dim=1)
    positive = ((Z1 * Z2).sum(1) / T).exp()
    ratio = positive / (Z1 @ queue.T / T).exp().sum(1)
    torch.testing.assert_close(queue_nce(Z1, Z2, queue, T) - queue_dcl(Z1, Z2, queue, T), ratio.log1p().mean())


def test_queue_form_of_orthogonal_negatives_by_hand():
    z = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(queue_dcl(z[:1], z[:1], z[1:], 0.25).item(), math.log(3) - 4)


@pytest.mark.usefixtures("plain_shapes")
def test_queue_form_refuses_by_name():
    with pytest.raises(InputError, match="z1 and queue: expected the same width, got 5 and 4"):
        DCLLoss()(Z1, Z2, Z1[:, :4])
    with pytest.raises(InputError, match="queue: expected at least 1 rows, got 0"):
        DCLLoss()(Z1, Z2, Z1[:0])
    with pytest.raises(InputError, match="z1 and z2: expected"):
        DCLLoss()(Z1, Z2[1:], Z1)
    with pytest.raises(InputError, match="negatives: 5 of 35 numbers are NaN"):
        queue_dcl(Z1, Z2, torch.cat([Z1[:1] * math.nan, Z1[1:]]))
    with pytest.raises(InputError, match="weights: expected one for each of the 7 samples"):
        queue_dcl(Z1, Z2, Z1, weights=torch.ones(6))
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        queue_dcl(Z1, Z2, Z1, 0)
    with pytest.raises(InputError, match="negatives"):
        queue_dcl(Z1, Z2, Z1 * 1e30, normalize=False)


def batch(rng, size=4):
    return [torch.randn(size, 1, 4, 4, generator=rng) for _ in range(2)], torch.full((size,), -1), torch.arange(size)


def made(**arguments):
    torch.manual_seed(0)
    return DCL(Encoder(), **{"temperature": T, "hidden": 8, "dim": 3, "queue": 10, **arguments})


def test_the_one_way_method_has_the_default_methods_weights(rng):
    method, default = made(form="one-way"), made()
    assert method.state_dict().keys() == default.state_dict().keys()
    assert all(torch.equal(x, default.state_dict()[name]) for name, x in method.state_dict().items())
    given = batch(rng)
    z1, z2 = (F.normalize(z, dim=1) for z in method.projections(given[0]))
    torch.testing.assert_close(method.loss(*given), one_way(z1, z2))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_moco_method_contrasts_queries_with_keys_and_the_queue_as_it_was(weighted, rng):
    method = made(form="moco", weighted=weighted)
    twin, given = copy.deepcopy(method), batch(rng)
    value = method.loss(*given)
    queries, keys = twin.head(twin.encoder(given[0][0])), twin.key_head(twin.key_encoder(given[0][1]))
    weights = mises_fisher(F.normalize(queries, dim=1), F.normalize(keys, dim=1)) if weighted else 1.0
    torch.testing.assert_close(value, plain_queue(queries, keys, twin.queue, weights=weights).mean())
    torch.testing.assert_close(method.queue, torch.cat([twin.queue[4:], F.normalize(keys, dim=1)]))


def test_the_moco_method_trains_encoder_and_head_and_moves_the_keys_by_their_share(rng):
    method = made(form="moco", momentum=0.9)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in method.modules())
    method.loss(*batch(rng)).backward()
    assert {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None} == {"encoder", "head"}
    before = method.key_encoder.weight.clone()
    with torch.no_grad():
        method.encoder.weight.add_(1.0)
    method.loss(*batch(rng))
    torch.testing.assert_close(method.key_encoder.weight, before + 0.1)


def test_of_a_batch_larger_than_the_queue_the_last_keys_stay(rng):
    method, given = made(form="moco", queue=3), batch(rng, 8)
    keys = method.key_head(method.key_encoder(given[0][1]))
    method.loss(*given)
    torch.testing.assert_close(method.queue, F.normalize(keys, dim=1)[-3:])


def test_evaluation_changes_neither_queue_nor_key_encoder(rng):
    method = made(form="moco").eval()
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method.encoder.weight.add_(1.0)
    method.loss(*batch(rng))
    after = method.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items() if not name.startswith("encoder"))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("form", "moca", "form 'moca' is not known; did you mean 'moco'"),
        ("queue", 0, "queue: expected a whole number"),
        ("momentum", 1.5, "momentum: expected a number"),
    ],
)
def test_the_methods_arguments_are_refused_by_name(name, value, message):
    with pytest.raises(InputError, match=message):
        made(**{name: value})
