"""GenView's maps, scores and weights by hand, their algebra, the noise levels, the generators, the method's stages."""

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from counterpoise.contrast.genview import (
    GenView,
    GenViewLoss,
    SmallUnCLIP,
    StableUnCLIP,
    foreground_maps,
    foreground_share,
    moco_pairs,
    moco_v3_pairs,
    noise_levels,
    nt_xent_pairs,
    pair_scores,
    perturbed,
    principal_direction,
    project,
    quality_weights,
    simsiam_pairs,
    weighted_mean,
)
from counterpoise.contrast.moco import queue_nce
from counterpoise.contrast.simclr import nt_xent
from counterpoise.data import Images
from counterpoise.data.scenes import Scenes
from counterpoise.errors import InputError
from worlds import Encoder, seeded

N, K, G, T = 6, 5, 3, 0.2


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


T1, T2 = randn(seeded(0), 2, N, K, G, G)
V = randn(seeded(1), K)
Z1, Z2 = randn(seeded(2), 2, N, 4)


def test_maps_of_two_tokens_by_hand():
    """Projections 1, 2 and 5 become 0, 1/4 and 1; of the whole, 0, 1/5 and 4/5; and for the rest 4/7, 3/7 and 0."""
    tokens = torch.tensor([1.0, 2, 5], dtype=torch.float64).view(1, 1, 1, 3)
    foreground, background = foreground_maps(tokens, torch.ones(1, dtype=torch.float64))
    assert foreground.flatten().tolist() == pytest.approx([0, 0.2, 0.8], abs=1e-6)
    assert background.flatten().tolist() == pytest.approx([4 / 7, 3 / 7, 0], abs=1e-6)


def test_scores_written_out():
    found = pair_scores(T1, T2, V)
    for i in range(N):
        pooled = []
        for tokens in (T1[i], T2[i]):
            a = [[sum(tokens[k, y, x] * V[k] for k in range(K)) for x in range(G)] for y in range(G)]
            low, high = min(map(min, a)), max(map(max, a))
            m = torch.tensor([[(value - low) / (high - low) for value in row] for row in a])
            pooled.append([(tokens * part).sum((1, 2)) for part in (m / m.sum(), (1 - m) / (1 - m).sum())])
        (f1, b1), (f2, b2) = pooled
        expected = f1 @ f2 / f1.norm() / f2.norm() - b1 @ b2 / b1.norm() / b2.norm()
        assert found[i].item() == pytest.approx(expected.item(), abs=1e-5)


def test_maps_sum_to_one_and_swap_with_the_direction_s_sign():
    foreground, background = foreground_maps(T1, V)
    for each in (foreground, background):
        torch.testing.assert_close(each.sum((1, 2)), torch.ones(N, dtype=torch.float64), atol=1e-6, rtol=0)
    for ours, theirs in zip(foreground_maps(T1, 7 * V), (foreground, background), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    for ours, theirs in zip(foreground_maps(T1, -V), (background, foreground), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_equal_tokens_are_all_background(rng):
    token = randn(rng, K)
    tokens = token.view(1, K, 1, 1).expand(1, K, G, G)
    foreground, background = foreground_maps(tokens, V)
    assert foreground.abs().max() == 0
    torch.testing.assert_close(torch.einsum("bhw,bdhw->bd", background, tokens)[0], token, atol=1e-6, rtol=0)
    # Their foregrounds have no cosine, 0; their backgrounds agree.
    assert pair_scores(tokens, 2 * tokens, V).item() == pytest.approx(-1, abs=1e-6)


def test_equal_views_score_nothing_and_exchanged_ones_the_same():
    torch.testing.assert_close(pair_scores(T1, T1, V), torch.zeros(N, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(pair_scores(T1, T2, V), pair_scores(T2, T1, V))
    torch.testing.assert_close(pair_scores(T1, T2, V), -pair_scores(T1, T2, -V), atol=1e-6, rtol=0)


def test_the_object_kept_on_another_ground_is_better_than_another_object_on_the_same():
    first, second, grass, sand = torch.eye(4)
    thing, other = 2 * first + second, first + 2 * second  # all objects have something in common
    image = lambda what, ground: torch.stack([what, ground, ground], 1).view(1, 4, 1, 3)  # noqa: E731
    first = image(thing, grass)
    better = pair_scores(first, image(thing, sand), torch.tensor([1.0, 1, 0, 0]))
    worse = pair_scores(first, image(other, grass), torch.tensor([1.0, 1, 0, 0]))
    assert better.item() > 0.9
    assert worse.item() < -0.1


def test_weights_are_a_softmax_times_the_batch(rng):
    scores = randn(rng, N)
    weights = quality_weights(scores, 2.0)
    torch.testing.assert_close(weights, N * torch.softmax(2 * scores, 0))
    torch.testing.assert_close(weights, quality_weights(scores + 0.3, 2.0))  # a constant added to every q_f
    order = torch.randperm(N, generator=rng)
    torch.testing.assert_close(quality_weights(scores[order], 2.0), weights[order])
    torch.testing.assert_close(quality_weights(scores, 0.0), torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(quality_weights(torch.full((N,), 1.7)), torch.ones(N))
    assert quality_weights(torch.tensor([-1.5])).item() == pytest.approx(1)


@pytest.mark.parametrize("gamma", [1.0, 3.0])
def test_the_most_that_weights_can_differ(gamma):
    extreme = torch.tensor([-2.0, 0, 2], dtype=torch.float64)
    weights = quality_weights(extreme, gamma)
    assert (weights.max() / weights.min()).item() == pytest.approx(math.exp(4 * gamma))
    assert -2 <= pair_scores(T1, T2, V).min() <= pair_scores(T1, T2, V).max() <= 2


def test_no_gradient_reaches_tokens_direction_or_scores(rng):
    tokens, direction = T1.clone().requires_grad_(), V.clone().requires_grad_()
    assert not pair_scores(tokens, T2, direction).requires_grad
    scores = randn(rng, N).requires_grad_()
    assert not quality_weights(scores).requires_grad
    weights = torch.ones(N, dtype=torch.float64, requires_grad=True)
    loss = GenViewLoss()(Z1.clone().requires_grad_(), Z2, weights)
    loss.backward()
    assert weights.grad is None


def test_with_equal_weights_it_is_nt_xent():
    ones = torch.ones(N, dtype=torch.float64)
    for given in ((), (ones,)):
        torch.testing.assert_close(GenViewLoss(T)(Z1, Z2, *given), nt_xent(Z1, Z2, T))


def test_the_loss_of_each_pair_written_out(rng):
    z = F.normalize(torch.cat([Z1, Z2]), dim=1)
    logits = (z @ z.T / T).masked_fill(torch.eye(2 * N).bool(), -torch.inf)
    rows = F.cross_entropy(logits, torch.arange(2 * N).roll(N), reduction="none")
    torch.testing.assert_close(nt_xent_pairs(Z1, Z2, T), (rows[:N] + rows[N:]) / 2)
    weights = torch.rand(N, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(GenViewLoss(T)(Z1, Z2, weights), (weights.repeat(2) * rows).mean())


def unit(x):
    return x / x.norm(dim=1, keepdim=True)


def test_the_losses_of_the_hosts_written_out(rng):
    p1, p2, k1, k2, queue = randn(rng, 5, N, 4)
    queried = moco_pairs(p1, k1, queue, T)
    torch.testing.assert_close(queried.mean(), queue_nce(p1, k1, queue, T))
    symmetric, siamese = moco_v3_pairs(p1, p2, k1, k2, T), simsiam_pairs(p1, p2, k1, k2)
    p1, p2, k1, k2, queue = (unit(x) for x in (p1, p2, k1, k2, queue))
    for i in range(N):
        logits = torch.cat([p1[i] @ k1[i : i + 1].T, p1[i] @ queue.T]) / T
        torch.testing.assert_close(queried[i], -logits.log_softmax(0)[0])
        first, second = (p1[i] @ k2.T / T).log_softmax(0)[i], (p2[i] @ k1.T / T).log_softmax(0)[i]
        torch.testing.assert_close(symmetric[i], -2 * T * (first + second))
        torch.testing.assert_close(siamese[i], -(p1[i] @ k2[i] + p2[i] @ k1[i]) / 2)


@pytest.mark.slow
def test_gradients_of_the_hosts_in_double_precision(rng):
    p1, p2, k1, k2 = (x.requires_grad_() for x in randn(rng, 4, 3, 4))
    assert torch.autograd.gradcheck(lambda *x: moco_pairs(*x, T), (p1, k1, k2))
    assert torch.autograd.gradcheck(lambda *x: moco_v3_pairs(*x, T), (p1, p2, k1, k2))
    assert torch.autograd.gradcheck(lambda *p: simsiam_pairs(*p, k1.detach(), k2.detach()), (p1, p2))
    simsiam_pairs(p1, p2, k1, k2).sum().backward()
    assert k1.grad is None
    assert k2.grad is None
    assert p1.grad.abs().max() > 0


def test_the_hosts_of_one_pair_and_of_equal_rows():
    """A single sample has no negative in the batch: MoCo v3's loss is 0. Equal rows: log of the candidates."""
    assert moco_v3_pairs(*randn(seeded(4), 4, 1, 4)).item() == pytest.approx(0, abs=1e-12)
    one = torch.ones(N, 3, dtype=torch.float64)
    assert moco_v3_pairs(one, one, one, one, T).tolist() == pytest.approx([4 * T * math.log(N)] * N)
    assert moco_pairs(one, one, one[:4], T).tolist() == pytest.approx([math.log(5)] * N)
    assert simsiam_pairs(one, one, one, one).tolist() == pytest.approx([-1] * N)


def test_a_weight_scales_its_pair_alone():
    """With SimSiam's loss, where pairs do not see each other: the gradient of one grows, the others' stay."""
    weights = torch.ones(N, dtype=torch.float64)
    gradients = []
    for factor in (1.0, 3.0):
        weights[2] = factor
        p = Z1.clone().requires_grad_()
        weighted_mean(-F.cosine_similarity(p, Z2), weights).backward()
        gradients.append(p.grad)
    scale = torch.ones(N, 1, dtype=torch.float64)
    scale[2] = 3
    torch.testing.assert_close(gradients[1], scale * gradients[0])


@pytest.mark.slow
def test_gradient_in_double_precision(rng):
    weights = torch.rand(N, generator=rng, dtype=torch.float64)
    loss = GenViewLoss(T)
    z = (Z1.clone().requires_grad_(), Z2.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda z1, z2: loss(z1, z2, weights), z)


def test_half_precision_tokens_are_weighed_in_float32():
    found = pair_scores(T1.bfloat16(), T2.bfloat16(), V.float())
    torch.testing.assert_close(found, pair_scores(T1.bfloat16().float(), T2.bfloat16().float(), V.float()))
    assert found.dtype == torch.float32


def test_the_principal_direction_points_from_the_border_inwards(rng):
    axis = F.normalize(randn(rng, K), dim=0)
    mean = 10 * randn(rng, K)  # not centred, the mean would be the direction
    for sign in (1, -1):
        inside = torch.zeros(20, 1, 5, 5, dtype=torch.float64)
        inside[:, :, 1:4, 1:4] = sign
        tokens = mean.view(K, 1, 1) + 3 * inside * axis.view(K, 1, 1) + 0.1 * randn(rng, 20, K, 5, 5)
        assert (principal_direction(tokens) @ axis).item() == pytest.approx(sign, abs=0.01)


def test_the_share_of_foreground():
    projected = torch.arange(100.0).view(4, 5, 5)
    assert foreground_share(projected, share=0.4).tolist() == [0, 0, pytest.approx(0.6), 1]
    assert foreground_share(-projected, share=0.25).tolist() == [1, 0, 0, 0]


def test_noise_levels_are_a_step_function():
    shares = [0.0, 0.2, 0.2001, 0.4, 0.4001, 0.6, 0.6001, 0.8, 0.8001, 1.0]
    levels = noise_levels(torch.tensor(shares)).tolist()
    assert levels == [0, 0, 100, 100, 200, 200, 300, 300, 400, 400]
    assert noise_levels(torch.tensor([5]) / 25).item() == 0


@pytest.mark.parametrize("level", [0, 100, 400, 900])
def test_the_noise_on_codes_is_that_of_the_cosine_schedule(level, rng):
    """As a product of 1 - beta, beta being made of ratios."""
    bar = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    kept = math.prod(bar(t + 1) / bar(t) for t in range(level + 1))
    codes, noise = randn(rng, 2, 3), randn(rng, 2, 3)
    expected = math.sqrt(kept) * codes + math.sqrt(1 - kept) * noise
    torch.testing.assert_close(perturbed(codes, torch.full((2,), level), noise), expected)


def test_the_small_generator_s_noise_is_on_the_code_alone():
    """From one start, two images with one code give one picture at level 0 and two at level 400."""
    torch.manual_seed(0)
    small = SmallUnCLIP(width=8, dim=16, steps=2)
    small.fit(torch.randint(0, 256, (8, 1, 9, 9), dtype=torch.uint8), epochs=3)
    assert not any(p.requires_grad for p in small.parameters())
    conditions = []
    small.unet.register_forward_pre_hook(lambda _, given: conditions.append(given[2]))
    image = torch.randint(0, 256, (1, 1, 9, 9), dtype=torch.uint8).expand(2, -1, -1, -1)
    made = small(image, torch.tensor([0, 400]))
    assert made.shape == image.shape
    assert made.dtype == torch.uint8
    clean = small.code(image.float().expand(-1, 3, -1, -1) / 127.5 - 1)
    near, far = ((conditions[0] - clean) / small.deviation).square().mean(1).sqrt()
    assert near < 0.03
    assert 0.2 < far < 1.5


class Pipeline:
    """What `StableUnCLIPImg2ImgPipeline` takes and gives; its images are negatives, larger than they were."""

    def __init__(self):
        self.calls = []

    def __call__(self, *, image, prompt, noise_level, num_inference_steps, guidance_scale):
        assert len(prompt) == len(image)
        self.calls.append((len(image), noise_level, num_inference_steps, guidance_scale))
        made = [Image.eval(picture, lambda value: 255 - value).resize((48, 48), 0) for picture in image]
        return type("Output", (), {"images": made})


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pipeline_gets_each_noise_level_in_batches(channels):
    pixels = torch.randint(0, 256, (5, channels, 1, 1), dtype=torch.uint8).expand(-1, -1, 8, 12)
    pipeline = Pipeline()
    made = StableUnCLIP(pipeline, steps=7, guidance=3.0, batch_size=2)(pixels, torch.tensor([100, 0, 100, 400, 100]))
    assert pipeline.calls == [(1, 0, 7, 3.0), (2, 100, 7, 3.0), (1, 100, 7, 3.0), (1, 400, 7, 3.0)]
    torch.testing.assert_close(made, 255 - pixels)


def test_a_pipeline_by_name_needs_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(InputError, match=r"diffusers is not installed: pip install 'counterpoise\[diffusion\]'"):
        StableUnCLIP()


def images(rng, count=12, size=8, channels=1):
    pixels = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.arange(count) % 3, ("a", "b", "c"), "noise")


def started(given, **arguments):
    torch.manual_seed(0)
    method = GenView(Encoder(given.pixels[0].numel()), len(given), generator_epochs=1, generator_width=8, **arguments)
    method.start_epoch(given, 0)
    return method


def test_variations_that_are_ready_are_taken_with_their_noise_levels(rng):
    given, ready, seen = images(rng), images(rng).pixels, []

    def generator(pixels, levels):
        seen.append((pixels, levels))
        return ready

    method = started(given, generator=generator)
    assert torch.equal(method.variations, ready)
    ((pixels, levels),) = seen
    assert torch.equal(pixels, given.pixels)
    tokens = method.small.tokens((given.pixels.float() / 127.5 - 1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(method.direction, principal_direction(tokens))
    assert torch.equal(levels, noise_levels(foreground_share(project(tokens, method.direction))))
    method.start_epoch(given, 1)
    assert len(seen) == 1


def test_a_class_s_other_images_are_the_variations_of_an_oracle(rng):
    given = images(rng)
    method = started(given, variations="class")
    for i in range(len(given)):
        (j,) = (given.pixels == method.variations[i]).flatten(1).all(1).nonzero().flatten().tolist()
        assert i != j
        assert given.labels[i] == given.labels[j]


def test_wrong_pairs_are_other_images_variations_whatever_gamma_is(rng):
    given = images(rng)
    method = started(given, generator=lambda pixels, levels: pixels, wrong=0.5)
    changed = (method.variations != given.pixels).flatten(1).any(1)
    assert changed.sum() == 6
    assert torch.equal(changed, method.wrong_pairs)
    pair = [started(given, variations="class", wrong=0.5, gamma=gamma) for gamma in (0.0, 1.0)]
    assert torch.equal(pair[0].variations, pair[1].variations)
    assert torch.equal(pair[0].wrong_pairs, pair[1].wrong_pairs)


def test_the_second_view_is_one_of_the_variation(rng):
    given = images(rng)
    ready = images(rng).pixels
    method = started(given, generator=lambda pixels, levels: ready)
    method.log = lambda *_, **__: None
    seen = []
    method.loss = lambda views, labels, index: seen.extend(views) or torch.zeros(())
    index = torch.tensor([3, 1, 8])
    method.training_step((given.pixels[index], given.labels[index], index), 0)
    torch.testing.assert_close(seen[0], given.pixels[index].float() / 127.5 - 1)
    torch.testing.assert_close(seen[1], ready[index].float() / 127.5 - 1)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
def test_the_method_weighs_pairs_by_their_frozen_tokens(gamma, rng):
    given = images(rng)
    method = started(given, variations="class", gamma=gamma)
    views = [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    tokens = [method.small.tokens(view.expand(-1, 3, -1, -1)) for view in views]
    weights = quality_weights(pair_scores(*tokens, method.direction), gamma)
    z1, z2 = (method.head(method.encoder(view)) for view in views)
    expected = (weights * nt_xent_pairs(z1, z2)).mean()
    torch.testing.assert_close(method.loss(views, torch.zeros(N, dtype=torch.int64), torch.arange(N)), expected)


HOSTS = ["moco", "moco-v3", "simsiam"]


def hosted(given, host, **arguments):
    return started(given, variations="class", host=host, temperature=T, hidden=8, dim=4, queue=7, **arguments)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("host", HOSTS)
def test_each_host_s_loss_is_weighed_pair_by_pair(host, gamma, rng):
    given = images(rng)
    method = hosted(given, host, gamma=gamma)
    method.eval()
    views = [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    z = [method.head(method.encoder(view)) for view in views]
    if method.key_encoder is not None:
        nn.init.normal_(method.key_encoder[0].weight)
        k = [method.key_encoder(view) for view in views]
    if host == "moco":
        losses = moco_pairs(z[0], k[1], method.queue, T)
    elif host == "moco-v3":
        losses = moco_v3_pairs(*(method.predictor(x) for x in z), *k, T)
    else:
        losses = simsiam_pairs(*(method.predictor(x) for x in z), *z)
    weights = method.weights(*views) if gamma else torch.ones(N)
    assert gamma == 0 or weights.std() > 1e-4
    state = {name: x.clone() for name, x in method.state_dict().items()}
    value = method.loss(views, torch.zeros(N, dtype=torch.int64), torch.arange(N))
    torch.testing.assert_close(value, (weights * losses).mean())
    assert all(torch.equal(x, state[name]) for name, x in method.state_dict().items())
    value.backward()
    assert all(p.grad is not None for p in [*method.encoder.parameters(), *method.head.parameters()])
    if method.key_encoder is not None:
        assert all(p.grad is None for p in method.key_encoder.parameters())


@pytest.mark.parametrize("host", ["moco", "moco-v3"])
def test_key_encoder_and_queue_move_while_training(host, rng):
    given = images(rng)
    method = hosted(given, host, momentum=0.75)
    nn.init.normal_(method.encoder.weight)  # since the key encoder was copied
    before, own = method.key_encoder[0].weight.clone(), method.encoder.weight.detach()
    views = [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    queue = method.queue.clone() if host == "moco" else None
    for step in range(2):
        method.loss(views, torch.zeros(N, dtype=torch.int64), torch.arange(N)).backward()
        before = 0.75 * before + 0.25 * own
        torch.testing.assert_close(method.key_encoder[0].weight, before)
        if host == "moco":
            slots = (N * step + torch.arange(N)) % 7
            queue[slots] = F.normalize(method.key_encoder(views[1]), dim=1).detach()
            torch.testing.assert_close(method.queue, queue)
    assert host != "moco" or int(method.pointer) == 2 * N % 7


def test_a_queue_gets_the_keys_of_images_and_of_variations(rng):
    """In half of the pairs the views change their places, so that negatives are not all of variations."""
    given = images(rng, count=40)
    black = torch.zeros_like(given.pixels)
    torch.manual_seed(0)
    method = GenView(Encoder(64), 40, generator_epochs=0, generator_width=8, host="moco", generator=lambda *_: black)
    method.start_epoch(given, 0)
    plain = given.pixels.float() / 127.5 - 1
    first, second = method.views_of(given.pixels, given.labels, torch.arange(40))
    swapped = (first == -1).flatten(1).all(1)
    assert 10 < swapped.sum() < 30
    assert torch.equal(first[~swapped], plain[~swapped])
    assert torch.equal(second[swapped], plain[swapped])
    assert (second[~swapped] == -1).all()


def test_heads_are_those_of_the_host(rng):
    given = images(rng)
    kinds = {host: [type(module).__name__ for module in hosted(given, host).head] for host in ["simclr", *HOSTS]}
    assert kinds["simclr"] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds["moco"] == ["Linear", "ReLU", "Linear"]
    assert kinds["moco-v3"] == [*kinds["simclr"], "BatchNorm1d"]
    assert kinds["simsiam"] == [*kinds["simclr"][:3], *kinds["simclr"], "BatchNorm1d"]
    assert hosted(given, "simsiam").predictor[0].out_features == 1
    assert hosted(given, "moco-v3").predictor[0].out_features == 8
    assert hosted(given, "simclr").state_dict().keys() == started(given, variations="class").state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_each_host_learns_and_is_restored(host, rng):
    given = images(rng)
    method = hosted(given, host)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    index, losses = torch.arange(12), []
    for _ in range(25):
        optimizer.zero_grad()
        loss = method.loss([method.view(given.pixels), method.view(method.variations)], given.labels, index)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[1:6])  # the first queue is random
    fresh = GenView(Encoder(64), 12, generator_epochs=1, generator_width=8, host=host, hidden=8, dim=4, queue=7)
    fresh.load_state_dict(method.state_dict())
    fresh.temperature, views = T, [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    fresh.eval(), method.eval()
    torch.testing.assert_close(
        fresh.loss(views, given.labels[:N], index[:N]), method.loss(views, given.labels[:N], index[:N])
    )


class MeanColour(nn.Module):
    """Tokens that are colours of patches."""

    def forward(self, pixels):
        return F.avg_pool2d(pixels, 4)


def test_weights_separate_wrong_pairs_where_tokens_separate_objects(rng):
    """Bright squares in a colour of their class, on dark grounds that share nothing."""
    labels = torch.arange(90) % 3
    pixels = torch.randint(0, 60, (90, 3, 1, 1), generator=rng).expand(-1, -1, 12, 12).clone()
    pixels[:, :, 4:8, 4:8] = 130 + 125 * torch.eye(3)[labels].long()[:, :, None, None]
    given = Images(pixels.to(torch.uint8), labels, ("a", "b", "c"), "squares")
    torch.manual_seed(0)
    method = GenView(Encoder(3 * 12 * 12), 90, variations="class", wrong=0.4, gamma=4.0, tokens=MeanColour())
    method.start_epoch(given, 0)
    assert (method.direction > 0.3).all()
    figures = method.diagnostics(given, given, given)
    assert figures["weight_gap"] > 0.2
    assert figures["wrong_weight"] < 0.9
    assert method.small is None


def test_the_foreground_is_where_the_objects_of_scenes_are():
    """Colours of patches, and the direction found from them: on objects the map is larger than off them."""
    made = Scenes(40, least=1, most=2, domain="day", seed=0)
    scenes = [made[i] for i in range(40)]
    pixels = torch.stack([scene.image for scene in scenes]).float() / 127.5 - 1
    share = F.avg_pool2d(torch.stack([scene.masks.any(0) for scene in scenes]).float(), 4)
    tokens = MeanColour()(pixels)
    foreground, _ = foreground_maps(tokens, principal_direction(tokens))
    assert foreground[share > 0.9].mean() / foreground[share < 0.1].mean() > 1.2


def test_a_fresh_method_takes_what_a_checkpoint_holds(rng):
    method = started(images(rng, channels=3))
    state = method.state_dict()
    fresh = GenView(Encoder(3 * 8 * 8), 12, generator_epochs=1, generator_width=8)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.variations, method.variations)
    assert torch.equal(fresh.direction, method.direction)
    assert method.variations.shape == (12, 3, 8, 8)


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name(rng):
    with pytest.raises(InputError, match="tokens1 and tokens2: expected the same shape"):
        pair_scores(T1, T2[:1], V)
    with pytest.raises(InputError, match="tokens2: 270 of 270 numbers are NaN"):
        pair_scores(T1, T2 * math.nan, V)
    with pytest.raises(InputError, match="losses and weights: expected the same shape"):
        weighted_mean(torch.ones(3), torch.ones(2))
    with pytest.raises(InputError, match="z1: expected at least 2 rows"):
        nt_xent_pairs(Z1[:1], Z2[:1])
    with pytest.raises(InputError, match="host 'simsian' is not known; did you mean 'simsiam'"):
        GenView(Encoder(), 3, host="simsian")
    for name, wrong in {"queue": 0, "momentum": 1.5, "temperature": 0.0}.items():
        with pytest.raises(InputError, match=f"{name}: expected"):
            GenView(Encoder(), 3, **{name: wrong})
    with pytest.raises(InputError, match="negatives: expected 4 columns, as queries has, got 3"):
        moco_pairs(Z1, Z2, Z1[:, :3])
    with pytest.raises(InputError, match="k2: 24 of 24 numbers are NaN"):
        moco_v3_pairs(Z1, Z2, Z1, Z2 * math.nan)
    with pytest.raises(InputError, match="p1 and p2 and z1 and z2: expected the same shape"):
        simsiam_pairs(Z1, Z2, Z1, Z2[:2])
    with pytest.raises(InputError, match="variations 'clas' is not known; did you mean 'class'"):
        GenView(Encoder(), 3, variations="clas")
    with pytest.raises(InputError, match="generator_width: expected an even number, got 7"):
        GenView(Encoder(), 3, generator_width=7)
    with pytest.raises(InputError, match="gamma: expected a number of at least 0"):
        GenView(Encoder(), 3, gamma=-1)
    with pytest.raises(InputError, match="variations: expected 'diffusion' where a generator is given, got 'class'"):
        GenView(Encoder(), 3, variations="class", generator=lambda pixels, levels: pixels)
    with pytest.raises(
        InputError, match=r"generator: expected uint8 of shape \[12, 1, 8, 8\] from it, got torch.float"
    ):
        started(images(rng), generator=lambda pixels, levels: pixels.float())


def test_weights_leave_the_frozen_encoder_in_its_mode(rng):
    given = images(rng)
    method = started(given, variations="class")
    for mode in (True, False):
        method.train(mode)
        method.weights(*[torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)])
        assert all(module.training == mode for module in method.modules())
