"""The paper's algorithm written out with whole matrices, the dual's calculus, and a state that moves when it should."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from torch.nn import functional as F

from counterpoise.contrast.isogclr import (
    CaptionedImages,
    ISogCLR,
    ISogCLRLoss,
    ISogCLRPairLoss,
    ISogCLRPairs,
    robust_objective,
    temperature_gradient,
)
from counterpoise.data import Images
from counterpoise.data.views import to_float
from counterpoise.errors import InputError
from counterpoise.ops.similarity import similarity_softmax
from counterpoise.training.trainer import CHECKPOINT, fit, read_checkpoint
from worlds import Encoder, seeded

Z1 = torch.randn(6, 4, generator=seeded(0), dtype=torch.float64)
Z2 = Z1 + 0.4 * torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)
INDEX = torch.tensor([3, 0, 9, 4, 7, 1])
EXACT = {"atol": 1e-9, "rtol": 1e-7}


class Plain:
    """Both of the authors' algorithms with N x N matrices and an unguarded s; `reference` as in the losses."""

    def __init__(self, samples, rho, gamma, eta, beta, tau, tau_min, tau_max, clip, reference):
        self.s, self.u = torch.zeros(samples, dtype=torch.float64), torch.zeros(samples, dtype=torch.float64)
        self.tau = torch.full((samples,), tau, dtype=torch.float64)
        self.rho, self.gamma, self.eta, self.beta = rho, gamma, eta, beta
        self.tau_min, self.tau_max, self.clip, self.reference = tau_min, tau_max, clip, reference

    def side(self, h, mask, count, index, take_batch=False):
        """Of one anchor per sample: the surrogate's value, and what the state needs."""
        e = torch.exp(h.detach() / self.tau[index, None]) * mask
        g = e.sum(1) / count
        s = (1 - self.gamma) * self.s[index] + self.gamma * g
        if not self.reference:
            s = torch.where(self.s[index] == 0, g, s)
        if take_batch:
            s = g
        surrogate = (e / s[:, None] * h).sum(1) / count
        gradient = s.log() + self.rho - surrogate.detach() / self.tau[index]
        return surrogate, s, gradient

    def update(self, index, s, gradient):
        self.s[index] = s
        self.u[index] = (1 - self.beta) * self.u[index] + self.beta * gradient.clamp(-self.clip, self.clip)
        self.tau[index] = (self.tau[index] - self.eta * self.u[index]).clamp(self.tau_min, self.tau_max)

    def two_views(self, z1, z2, index, take_batch=False):
        z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
        batch = len(z1)
        mask = (1 - torch.eye(batch, dtype=torch.float64)).repeat(1, 2)
        positive = (z1 * z2).sum(1)
        a, s1, g1 = self.side(z1 @ torch.cat([z1, z2]).T, mask, 2 * batch - 2, index, take_batch)
        b, s2, g2 = self.side(z2 @ torch.cat([z1, z2]).T, mask, 2 * batch - 2, index, take_batch)
        self.update(index, (s1 + s2) / 2, (g1 + g2) / 2)
        return (a + b - 2 * positive).mean()

    def anchors(self, x, y, index):
        similarity = F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        batch = len(x)
        mask = torch.ones(batch, batch, dtype=torch.float64) - (0 if self.reference else torch.eye(batch))
        surrogate, s, g = self.side(similarity - similarity.diagonal()[:, None], mask, batch - 1, index)
        self.update(index, s, g)
        return surrogate.mean()


def value_and_gradients(function, inputs, *rest):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = function(*inputs, *rest)
    return value.detach(), torch.autograd.grad(value, inputs)


def assert_same_state(state, plain):
    for name in ("s", "u", "tau"):
        torch.testing.assert_close(getattr(state, name), getattr(plain, name), **EXACT)


def random_steps(rng, samples=10, batch=6, steps=8):
    for _ in range(steps):
        z1 = torch.randn(batch, 4, generator=rng, dtype=torch.float64)
        z2 = z1 + 0.4 * torch.randn(batch, 4, generator=rng, dtype=torch.float64)
        yield z1, z2, torch.randperm(samples, generator=rng)[:batch], torch.randperm(samples, generator=rng)[:batch]


SETTINGS = {"rho": 0.4, "gamma": 0.8, "eta": 0.03, "beta": 0.5, "tau": 0.25, "tau_min": 0.125, "tau_max": 1.0}


@pytest.mark.parametrize("reference", [False, True])
def test_two_views_against_whole_matrices_over_several_steps(reference, rng):
    loss = ISogCLRLoss(10, **SETTINGS, reference=reference).double()
    plain = Plain(10, **SETTINGS, clip=3.0, reference=reference)
    for z1, z2, index, _ in random_steps(rng):
        value, gradients = value_and_gradients(loss, (z1, z2), index)
        expected, expected_gradients = value_and_gradients(plain.two_views, (z1, z2), index)
        torch.testing.assert_close(gradients, expected_gradients, **EXACT)
        if reference:
            torch.testing.assert_close(value, expected, **EXACT)
        assert_same_state(loss.state, plain)


def test_reference_takes_the_batch_alone_in_epoch_0():
    loss = ISogCLRLoss(10, **SETTINGS, reference=True).double()
    plain = Plain(10, **SETTINGS, clip=3.0, reference=True)
    for epoch in (0, 0, 1):
        value, gradients = value_and_gradients(loss, (Z1, Z2), INDEX, epoch)
        expected, expected_gradients = value_and_gradients(plain.two_views, (Z1, Z2), INDEX, epoch == 0)
        torch.testing.assert_close((value, gradients), (expected, expected_gradients), **EXACT)
        assert_same_state(loss.state, plain)


@pytest.mark.parametrize("reference", [False, True])
def test_pairs_against_whole_matrices_over_several_steps(reference, rng):
    settings = SETTINGS | {"rho": 1.0, "beta": 0.9}
    loss = ISogCLRPairLoss(10, 10, **settings, reference=reference).double()
    images, texts = (Plain(10, **settings, clip=5.0, reference=reference) for _ in range(2))

    def both_sides(x, t, i, j):
        return images.anchors(x, t, i) + texts.anchors(t, x, j)

    for x, t, i, j in random_steps(rng):
        value, gradients = value_and_gradients(loss, (x, t), i, j)
        expected, expected_gradients = value_and_gradients(both_sides, (x, t), i, j)
        torch.testing.assert_close(gradients, expected_gradients, **EXACT)
        if reference:
            torch.testing.assert_close(value, expected, **EXACT)
        assert_same_state(loss.images, images)
        assert_same_state(loss.texts, texts)


H = torch.tensor([0.3, -0.2, 0.9, 0.1, -0.6], dtype=torch.float64)


def moments(tau, h=H):
    """Log-mean and softmax mean of h at temperature tau, from the primitive that the losses use."""
    m = similarity_softmax(torch.ones(1, 1, dtype=torch.float64), h[:, None], 1 / tau.view(1))
    return m.logsumexp - math.log(len(h)), m.mean


def test_derivative_of_the_dual_is_the_radius_minus_the_divergence():
    tau = torch.tensor([0.37], dtype=torch.float64, requires_grad=True)
    log_mean, mean = moments(tau)
    (derivative,) = torch.autograd.grad(robust_objective(log_mean, tau, 0.4).sum(), tau)
    p = torch.softmax(H / tau.detach(), 0)
    divergence = (p * (p * len(H)).log()).sum()
    torch.testing.assert_close(derivative, (0.4 - divergence)[None])
    torch.testing.assert_close(temperature_gradient(log_mean, mean, tau, 0.4).detach(), derivative)


def test_minimum_of_the_dual_lies_where_a_root_finder_puts_it():
    def divergence(tau):
        p = np.exp(H.numpy() / tau)
        p /= p.sum()
        return float((p * np.log(p * len(p))).sum())

    def dual(tau):
        tau = torch.tensor([tau], dtype=torch.float64)
        return float(robust_objective(moments(tau)[0], tau, 0.4))

    root = brentq(lambda tau: divergence(tau) - 0.4, 0.05, 5)
    lowest = minimize_scalar(dual, bounds=(0.05, 5), method="bounded", options={"xatol": 1e-9}).x
    assert lowest == pytest.approx(root, abs=1e-5)


def test_constant_similarities_leave_nothing_to_weigh():
    tau = torch.tensor([0.3], dtype=torch.float64)
    log_mean, mean = moments(tau, torch.full((5,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(robust_objective(log_mean, tau, 0.4), 0.7 + tau * 0.4)
    torch.testing.assert_close(temperature_gradient(log_mean, mean, tau, 0.4), torch.tensor([0.4], dtype=torch.float64))
    loss = ISogCLRLoss(4, rho=0.4)
    for _ in range(10):
        loss(torch.eye(4), torch.eye(4), torch.arange(4))
    assert loss.state.tau.tolist() == pytest.approx([0.05] * 4)


def log_mean_exp(z1, z2, tau):
    z1, z2 = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    z = torch.cat([z1, z2])
    own = torch.eye(len(z1), dtype=torch.bool).repeat(2, 2)
    h = (z @ z.T - (z1 * z2).sum(1).repeat(2)[:, None]).masked_fill(own, -torch.inf)
    return tau * (torch.logsumexp(h / tau, 1) - math.log(len(z) - 2))


def test_without_memory_and_with_fixed_temperatures_it_is_the_log_mean_exp():
    loss = ISogCLRLoss(10, rho=0.4, gamma=1.0, eta=0.0, tau=0.25).double()
    expected = value_and_gradients(lambda a, b: 2 * (log_mean_exp(a, b, 0.25).mean() + 0.25 * 0.4), (Z1, Z2))
    for _ in range(2):
        torch.testing.assert_close(value_and_gradients(loss, (Z1, Z2), INDEX), expected, **EXACT)


def test_value_bounds_the_batch_objective_from_above(rng):
    loss = ISogCLRLoss(10, rho=0.0, gamma=0.5, eta=0.0, tau=0.25).double()
    loss(Z1, Z2, INDEX)
    for z1, z2, _, _ in random_steps(rng, steps=5):
        assert loss(z1, z2, INDEX) > 2 * log_mean_exp(z1, z2, 0.25).mean()


def test_fixed_temperatures_never_move(rng):
    loss = ISogCLRLoss(10, eta=0.0)
    for z1, z2, index, _ in random_steps(rng):
        loss(z1, z2, index)
    assert (loss.state.tau == torch.full((10,), 0.1)).all()
    assert (loss.state.u != 0).any()


@pytest.mark.parametrize("eta", [0.03, 100.0])
def test_temperatures_stay_in_their_bounds_and_untouched_samples_as_they_were(eta):
    loss = ISogCLRLoss(10, eta=eta, tau_max=0.5)
    loss(Z1, Z2, INDEX)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(Z2[:3], Z1[:3], INDEX[:3])
    untouched = [i for i in range(10) if i not in INDEX[:3]]
    for name, value in loss.state_dict().items():
        assert torch.equal(value[untouched], before[name][untouched])
        assert not torch.equal(value[INDEX[:3]], before[name][INDEX[:3]]) or name.endswith("tau")
    assert 0.05 <= loss.state.tau.min() <= loss.state.tau.max() <= 0.5


def test_a_second_identical_call_leaves_s_and_the_gradient():
    """Both views alike, so that both anchors of a sample have the same g and s equals it."""
    loss = ISogCLRLoss(10, gamma=0.3, eta=0.0, tau=0.25).double()
    first = value_and_gradients(lambda z: loss(z, z.clone(), INDEX), (Z1,))
    log_s = loss.state.log_s.clone()
    torch.testing.assert_close(value_and_gradients(lambda z: loss(z, z.clone(), INDEX), (Z1,)), first, **EXACT)
    torch.testing.assert_close(loss.state.log_s, log_s, **EXACT)


def shifted(shift):
    """Unit images and texts whose similarity matrix has `shift` added to row 0, and nothing else changed by it."""
    images, texts = F.normalize(Z1, dim=1) / 2, F.normalize(Z2, dim=1) / 2
    first = torch.zeros(6, dtype=torch.float64)
    first[0] = 2 * shift
    zero, half = torch.zeros_like(first), torch.full_like(first, 0.5)
    images = torch.cat([images, torch.stack([first, (0.75 - first**2).sqrt(), zero], 1)], 1)
    return images, torch.cat([texts, torch.stack([half, zero, half.sqrt()], 1)], 1)


@pytest.mark.parametrize("side", ["images", "texts"])
def test_a_constant_added_to_a_row_or_column_of_similarities_changes_nothing_on_its_side(side):
    states, others = [], []
    for shift in (0.0, 0.3):
        loss = ISogCLRPairLoss(6, 6, rho=1.0, tau=0.2).double()
        image, text = shifted(shift) if side == "images" else shifted(shift)[::-1]
        for _ in range(3):
            loss(image, text, torch.arange(6), torch.arange(6))
        states.append(getattr(loss, side).state_dict())
        others.append(getattr(loss, "texts" if side == "images" else "images").state_dict())
    torch.testing.assert_close(states[1], states[0], **EXACT)
    assert not torch.allclose(others[1]["log_s"], others[0]["log_s"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
def test_a_sample_among_near_duplicates_ends_with_a_larger_temperature(pairs, rng):
    z = torch.eye(24)[:16].clone()
    z[:8] = torch.eye(24)[0] + 0.05 * torch.randn(8, 24, generator=rng)
    index = torch.arange(16)
    settings = {"rho": 0.4, "eta": 0.01, "tau": 0.1, "tau_min": 0.05}
    loss = ISogCLRPairLoss(16, 16, **settings) if pairs else ISogCLRLoss(16, **settings)
    for _ in range(150):
        loss(z, z, index, index) if pairs else loss(z, z, index)
    tau = (loss.images if pairs else loss.state).tau
    assert tau[:8].min() > 3 * tau[8:].max()


def test_state_survives_saving_and_is_left_alone_in_evaluation(tmp_path):
    loss = ISogCLRLoss(10)
    loss(Z1, Z2, INDEX)
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    again = ISogCLRLoss(10)
    again.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
    loss.eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    first = loss(Z2, Z1, INDEX.flip(0))
    assert loss(Z2, Z1, INDEX.flip(0)) == first
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    assert again(Z2, Z1, INDEX.flip(0)) == first


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
def test_gradient_is_that_of_the_value_and_stays_out_of_the_state(pairs):
    loss = (ISogCLRPairLoss(10, 10, rho=1.0, tau=0.2) if pairs else ISogCLRLoss(10, tau=0.2)).double()
    call = (lambda a, b: loss(a, b, INDEX, INDEX)) if pairs else (lambda a, b: loss(a, b, INDEX))
    call(Z2, Z1.flip(0))
    assert not any(buffer.requires_grad for buffer in loss.buffers())
    assert not list(loss.parameters())
    loss.eval()
    assert torch.autograd.gradcheck(call, (Z1.clone().requires_grad_(), Z2.clone().requires_grad_()))


@pytest.mark.parametrize("reference", [False, True])
def test_the_smallest_temperature_stays_finite(reference):
    """Negatives nearer than the positive by 2, at tau 0.005: e^400 overflows any float32."""
    loss = ISogCLRPairLoss(6, 6, tau=0.005, reference=reference)
    image = torch.eye(2).repeat(3, 1)
    for text in (-image, image, -image):
        value, gradients = value_and_gradients(loss, (image, text), torch.arange(6), torch.arange(6))
        assert torch.isfinite(value)
        assert all(torch.isfinite(g).all() for g in gradients)
    assert all(torch.isfinite(buffer).all() for buffer in loss.buffers())


def test_half_precision_is_computed_in_single():
    z1, z2 = Z1.to(torch.bfloat16), Z2.to(torch.bfloat16)
    value = ISogCLRLoss(10)(z1, z2, INDEX)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, ISogCLRLoss(10)(z1.float(), z2.float(), INDEX))


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ISogCLRLoss(10)(Z1, Z2, INDEX.clone().fill_(4)), "index: sample 4 occurs 6 times in one batch"),
        (lambda: ISogCLRLoss(5)(Z1, Z2, INDEX), "index: expected integers from 0 to 4, got 9"),
        (lambda: ISogCLRLoss(10)(Z1, Z2, INDEX[:5]), "index: expected one integer for each of the 6 rows"),
        (lambda: ISogCLRLoss(10)(Z1[:1], Z2[:1], INDEX[:1]), "z1: expected at least 2 rows, got 1"),
        (lambda: ISogCLRLoss(10)(Z1, Z2[:4], INDEX), "z1 and z2: expected the same shape"),
        (lambda: ISogCLRLoss(10)(Z1, Z2 * torch.nan, INDEX), "z2: 24 of 24 numbers are NaN"),
        (lambda: ISogCLRLoss(10).half()(Z1, Z2, INDEX), "temperatures were cast to torch.float16"),
        (lambda: ISogCLRLoss(0), "samples: expected a whole number of at least 1, got 0"),
        (lambda: ISogCLRLoss(10, gamma=0.0), "gamma: expected a number above 0 and of at most 1, got 0"),
        (lambda: ISogCLRLoss(10, tau=0.01), "tau: expected a number of at least 0.05 and of at most 1, got 0.01"),
        (lambda: ISogCLRPairLoss(10, 10)(Z1[:1], Z2[:1], INDEX[:1], INDEX[:1]), "image: expected at least 2 rows"),
        (lambda: ISogCLRPairLoss(10, 5)(Z1, Z2, INDEX, INDEX), "text_index: expected integers from 0 to 4, got 9"),
        (lambda: ISogCLRPairLoss(10, 10)(Z1, Z2, INDEX * 0, INDEX), "image_index: sample 0 occurs 6 times"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_method_trains_the_encoder_and_the_temperatures_of_its_batch():
    method = ISogCLR(Encoder(4, features=6), samples=20)
    index = torch.arange(8) + 5
    method.loss([torch.rand(8, 1, 2, 2), torch.rand(8, 1, 2, 2)], index, index).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.encoder.parameters())
    assert (method.objective.state.tau != 0.1).nonzero().flatten().tolist() == index.tolist()


def labelled(labels):
    labels = torch.as_tensor(labels)
    classes = tuple("abcd"[: max(0, 1 + int(labels.max()))])
    images = Images(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels, classes, "none")
    return images, images, images


def test_diagnostics_rank_class_sizes_against_class_temperatures():
    method = ISogCLR(Encoder(4, features=6), samples=8)
    method.objective.state.tau[:] = torch.tensor([0.3, 0.3, 0.3, 0.2, 0.2, 0.25, 0.9, 0.1])
    labels = torch.tensor([0, 0, 0, 1, 1, 2, -1, 3])  # sizes 3, 2, 1, 1; temperatures 0.3, 0.2, 0.25, 0.1
    # Ranks of the sizes 4, 3, 1.5, 1.5 and of the temperatures 4, 2, 3, 1: products sum to 28, variances to 4.5 and 5.
    expected = (4 * 4 + 3 * 2 + 1.5 * 3 + 1.5 * 1 - 4 * 2.5**2) / math.sqrt(4.5 * 5)
    assert method.diagnostics(*labelled(labels)) == {"temperature_correlation": pytest.approx(expected)}


@pytest.mark.parametrize("labels", [[0] * 8, [0, 0, 1, 1, 2, 2, 3, 3], [-1] * 8])
def test_diagnostics_are_empty_for_classes_of_one_size(labels):
    method = ISogCLR(Encoder(4, features=6), samples=8)
    method.objective.state.tau[:] = torch.rand(8)
    assert method.diagnostics(*labelled(labels)) == {}


def test_diagnostics_are_empty_for_temperatures_that_never_moved():
    """The means of equal temperatures differ by rounding, which would rank."""
    method = ISogCLR(Encoder(4, features=6), samples=1110, eta=0.0, tau=0.2)
    labels = torch.arange(3).repeat_interleave(torch.tensor([1000, 100, 10]))
    assert method.diagnostics(*labelled(labels)) == {}


def places(side=6):
    """Images of one bright square each, and two texts of each that name its row and column."""
    row, column = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    images = torch.zeros(side * side, 1, 2 * side, 2 * side, dtype=torch.uint8)
    for i, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        images[i, 0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = 255
    named = torch.cat([F.one_hot(row, side), F.one_hot(column, side)], dim=1).float()
    return CaptionedImages(images, torch.cat([named, 2 * named]), torch.arange(side * side).repeat(2))


def pairs(**arguments):
    torch.manual_seed(0)
    given = {"images": 36, "texts": 72, "dim": 16, "rho": 0.2, "tau": 0.2, "lr": 0.01}
    return ISogCLRPairs(Encoder(144, 32), Encoder(12, 32), **{**given, **arguments})


def test_a_batch_of_captioned_images_has_a_text_of_each():
    owner = torch.tensor([2, 0, 1, 2, 2])
    data = CaptionedImages(torch.arange(3.0), torch.arange(5.0), owner)
    torch.manual_seed(0)
    drawn = [data.__getitems__([2, 0]) for _ in range(200)]
    for images, texts, image_index, text_index in drawn:
        assert image_index.tolist() == images.tolist() == [2, 0]
        assert owner[text_index].tolist() == [2, 0]
        assert texts.tolist() == text_index.tolist()
    times = torch.stack([text_index[0] for *_, text_index in drawn]).bincount(minlength=5)
    assert (times[[0, 3, 4]] > 40).all()  # each with a probability of 1/3


def test_pairs_are_compared_by_the_loss_of_their_embeddings():
    data, learner = places(), pairs()
    batch = data.__getitems__([3, 1, 8, 20])
    twin = copy.deepcopy(learner.objective)
    image, text = learner.net["image"](batch[0] / 127.5 - 1), learner.net["text"](batch[1])
    torch.testing.assert_close(learner.loss(*batch), twin(image, text, *batch[2:]))
    torch.testing.assert_close(learner.objective.images.log_s, twin.images.log_s)


class Halves(torch.nn.Module):
    """A view that is half of each pixel."""

    def forward(self, images):
        assert images.dtype == torch.uint8
        return images / 2


def test_images_of_pairs_are_seen_as_their_views():
    batch = places().__getitems__([3, 1, 8, 20])
    learner = pairs(augment=Halves())
    image, text = learner.net["image"](batch[0] / 2), learner.net["text"](batch[1])
    expected = copy.deepcopy(learner.objective)(image, text, *batch[2:])
    torch.testing.assert_close(learner.loss(*batch), expected)


@pytest.mark.parametrize("reference", [False, True])
def test_the_authors_form_is_an_argument_of_the_method_and_of_pairs(reference, rng):
    torch.manual_seed(0)
    method = ISogCLR(Encoder(), samples=5, reference=reference)
    views, index = [torch.randn(5, 1, 4, 4, generator=rng) for _ in range(2)], torch.arange(5)
    loss = ISogCLRLoss(5, reference=reference)
    torch.testing.assert_close(method.loss(views, index, index), loss(*method.projections(views), index))
    torch.testing.assert_close(method.objective.state.log_s, loss.state.log_s)
    learner, batch = pairs(reference=reference), places().__getitems__([3, 1, 8, 20])
    given = learner.net["image"](to_float(batch[0])), learner.net["text"](batch[1])
    loss = ISogCLRPairLoss(36, 72, rho=0.2, tau=0.2, reference=reference)
    torch.testing.assert_close(learner.loss(*batch), loss(*given, *batch[2:]))


@pytest.mark.slow
def test_pairs_learn_to_find_each_other(tmp_path):
    data, learner = places(), pairs()

    def found():
        image, text = learner.net["image"](to_float(data.images)), learner.net["text"](data.texts[:36])
        return (F.normalize(text, dim=1) @ F.normalize(image, dim=1).T).argmax(1).eq(torch.arange(36)).float().mean()

    before = found()
    fit(learner, data, epochs=30, batch_size=18, seed=0, folder=tmp_path, device="cpu")
    assert before < 0.3
    assert found() > 0.9
    assert len(learner.objective.texts.tau.unique()) > 50
    fresh = pairs()
    fresh.load_state_dict(read_checkpoint(tmp_path / CHECKPOINT)["state_dict"])
    torch.testing.assert_close(fresh.objective.texts.tau, learner.objective.texts.tau, rtol=0, atol=0)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CaptionedImages(torch.eye(3), torch.eye(2), torch.tensor([0, 2])), "owner: .* 3 images, 1 has none"),
        (lambda: CaptionedImages(torch.eye(2), torch.eye(2), torch.tensor([0, 2])), "owner: .*2"),
        (lambda: CaptionedImages(torch.eye(2), torch.eye(2), torch.tensor([0.5, 1])), "owner: expected .*integers"),
        (lambda: CaptionedImages(torch.eye(2)[:0], torch.eye(2), torch.tensor([0, 1])), "images: expected a whole"),
        (lambda: ISogCLRPairs(torch.nn.Linear(2, 2), Encoder(), 2, 2), "image_encoder: expected a module with"),
        (lambda: ISogCLRPairs(Encoder(), torch.nn.Linear(2, 2), 2, 2), "text_encoder: expected a module with"),
        (lambda: pairs(dim=0), "dim: expected a whole number"),
        (lambda: pairs().loss(*places().__getitems__([3, 3])), "image_index: sample 3 occurs 2 times"),
    ],
)
def test_pairs_that_cannot_be_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
