"""Flows: what they undo, their determinant and bound, what they learn, and what they refuse."""

import math
from functools import partial

import pytest
import torch

from counterpoise.data.views import to_float
from counterpoise.errors import Diverged, InputError
from counterpoise.nets.flows import LEVEL, Flow, Step, train_flow

GROUND, NOISE = 0.2, 0.05  # standard deviations of toy images


def shaken(module, rng, size=0.3):
    """A module whose weights are moved, so that no layer is 0 or the identity."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=rng)
    return module


def images(rng, *shape):
    return torch.rand(shape, generator=rng) * 2 - 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (3, 4, 4)])
def test_decoding_undoes_encoding(rng, shape):
    flow = shaken(Flow(shape, code=4, width=8), rng, 0.05)
    x = images(rng, 5, *shape)
    with torch.no_grad():
        z, nu = flow.encode(x)
        assert nu.shape == x.shape
        assert z.shape == (5, 4)
        assert (nu - x).abs().max() > 0.1
        torch.testing.assert_close(flow.decode(nu, z), x, atol=1e-4, rtol=0)
        assert (flow.decode(nu, z.flip(0)) - x).abs().max() > 1e-3  # another code, another image
        torch.testing.assert_close(flow.codes(x), z)


def test_encoding_undoes_decoding_with_any_code(rng):
    flow = shaken(Flow((2, 4, 4), code=3, width=4), rng, 0.1).double()
    nu, z = torch.randn(4, 2, 4, 4, generator=rng).double(), torch.randn(4, 3, generator=rng).double()
    torch.testing.assert_close(flow(flow.decode(nu, z), z)[0], nu)


@pytest.mark.parametrize(("shape", "scales"), [((3, 2, 2), 1), ((1, 4, 4), 2), ((2, 4, 4), 1)])
def test_the_determinant_is_that_of_the_derivative(rng, shape, scales):
    flow = shaken(Flow(shape, code=2, width=4, scales=scales), rng).double()
    x, z = images(rng, 2, *shape).double(), torch.randn(2, 2, generator=rng).double()
    log_det = flow(x, z)[1]
    for i in range(2):
        derivative = torch.autograd.functional.jacobian(lambda one, i=i: flow(one[None], z[i : i + 1])[0][0], x[i])
        expected = torch.linalg.slogdet(derivative.reshape(x[i].numel(), -1))[1]
        torch.testing.assert_close(log_det[i], expected)


def test_a_step_first_brings_channels_to_mean_0_and_variance_1(rng):
    step = Step(4, code=2, width=4)
    x = 5 + 3 * torch.randn(8, 4, 6, 6, generator=rng)
    step.fit(x)
    y, _ = step(x, torch.zeros(8, 2))  # an orthogonal mixture of such channels, and no coupling yet
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    assert y.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_the_bound_is_below_the_probability_of_images_of_bytes():
    """A flow of independent pixels: mean and scale of all are the same, and z says nothing; then it is exact."""
    flow = Flow((1, 2, 2), code=2, width=2, scales=1, couplings=1).double()
    (step,) = flow.scales[0]
    with torch.no_grad():
        step.log_scale.fill_(math.log(2))
        for parameter in flow.posterior[-1].parameters():
            parameter.zero_()
    x = torch.zeros(4000, 1, 2, 2, dtype=torch.float64)
    found = flow.bound(x, torch.Generator().manual_seed(5)).mean().item()
    assert found == pytest.approx(4 * (math.log(2 * LEVEL) - math.log(2 * math.pi) / 2), abs=1e-4)
    with torch.no_grad():
        flow.posterior[-1].bias[:2] = 1.5  # the mean of z, which is no news: the bound loses 1.5^2 / 2 for each number
    less = flow.bound(x, torch.Generator().manual_seed(5)).mean().item()
    assert found - less == pytest.approx(1.5**2, abs=1e-6)


def test_the_bound_comes_from_its_generator(rng):
    flow = shaken(Flow((1, 4, 4), code=2, width=4), rng, 0.05)
    x = images(rng, 3, 1, 4, 4)
    one, again = (flow.bound(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, flow.bound(x, torch.Generator().manual_seed(4)))


def test_mixed_precision_does_not_round_it(rng):
    flow = shaken(Flow((1, 8, 8), code=2, width=4), rng, 0.05)
    x = images(rng, 3, 1, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        z, nu = flow.encode(x)
        torch.testing.assert_close(flow.decode(nu, z), x, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_it_learns_and_keeps_the_place_of_the_square(rng, plain_shapes):
    """A small black square on a ground of any colour: with the code of another image it stays where it was."""
    colours = torch.rand(512, 3, generator=rng)
    drawn = colours[:, :, None, None].expand(-1, -1, 8, 8).clone()
    for image, corner in zip(drawn, torch.randint(4, (512,), generator=rng).tolist(), strict=True):
        image[:, 1 + corner // 2 * 4 :, 1 + corner % 2 * 4 :][:, :2, :2] = 0
    pixels = drawn.mul(255).round().to(torch.uint8)
    torch.manual_seed(0)
    flow = Flow((3, 8, 8), code=4)
    bits = train_flow(flow, pixels, to_float, epochs=12, lr=4e-3)
    assert bits < 5  # uniform bytes take 8
    assert not any(parameter.requires_grad for parameter in flow.parameters())
    x = to_float(pixels[:256])
    with torch.no_grad():
        torch.testing.assert_close(flow.deviation, flow.codes(to_float(pixels)).std(0, correction=0))
        z, nu = flow.encode(x)
        torch.testing.assert_close(flow.decode(nu, z), x, atol=1e-4, rtol=0)
        other = flow.decode(nu, z.roll(1, 0))
    dark = (x == -1).all(1)
    assert (other.mean(1)[dark] < -0.5).float().mean() > 0.7


def test_what_scalings_know_of_the_code_is_exchanged_in_full(rng):
    """A flow whose only layer takes z from every pixel: decoding with another z puts that in its place."""
    flow = Flow((1, 4, 4), code=1, width=2, scales=1, couplings=1).double()
    (step,) = flow.scales[0]
    with torch.no_grad():
        step.scaling.weight[4:] = -1.0
    x, z, others = (torch.randn(shape, generator=rng).double() for shape in ((5, 1, 4, 4), (5, 1), (5, 1)))
    nu, _ = flow(x, z)
    torch.testing.assert_close(flow.decode(nu, others), x + (others - z)[:, :, None, None])


def grounds(rng, n):
    """Grey images of a normal ground, the same at all 64 positions, and normal noise."""
    x = GROUND * torch.randn(n, 1, 1, 1, generator=rng) + NOISE * torch.randn(n, 1, 8, 8, generator=rng)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.slow
def test_the_bound_rises_to_the_entropy_of_a_known_density():
    """Of a normal density with variance s^2 + g^2 and covariance g^2 of any two pixels, in bits a pixel.

    No code is shorter than the entropy, and this flow can reach it: z says the ground. Each pixel by itself takes two
    bits more, of which training is to save nine tenths.
    """
    rng = torch.Generator().manual_seed(0)
    entropy = math.log2(2 * math.pi * math.e) / 2 + math.log2(NOISE / LEVEL)
    entropy += math.log2(1 + 64 * (GROUND / NOISE) ** 2) / 128
    alone = math.log2(2 * math.pi * math.e * (GROUND**2 + NOISE**2) / LEVEL**2) / 2
    torch.manual_seed(0)
    flow = Flow((1, 8, 8), code=2, width=16, couplings=2)
    train_flow(flow, grounds(rng, 1024), to_float, epochs=8, batch_size=32, lr=4e-3)
    with torch.no_grad():
        lengths = -flow.bound(to_float(grounds(rng, 2000)), rng) / (64 * math.log(2))
    assert lengths.mean() > entropy - 3 * lengths.std() / len(lengths) ** 0.5
    assert lengths.mean() < alone - 0.9 * (alone - entropy)


def test_without_a_pass_it_stays_as_it_is():
    flow, pixels = Flow((1, 4, 4), code=2, width=4), torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    before = [parameter.clone() for parameter in flow.parameters()]
    assert math.isnan(train_flow(flow, pixels, to_float, epochs=0))
    assert all(map(torch.equal, before, flow.parameters()))


def test_a_bound_that_is_lost_is_an_error():
    flow, pixels = Flow((1, 4, 4), code=2, width=4), torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8)
    with pytest.raises((Diverged, InputError)):
        train_flow(flow, pixels, to_float, epochs=5, batch_size=4, lr=1e6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (1, 6, 8)}, "shape: expected multiples of 4 for 2 scales, got 6 x 8"),
        ({"shape": (8, 8)}, "shape: expected channels, height and width"),
        ({"shape": (0, 8, 8)}, "channels: expected a whole number of at least 1, got 0"),
        ({"shape": (1, 8, 8), "code": 0}, "code"),
        ({"shape": (1, 8, 8), "couplings": 1.5}, "couplings"),
    ],
)
def test_shapes_and_numbers_that_are_refused(plain_shapes, arguments, message):
    with pytest.raises(InputError, match=message):
        Flow(**arguments)


def test_images_that_are_refused(plain_shapes):
    flow = Flow((1, 4, 4), code=2, width=4)
    x = torch.zeros(2, 1, 4, 4)
    decode = partial(flow.decode, z=torch.zeros(2, 2))
    for function, name in ((flow.encode, "x"), (flow.bound, "x"), (decode, "nu")):
        with pytest.raises(InputError, match=rf"{name}: expected \[batch, 1, 4, 4\], got \[2, 1, 4, 5\]"):
            function(torch.zeros(2, 1, 4, 5))
        with pytest.raises(InputError, match=f"{name}: expected float32 or float64"):
            function(x.bfloat16())
        with pytest.raises(InputError, match=f"{name}: 32 of 32 numbers are NaN"):
            function(x * math.nan)
