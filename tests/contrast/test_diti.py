"""Schedules and partitions in numbers, PDAE as a limit, which block learns from what, and editing by blocks."""

import copy
import math

import pytest
import torch
from torch import nn

from counterpoise.contrast.diti import (
    DiTi,
    DiTiLoss,
    ResidualDecoder,
    TimeBlocks,
    attribute_direction,
    attribute_loss,
    factor_size,
    residual_loss,
    shifts,
    slerp,
    weights,
)
from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.nets.diffusion import Schedule, UNet, ddim
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

SCHEDULE = Schedule()
STAGES, STAGE_DIMS = (50, 100, 300, 500, 1000), (10, 25, 327, 100, 50)
T = torch.tensor([0, 130, 500, 777, 999])
X = torch.rand(5, 1, 8, 8, generator=seeded(0)) * 2 - 1


def method(mode="base", **given):
    """With a decoder that is not 0, as it is at the start."""
    torch.manual_seed(0)
    found = DiTi(Encoder(64, features=6), dim=8, blocks=4, mode=mode, width=8, diffusion_epochs=1, **given)
    for parameter in found.decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return found


def value(found, t=T, z=None):
    """The loss at chosen steps, with the noise of the state; and the code."""
    z = found.encoder(X).detach().requires_grad_() if z is None else z
    noise = found.draw(X)[1]
    noised = found.schedule.noised(X, t, noise)
    losses = [found.objective(noise, *found.decoder(noised, t, code), t) for code in found.blocks(z, t, found.mode)]
    return sum(losses), z


def test_the_schedules_in_numbers():
    assert SCHEDULE.kept[0].item() == pytest.approx(0.9999, abs=1e-9)
    assert shifts(SCHEDULE)[0] == 0
    assert shifts(SCHEDULE)[999].item() == pytest.approx(-0.98993, abs=5e-6)
    assert weights(SCHEDULE)[0].item() == pytest.approx(2.51186e-4, abs=5e-10)
    a, kept, before = 0.8, 0.9 * 0.8, 0.9
    two = Schedule(2, 0.1, 0.2)
    assert shifts(two)[1].item() == pytest.approx(-math.sqrt(a) * (1 - before) / math.sqrt(1 - kept))
    ratio = kept / (1 - kept)
    assert weights(two)[1].item() == pytest.approx(ratio**0.1 / (1 + ratio))


def test_training_s_and_sampling_s_coefficients_are_nearly_the_same_late_and_not_early():
    share = -shifts(SCHEDULE) / SCHEDULE.sigma
    expected = SCHEDULE.alpha.sqrt()[1:] * (1 - SCHEDULE.kept[:-1]) / (1 - SCHEDULE.kept[1:])
    torch.testing.assert_close(share[1:], expected.float())
    assert share[0] == 0
    assert share[1] < 0.6
    assert share[-1] > 0.98


def test_the_loss_written_out(rng):
    noise, predicted, residual = (torch.randn(5, 2, 3, generator=rng) for _ in range(3))
    expected = 0.0
    for row, t in enumerate(T.tolist()):
        left = noise[row] - predicted[row] - shifts(SCHEDULE)[t] * residual[row]
        expected += weights(SCHEDULE)[t] * (left**2).sum() / 6 / 5
    torch.testing.assert_close(DiTiLoss()(noise, predicted, residual, T), expected)


def test_gradient_in_double_precision(rng):
    given = [torch.randn(3, 2, 2, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    shift, weight = torch.tensor([0.0, -0.4, -0.9]).double(), torch.tensor([0.1, 0.5, 0.3]).double()
    assert torch.autograd.gradcheck(lambda *given: residual_loss(*given, shift, weight), given)


@pytest.mark.parametrize(("dim", "blocks"), [(8, 4), (64, 16), (33, 7), (5, 5), (100, 49), (6, 1)])
def test_equal_blocks_divide_the_code(dim, blocks):
    """Seen numbers grow with the step, own ones are a partition, and the last step sees all."""
    divided = TimeBlocks(dim, blocks)
    t = torch.arange(1000)
    seen, own = divided.seen(t), divided.seen(t) - divided.earlier(t)
    assert (seen.diff(dim=0) >= 0).all()
    assert (own.unique(dim=0).sum(0) == 1).all()
    assert own.sum(1).min() >= 1
    assert seen[-1].all()
    assert [math.floor(dim / blocks * (i + 1) + 1e-9) for i in range(blocks)] == divided.ends.tolist()
    assert divided.at(t).tolist() == [int(step / (1000 / blocks) + 1e-9) for step in range(1000)]
    assert torch.equal(own[:, divided.of_numbers() == 0].all(1), divided.at(t) == 0)


def test_the_published_unequal_blocks():
    divided = TimeBlocks(512, 64, 1000, STAGES, STAGE_DIMS)
    ends = divided.ends.tolist()
    assert ends[:7] == [2, 4, 6, 10, 18, 26, 35]
    assert ends[7:20] == [*range(60, 336, 25), 362]
    assert ends[20:32] == [*range(370, 451, 8), 462]
    assert ends[32:] == [*range(463, 494), 512]
    assert torch.equal(divided.at(torch.tensor([0, 15, 16, 999])), torch.tensor([0, 0, 1, 63]))  # uniform in t


@pytest.mark.parametrize("mode", ["base", "stop_grad", "dual", "pdae"])
def test_what_is_shown_and_what_learns(mode, rng):
    """At step 500 of four blocks the third is its own: z up to it is seen, nothing after it."""
    z = torch.randn(1, 8, generator=rng, requires_grad=True)
    shown = TimeBlocks(8, 4)(z, torch.tensor([500]), mode)
    visible = z.detach().clone()
    if mode != "pdae":
        visible[:, 6:] = 0
    for code in shown:
        torch.testing.assert_close(code.detach(), visible)
    sum(code.sum() for code in shown).backward()
    expected = {
        "base": [1.0] * 6 + [0, 0],
        "stop_grad": [0.0] * 4 + [1, 1, 0, 0],
        "dual": [1.0] * 4 + [2, 2, 0, 0],
        "pdae": [1.0] * 8,
    }
    assert z.grad[0].tolist() == expected[mode]


def test_the_modes_in_value_and_gradient():
    base, z = value(method())
    base.backward()
    by_base = z.grad
    own = method().blocks.seen(T) - method().blocks.earlier(T)
    later = 1 - method().blocks.seen(T)
    stopped, z = value(method("stop_grad"))
    stopped.backward()
    torch.testing.assert_close(stopped, base)
    torch.testing.assert_close(z.grad * own, by_base * own)
    assert (z.grad * (1 - own) == 0).all()
    assert (by_base * later == 0).all()
    assert (by_base[1:] * own[1:]).abs().sum() > 1e-4
    assert (by_base * method().blocks.earlier(T)).abs().sum() > 1e-4
    both, z = value(method("dual"))
    both.backward()
    torch.testing.assert_close(both, 2 * base)
    torch.testing.assert_close(z.grad, by_base * (1 + own))


@pytest.mark.parametrize("mode", ["base", "stop_grad", "dual", "pdae"])
def test_the_first_step_teaches_nothing(mode):
    found = method(mode)
    loss, z = value(found, t=torch.zeros(5, dtype=torch.int64))
    loss.backward()
    assert (z.grad == 0).all()
    assert all((p.grad == 0).all() for p in found.decoder.up.parameters())


def test_one_block_is_pdae():
    one, pdae = method(), method("pdae")
    one.blocks = TimeBlocks(8, 1)
    (ours, z), (theirs, same_z) = value(one), value(pdae)
    ours.backward()
    theirs.backward()
    assert ours == theirs
    assert torch.equal(z.grad, same_z.grad)


def test_at_the_start_the_loss_is_the_frozen_model_s():
    found = method().eval()
    found.decoder = ResidualDecoder(found.decoder.net, 8)
    start, z = value(found)
    noise = found.draw(X)[1]
    predicted = found.decoder.net(found.schedule.noised(X, T, noise), T)
    frozen = weights(SCHEDULE)[T] * (noise - predicted).square().flatten(1).mean(1)
    torch.testing.assert_close(start, frozen.mean())
    start.backward()
    assert (z.grad == 0).all()
    torch.testing.assert_close(value(found, z=z + 1)[0], start)


def test_nothing_passes_back_through_the_frozen_model():
    decoder = ResidualDecoder(UNet(1, 8), 3)
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    predicted, residual = decoder(x, torch.tensor([1, 2]), torch.randn(2, 3))
    assert not predicted.requires_grad
    residual.sum().backward()
    assert x.grad is None
    assert all(p.grad is None for p in decoder.net.parameters())


def test_an_attribute_is_lost_late_if_it_is_large():
    kept = SCHEDULE.kept
    for distance in (0.1, 1.0, 10.0):
        lost = attribute_loss(torch.full_like(kept, distance), kept)
        assert (lost.diff() > -1e-15).all()
    at = torch.full((4,), 0.5).double()
    assert (attribute_loss(torch.tensor([0.1, 1, 3, 10]).double(), at).diff() < 0).all()
    ends = attribute_loss(torch.ones(2).double(), torch.tensor([1e-12, 1 - 1e-6]).double())
    assert ends.tolist() == pytest.approx([0.5, 0], abs=1e-6)


def test_the_attribute_loss_by_drawing(rng):
    """Two images, noise: how often is the noised first one nearer to the second?"""
    distance, kept = 1.5, 0.4
    noised = math.sqrt(1 - kept) * torch.randn(200_000, generator=rng, dtype=torch.float64)
    wrong = (noised > math.sqrt(kept) * distance / 2).double().mean()
    assert attribute_loss(torch.tensor(distance), torch.tensor(kept)).item() == pytest.approx(wrong.item(), abs=4e-3)


def test_the_diffusion_model_is_trained_once_and_is_then_frozen():
    found = method()
    images = Images(torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), torch.full((16,), -1), (), "noise")
    before = found.decoder.net.down.first.weight.clone()
    found.start_epoch(images, 0)
    trained, first = found.decoder.net.down.first.weight.clone(), int(found.draws)
    assert not torch.equal(before, trained)
    found.start_epoch(images, 1)
    assert torch.equal(found.decoder.net.down.first.weight, trained)
    assert int(found.draws) != first
    assert not any(p.requires_grad for p in found.decoder.net.parameters())
    assert all(p.requires_grad for p in [*found.decoder.up.parameters(), *found.encoder.parameters()])


def test_each_batch_draws_anew_while_training_and_the_same_from_the_same_state():
    found = method()
    (t, noise), (u, other) = found.draw(X), found.draw(X)
    assert not torch.equal(noise, other)
    assert not torch.equal(t, u)
    found.draws.fill_(0)
    assert torch.equal(found.draw(X)[1], noise)
    found.eval()
    assert torch.equal(found.draw(X)[1], found.draw(X)[1])


def test_the_method_s_loss_is_that_of_its_parts():
    found = method()
    t = found.draw(X)[0]
    found.draws.fill_(0)
    expected, _ = value(found, t)
    found.draws.fill_(0)
    torch.testing.assert_close(found.loss([X], torch.full((5,), -1), torch.arange(5)), expected)


def test_what_is_kept_is_the_code():
    found = method()
    assert found.encoder.features == found.features == 8
    assert found.encoder(X).shape == (5, 8)


def test_sampling_corrects_by_sigma_and_shows_the_blocks_of_the_step(rng):
    found = method()
    z = torch.randn(5, 8, generator=rng)
    predicted, residual = found.decoder(X, T, z * found.blocks.seen(T))
    expected = predicted - SCHEDULE.sigma[T].view(-1, 1, 1, 1) * residual
    torch.testing.assert_close(found.predict(z)(X, T), expected)
    found.mode = "pdae"
    predicted, residual = found.decoder(X, T, z)
    torch.testing.assert_close(found.predict(z)(X, T), predicted - SCHEDULE.sigma[T].view(-1, 1, 1, 1) * residual)


@pytest.mark.slow
def test_edited_images():
    """Nothing changes without a share or a block; with all of both it is the other image as it is decoded.

    Of some blocks, their numbers are exchanged and no others.
    """
    found = method()
    found.schedule, found.blocks = Schedule(8), TimeBlocks(8, 4, 8)
    nn.init.normal_(found.decoder.up.last[2].weight, std=0.05)
    x, y = X[:2], X[2:4]
    plain = found.interpolate(x, x, steps=8)
    torch.testing.assert_close(found.interpolate(x, y, share=0.0, steps=8), plain)
    torch.testing.assert_close(found.interpolate(x, y, steps=8), found.interpolate(y, y, steps=8))
    with torch.no_grad():
        own, other = found.encoder(x), found.encoder(y)
        noise = ddim(found.predict(other), found.schedule, y, 8, backwards=True)
        mixed = torch.cat([own[:, :2], other[:, 2:6], own[:, 6:]], 1)
        expected = ddim(found.predict(mixed), found.schedule, noise, 8)
    edited = found.interpolate(x, y, first=1, last=3, steps=8)
    torch.testing.assert_close(edited, expected.clamp(-1, 1))
    for first, last in ((0, 3), (1, 2), (1, 4), (2, 3)):
        assert (found.interpolate(x, y, first=first, last=last, steps=8) - edited).abs().max() > 1e-4
    assert plain.abs().max() <= 1


class Watched(DiTi):
    """Records the trained weights and the averages after every step."""

    def optimizer_step(self, *arguments, **named):
        super().optimizer_step(*arguments, **named)
        trained = self.trained or {"encoder": self.encoder, "up": self.decoder.up}
        pairs = zip((trained["encoder"], trained["up"]), (self.encoder, self.decoder.up), strict=True)
        self.seen.append([[copy.deepcopy(net.state_dict()) for net in pair] for pair in pairs])


def watched(folder, average, accumulate=1):
    """Six steps on 24 images."""
    torch.manual_seed(0)
    found = Watched(Normalising(), dim=8, blocks=4, width=8, diffusion_epochs=0, average=average, lr=0.05)
    found.start, found.seen = copy.deepcopy(found.state_dict()), []
    pixels = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=seeded(5))
    images = Images(pixels, torch.full((24,), -1), (), "noise")
    fit(found, images, epochs=2, batch_size=8, seed=0, folder=folder, accumulate=accumulate, device="cpu")
    return found


def test_what_is_kept_is_the_moving_average_of_the_weights(tmp_path):
    found = watched(tmp_path, 0.75)
    assert len(found.seen) == 6
    for part, name in enumerate(("encoder", "decoder.up")):
        start = {key.removeprefix(f"{name}."): x for key, x in found.start.items() if key.startswith(f"{name}.")}
        parameters = [key for key, x in start.items() if x.is_floating_point() and "running" not in key]
        for key in start:
            values = [step[part][0][key] for step in found.seen]
            expected = values[-1]  # statistics are copied
            if key in parameters:
                expected = 0.75**6 * start[key] + sum(0.25 * 0.75 ** (5 - k) * x for k, x in enumerate(values))
            torch.testing.assert_close(found.seen[-1][part][1][key], expected)
    assert all(not p.requires_grad for p in found.encoder.parameters())
    assert found.net is found.encoder
    assert found.seen[-1][0][1]["0.1.weight"].sub(found.seen[-1][0][0]["0.1.weight"]).abs().max() > 1e-3


@pytest.mark.slow
def test_averages_change_no_training_and_near_decay_zero_are_the_trained_weights(tmp_path):
    plain, averaged, nearly = (watched(tmp_path / str(decay), decay) for decay in (0.0, 0.9, 1e-9))
    for k in range(6):
        for part in range(2):
            for key, x in plain.seen[k][part][0].items():
                assert torch.equal(averaged.seen[k][part][0][key], x)
                torch.testing.assert_close(nearly.seen[k][part][1][key], x)
    assert not any(key.startswith("trained") for key in plain.state_dict())


def test_averages_move_once_a_step_of_the_optimiser(tmp_path):
    found = watched(tmp_path, 0.75, accumulate=3)
    assert len(found.seen) == 2


@pytest.mark.slow
def test_averages_are_resumed(tmp_path):
    found = watched(tmp_path, 0.75)
    again = watched(tmp_path, 0.75)  # nothing is left to train
    assert not again.seen
    for key, x in found.state_dict().items():
        assert torch.equal(again.state_dict()[key], x)


def test_the_direction_of_an_attribute_by_hand():
    weight, deviation = torch.tensor([0.0, -3.0, 4.0]).double(), torch.tensor([7.0, 2.0, 0.5]).double()
    expected = torch.tensor([0.0, -1.2 * math.sqrt(3), 0.4 * math.sqrt(3)]).double()
    torch.testing.assert_close(attribute_direction(weight, deviation), expected)
    torch.testing.assert_close(attribute_direction(1e30 * weight, deviation), expected)
    torch.testing.assert_close(attribute_direction(weight).norm(), torch.tensor(3.0).double().sqrt())
    weight.requires_grad_()
    assert torch.autograd.gradcheck(attribute_direction, (weight, deviation))


def small():
    found = method()
    found.schedule, found.blocks = Schedule(8), TimeBlocks(8, 4, 8)
    nn.init.normal_(found.decoder.up.last[2].weight, std=0.05)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_manipulated_images_have_codes_along_the_direction(whole, rng):
    """The noise is that of the own code; the code that decodes it is moved among standardised ones, as written out."""
    found, x = small(), X[:2]
    weight, mean, deviation = torch.randn(8, generator=rng), torch.randn(8, generator=rng), torch.rand(8, generator=rng)
    with torch.no_grad():
        z = found.encoder(x)
        noise = ddim(found.predict(z, whole), found.schedule, x, 8, backwards=True)
        standard = (z - mean) / deviation + 0.6 * math.sqrt(8) * weight / weight.norm()
        moved = deviation * standard + mean
        expected = ddim(found.predict(moved, whole), found.schedule, noise, 4).clamp(-1, 1)
    edited = found.manipulate(x, attribute_direction(weight, deviation), scale=0.6, steps=4, whole=whole)
    torch.testing.assert_close(edited, expected)
    plain = found.manipulate(x, attribute_direction(weight, deviation), scale=0.0, steps=4, whole=whole)
    assert (edited - plain).abs().max() > 1e-3
    if not whole:
        torch.testing.assert_close(plain, found.interpolate(x, x, steps=4))
    else:
        assert (
            edited - found.manipulate(x, attribute_direction(weight, deviation), scale=0.6, steps=4)
        ).abs().max() > 0
        found.mode = "pdae"
        same = found.manipulate(x, attribute_direction(weight, deviation), scale=0.6, steps=4)
        torch.testing.assert_close(same, edited)


def test_a_direction_of_zeros_at_the_end_leaves_later_blocks_alone():
    """A direction in the last block is not seen by the earlier steps: only what is decoded before them changes."""
    found, calls = small(), []
    direction = torch.tensor([0.0] * 6 + [3.0] * 2)
    decoder = found.decoder.forward
    found.decoder.forward = lambda x, t, code: calls.append((int(t[0]), code)) or decoder(x, t, code)
    found.manipulate(X[:1], direction, scale=1.0, steps=8)
    z = found.encoder(X[:1])
    for t, code in calls[8:]:
        assert torch.equal(code, (z + direction) * found.blocks.seen(torch.tensor([t])))
        assert code[0, 6:].any() == (t >= 6)


def test_the_direction_of_an_attribute_raises_its_classifier_s_score():
    """The attribute is the sign of one number of the code, whose scale is not that of the others."""
    found = method()
    values = torch.arange(400) % 2
    pixels = torch.randint(0, 256, (400, 1, 8, 8), dtype=torch.uint8, generator=seeded(7))
    pixels[:, 0, 0, 0] = (200 * values + 20).to(torch.uint8)

    class Rows(nn.Module):
        def forward(self, x):
            return x[:, 0, 0, :] * torch.tensor([0.1, 1, 1, 1, 1, 1, 1, 1])

    found.encoder = Rows()
    images = Images(pixels, values, ("a", "b"), "made")
    unknown = values.clone()
    unknown[::5] = -1
    for given in (values, unknown):
        direction = found.attribute(images, given)
        standard = direction / Rows()(pixels.float() / 127.5 - 1).std(0)
        assert standard[0] > 0.95 * math.sqrt(8)
        assert standard.norm().item() == pytest.approx(math.sqrt(8), rel=0.02)
        other = found.attribute(images, torch.where(given < 0, given, 1 - given))
        assert torch.cosine_similarity(other, direction, dim=0) < -0.8  # of another quarter of the images


@pytest.mark.usefixtures("plain_shapes")
def test_manipulation_and_averages_refuse_by_name():
    found, images = small(), Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), ("a",), "made")
    with pytest.raises(InputError, match=r"direction: expected 8 numbers, got shape \[7\]"):
        found.manipulate(X, torch.zeros(7))
    with pytest.raises(InputError, match="direction: 8 of 8 numbers are NaN"):
        found.manipulate(X, torch.full((8,), math.nan))
    with pytest.raises(InputError, match="scale: expected"):
        found.manipulate(X, torch.zeros(8), scale=math.inf)
    with pytest.raises(InputError, match="steps: expected a whole number of at least 1 and of at most 8, got 9"):
        found.manipulate(X, torch.zeros(8), steps=9)
    with pytest.raises(InputError, match="values: expected images with the attribute, 1, and images without it, 0"):
        found.attribute(images, torch.tensor([1, 1, -1, 1]))
    with pytest.raises(InputError, match="values: expected integers from -1 to 1, got 2"):
        found.attribute(images, torch.tensor([0, 1, 2, 1]))
    with pytest.raises(InputError, match="weight: expected a direction, got zeros"):
        attribute_direction(torch.zeros(3))
    with pytest.raises(InputError, match="deviation: expected a number of at least 0, got -1"):
        attribute_direction(torch.ones(3), -torch.ones(3))
    for average in (-0.1, 1.0):
        with pytest.raises(InputError, match="average: expected a number of at least 0 and below 1"):
            method(average=average)


def test_slerp_keeps_lengths_and_ends(rng):
    a, b = (nn.functional.normalize(torch.randn(3, 4, generator=rng), dim=1) for _ in range(2))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, 0.3).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_the_size_of_a_factor_is_the_distance_to_the_nearest_other():
    pixels = torch.tensor([[0, 0], [255, 0], [255, 51], [0, 0]], dtype=torch.uint8).view(4, 1, 1, 2)
    assert factor_size(pixels, torch.tensor([0, 1, 1, -1])) == pytest.approx((2 + 2 + math.hypot(2, 0.4)) / 3)


def test_diagnostics_of_a_code_whose_blocks_are_known():
    """The first block encodes the factor that changes least, the last the one that changes most.

    All combinations are there equally often: a probe has no other factor to lean on by chance.
    """
    found = method()
    values = torch.cartesian_prod(*[torch.arange(2)] * 3).repeat(250, 1)
    factors = dict(zip(("little", "some", "much"), values.T, strict=True))
    pixels = torch.zeros(2000, 1, 8, 8, dtype=torch.uint8)
    pixels[:, 0, :3] = (values * torch.tensor([20, 100, 255])).to(torch.uint8)[:, :, None]
    factors["constant"] = torch.zeros(2000, dtype=torch.int64)
    images = Images(pixels, factors["some"], ("a", "b"), "made", factors=factors)

    class Rows(nn.Module):
        def forward(self, x):
            rows = x[:, 0, :3, 0]
            return torch.stack([rows[:, 0], 0 * rows[:, 0], rows[:, 1], *[0 * rows[:, 0]] * 4, rows[:, 2]], 1)

    found.encoder = Rows()
    figures = found.diagnostics(images, images, images)
    assert figures["ordering"] == pytest.approx(1)
    assert figures["modularity"] > 0.95
    blocks = [figures[f"block {name}"] for name in ("little", "some", "much")]
    assert blocks == pytest.approx([0, 1 / 3, 1], abs=0.05)
    assert "block constant" not in figures
    assert found.diagnostics(images, images.subset(torch.arange(0)), images) == {}
    assert found.diagnostics(images, Images(pixels, factors["some"], ("a", "b"), "made"), images) == {}


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    e, t = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(InputError, match="noise and predicted and residual: expected the same shape"):
        DiTiLoss()(e, e[:, :2], e, t)
    with pytest.raises(InputError, match="residual: 6 of 6 numbers are NaN or infinite"):
        DiTiLoss()(e, e, e * math.nan, t)
    with pytest.raises(InputError, match="time_index: expected integers from 0 to 999, got 1000"):
        DiTiLoss()(e, e, e, t + 999)
    with pytest.raises(InputError, match="noise: expected at least 1 rows, got 0"):
        DiTiLoss()(e[:0], e[:0], e[:0], t[:0])
    with pytest.raises(InputError, match="blocks: expected a whole number of at least 1 and of at most 8, got 9"):
        TimeBlocks(8, 9)
    with pytest.raises(InputError, match="blocks: expected a whole number of at least 1 and of at most 5, got 6"):
        TimeBlocks(8, 6, steps=5)
    with pytest.raises(InputError, match="stages: expected ascending ends of which the last is 1000, got"):
        TimeBlocks(8, 4, 1000, (500, 900), (4, 4))
    with pytest.raises(InputError, match=r"stages: expected ascending ends of which the last is 1000, got \[\]"):
        TimeBlocks(8, 4, 1000, (), ())
    with pytest.raises(InputError, match="stage_dims: expected 2 numbers with the sum 8"):
        TimeBlocks(8, 4, 1000, (500, 1000), (4, 5))
    with pytest.raises(
        InputError, match="stage_dims: expected at least 1 for each block of a stage, got 1 for 2 blocks"
    ):
        TimeBlocks(8, 4, 1000, (500, 1000), (1, 7))
    with pytest.raises(
        InputError, match="stage_dims: expected at least 1 for each block of a stage, got 4 for 0 blocks"
    ):
        TimeBlocks(8, 2, 1000, (100, 200, 1000), (2, 4, 2))
    with pytest.raises(InputError, match="mode 'bas' is not known; did you mean 'base'"):
        DiTi(Encoder(64, features=6), mode="bas")
    with pytest.raises(InputError, match="share: expected a number of at least 0 and of at most 1, got 2"):
        method().interpolate(X, X, share=2)
    with pytest.raises(InputError, match="first: expected a whole number of at least 0 and of at most 2, got 3"):
        method().interpolate(X, X, first=3, last=2)


class Normalising(nn.Sequential):
    """Whose result depends on the whole batch in training mode, and on the seed."""

    features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))


def test_images_are_edited_in_evaluation_mode_and_each_part_is_in_its_own_mode_afterwards():
    found = DiTi(Normalising(), dim=8, blocks=4, width=8)
    found.schedule, found.blocks = Schedule(8), TimeBlocks(8, 4, 8)
    nn.init.normal_(found.decoder.up.last[2].weight, std=0.5)
    nn.init.normal_(found.encoder[1].weight, std=2.0)
    found.train()
    found.decoder.net.eval()  # frozen
    modes = {name: module.training for name, module in found.named_modules()}
    x, y = X[:3], X[1:4]
    together = found.interpolate(x, y, share=0.5, steps=4)
    alone = torch.cat([found.interpolate(x[i : i + 1], y[i : i + 1], share=0.5, steps=4) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert {name: module.training for name, module in found.named_modules()} == modes
    assert found.encoder[0][2].num_batches_tracked == 0
    with pytest.raises(InputError, match="steps: expected a whole number of at least 1 and of at most 8, got 9"):
        found.interpolate(x, y, steps=9)
    assert {name: module.training for name, module in found.named_modules()} == modes


@pytest.mark.usefixtures("plain_shapes")
def test_blocks_refuse_what_they_do_not_know():
    blocks, z, t = TimeBlocks(8, 4), torch.randn(2, 8), torch.tensor([0, 999])
    with pytest.raises(InputError, match="mode 'stopgrad' is not known; did you mean 'stop_grad'"):
        blocks(z, t, "stopgrad")
    with pytest.raises(InputError, match=r"z: expected codes of 8 numbers, got shape \[2, 7\]"):
        blocks(z[:, :7], t)
    for mode in ("base", "pdae"):
        with pytest.raises(InputError, match="t: expected integers from 0 to 999, got 1000"):
            blocks(z, t + 1, mode)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["base", "stop_grad", "dual", "pdae"])
def test_codes_keep_their_precision(mode, dtype, rng):
    blocks, z = TimeBlocks(8, 4), torch.randn(5, 8, generator=rng).to(dtype)
    found, expected = blocks(z, T, mode), blocks(z.float(), T, mode)
    assert all(x.dtype == dtype for x in found)
    torch.testing.assert_close([x.float() for x in found], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_whole_method_in_another_precision(dtype):
    found = method().to(dtype)
    found.schedule, found.blocks = Schedule(8).to(dtype), TimeBlocks(8, 4, 8)
    assert found.interpolate(X[:2].to(dtype), X[2:4].to(dtype), steps=2).dtype == dtype


def test_small_steps_are_of_any_integer_type():
    blocks = TimeBlocks(8, 4, steps=200)
    t = torch.tensor([0, 60, 199])  # times four blocks, beyond a byte
    assert torch.equal(blocks.at(t.to(torch.uint8)), blocks.at(t))
