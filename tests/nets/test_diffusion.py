"""The schedule in numbers, DDIM with a net that knows the image, and a U-Net that learns."""

import math

import pytest
import torch
from torch import nn

from counterpoise.errors import InputError
from counterpoise.nets.diffusion import Block, Schedule, UNet, ddim, train_denoiser


def test_the_schedule_of_ddpm():
    schedule = Schedule()
    assert schedule.kept[0].item() == pytest.approx(0.9999, abs=1e-12)
    assert schedule.alpha[-1].item() == pytest.approx(0.98, abs=1e-12)
    assert schedule.kept[-1].item() == pytest.approx(math.prod(schedule.alpha.tolist()), rel=1e-9)
    torch.testing.assert_close(schedule.signal**2 + schedule.sigma**2, torch.ones(1000))
    # In float32 alone, 1 - 0.9999 would be wrong in its fourth digit.
    assert schedule.sigma[0].item() == pytest.approx(0.01, rel=1e-6)


def test_noised_is_the_mix_of_each_image_s_own_step(rng):
    schedule = Schedule(4, 0.1, 0.4)
    x, noise = torch.randn(2, 1, 2, 2, generator=rng), torch.randn(2, 1, 2, 2, generator=rng)
    found = schedule.noised(x, torch.tensor([0, 1]), noise)
    torch.testing.assert_close(found[0], math.sqrt(0.9) * x[0] + math.sqrt(0.1) * noise[0])
    torch.testing.assert_close(found[1], math.sqrt(0.9 * 0.8) * x[1] + math.sqrt(1 - 0.72) * noise[1])


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_ddim_with_a_net_that_knows_the_image(steps, rng):
    """From noise it gives the image; backwards, step for step, the noise that the image was said to have."""
    schedule = Schedule(100)
    image = torch.rand(2, 1, 3, 3, generator=rng) * 2 - 1
    visited = []

    def knows(x, t):
        visited.append(int(t[0]))
        return (x - schedule.signal[t].view(-1, 1, 1, 1) * image) / schedule.sigma[t].view(-1, 1, 1, 1)

    torch.testing.assert_close(ddim(knows, schedule, torch.randn(2, 1, 3, 3, generator=rng), steps), image)
    assert visited == [i * 100 // steps for i in reversed(range(steps))]
    noise = torch.randn(2, 1, 3, 3, generator=rng)
    there = ddim(lambda x, t: noise, schedule, image * 0.1, steps, backwards=True)
    torch.testing.assert_close(there, noise, atol=1e-5, rtol=1e-5)


def test_ddim_holds_images_in_their_range():
    schedule = Schedule(100)
    found = ddim(lambda x, t: torch.zeros_like(x), schedule, torch.full((1, 1, 1, 1), 5.0), 10)
    assert found.item() == 1


def test_ddim_written_out_for_two_steps():
    schedule = Schedule(2, 0.1, 0.2)
    a0, a1 = 0.9, 0.72
    x = torch.full((1, 1, 1, 1), 0.3)
    e1 = 0.2 * x
    clean = (x - math.sqrt(1 - a1) * e1) / math.sqrt(a1)
    middle = math.sqrt(a0) * clean + math.sqrt(1 - a0) * e1
    e0 = 0.2 * middle
    expected = (middle - math.sqrt(1 - a0) * e0) / math.sqrt(a0)
    torch.testing.assert_close(ddim(lambda x, t: 0.2 * x, schedule, x, 2), expected)


@pytest.mark.parametrize(("channels", "size"), [(1, 3), (3, 16), (1, 15), (1, 1)])
def test_the_net_takes_images_of_any_size_and_starts_at_0(channels, size):
    net = UNet(channels, width=8, code=5)
    out = net(torch.randn(2, channels, size, size), torch.tensor([0, 999]), torch.randn(2, 5))
    assert out.shape == (2, channels, size, size)
    assert (out == 0).all()


def test_a_block_s_two_adaptations_by_hand():
    """On an even image the normalised input is 0, so only what the step and the code shift remains."""
    block = Block(1, 1, 1, conditional=True)
    for layer, bias in ((block.time[1], [0.5, 2.0]), (block.code[1], [1.0, 0.25])):
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    block.last = nn.Identity()
    x = torch.full((1, 1, 1, 2), 7.0)
    nn.init.zeros_(block.first[2].weight)
    found = block(x, torch.ones(1, 1), torch.ones(1, 1)) - x
    torch.testing.assert_close(found, torch.full_like(found, (1 + 1.0) * (0 * (1 + 0.5) + 2.0) + 0.25))


def test_the_net_hears_of_the_step_and_of_the_code():
    net = UNet(1, width=8, code=5)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, code = torch.randn(1, 1, 8, 8), torch.randn(1, 5)
    out = net(x, torch.tensor([10]), code)
    assert (out - net(x, torch.tensor([500]), code)).abs().max() > 1e-3
    assert (out - net(x, torch.tensor([10]), -code)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("conditional", [False, True])
def test_training_lowers_the_error_and_freezes_all(conditional, rng):
    """Images that are all black or all white: easily separated from the noise."""
    torch.manual_seed(0)
    pixels = (
        torch.randint(0, 2, (64, 1, 4, 4), generator=rng, dtype=torch.uint8)[:, :, :1, :1].expand(64, 1, 4, 4) * 255
    )
    code = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) if conditional else None
    before = [p.clone() for p in code.parameters()] if code else []
    net = UNet(1, width=8, code=3 if conditional else None)
    error = train_denoiser(net, Schedule(), pixels, lambda x: x.float() / 127.5 - 1, 20, batch_size=32, code=code)
    assert error < 0.5
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    if code:
        assert not any(torch.equal(p, q) for p, q in zip(code.parameters(), before, strict=True))


def test_no_pass_leaves_the_net_as_it_is():
    net = UNet(1, width=8)
    before = [p.clone() for p in net.parameters()]
    assert train_denoiser(net, Schedule(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), lambda x: x / 255, 0) == 1
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_the_steps_are_embedded_in_the_net_s_precision():
    net, t = UNet(1, width=8).double(), torch.tensor([1, 500, 999])
    rate = torch.tensor([10_000 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    angle = t[:, None] * rate
    torch.testing.assert_close(net.embed(t), net.time(torch.cat([angle.cos(), angle.sin()], 1)), rtol=1e-10, atol=1e-10)
    net.half()
    expected = net.time(torch.cat([angle.cos(), angle.sin()], 1).half())
    torch.testing.assert_close(net.embed(t), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.usefixtures("plain_shapes")
def test_a_net_that_wants_a_code_or_an_even_width_says_so():
    with pytest.raises(InputError, match=r"code: expected \[batch, 5\], got none"):
        UNet(1, width=8, code=5)(torch.zeros(1, 1, 4, 4), torch.tensor([0]))
    with pytest.raises(InputError, match="width: expected an even number, got 7"):
        UNet(1, width=7)
    for name, wrong in (("channels", 0), ("width", 2.5), ("code", -1)):
        with pytest.raises(InputError, match=f"{name}: expected a whole number of at least 1"):
            UNet(**{"channels": 1, name: wrong})


@pytest.mark.usefixtures("plain_shapes")
def test_bad_numbers_are_refused_by_name():
    net, images = UNet(1, 8), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    for wrong in (math.nan, math.inf, "x", 2.5, -1):
        with pytest.raises(InputError, match="steps: expected a whole number"):
            Schedule(wrong)
        with pytest.raises(InputError, match="steps: expected a whole number"):
            ddim(lambda x, t: x, Schedule(10), torch.zeros(1, 1, 1, 1), wrong)
        for name in ("epochs", "batch_size"):
            with pytest.raises(InputError, match=f"{name}: expected a whole number"):
                train_denoiser(net, Schedule(), images, lambda x: x, **{"epochs": 1, name: wrong})
    for name in ("first", "last"):
        for wrong in (math.nan, "x", 0, 1.0):
            with pytest.raises(InputError, match=r"(first|last): expected a number"):
                Schedule(**{name: wrong})
    with pytest.raises(InputError, match=r"lr: expected a number above 0, got nan"):
        train_denoiser(UNet(1, 8), Schedule(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), lambda x: x, 1, lr=math.nan)
    with pytest.raises(InputError, match=r"x: 1 of 1 numbers are NaN"):
        ddim(lambda x, t: x, Schedule(10), torch.full((1, 1, 1, 1), math.nan), 2)
    with pytest.raises(InputError, match="steps: expected a whole number of at least 1, got 0"):
        Schedule(0)
    with pytest.raises(InputError, match="first: expected a number above 0"):
        Schedule(first=0)
    with pytest.raises(InputError, match=r"first: expected a number above 0 and of at most 0\.02, got 0\.5"):
        Schedule(first=0.5)
    with pytest.raises(InputError, match="steps: expected a whole number of at least 1 and of at most 10, got 11"):
        ddim(lambda x, t: x, Schedule(10), torch.zeros(1, 1, 1, 1), 11)
    with pytest.raises(InputError, match="epochs: expected a whole number of at least 0, got -1"):
        train_denoiser(UNet(1, 8), Schedule(), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), lambda x: x, -1)


@pytest.mark.usefixtures("plain_shapes")
def test_steps_are_integers_of_every_type_one_for_each_image():
    schedule, x = Schedule(4, 0.1, 0.4), torch.ones(2, 1, 2, 2)
    expected = schedule.noised(x, torch.tensor([0, 3]), x)
    assert torch.equal(schedule.noised(x, torch.tensor([0, 3], dtype=torch.uint8), x), expected)
    with pytest.raises(InputError, match=r"t: expected integers, got torch\.float32"):
        schedule.noised(x, torch.tensor([0.5, 1.0]), x)
    with pytest.raises(InputError, match="t: expected one integer for each of the 2 rows"):
        schedule.noised(x, torch.tensor([0]), x)
