"""RealRAG's loss by hand and in its limits, the mining, the generators, retrieval-augmented generation, the method."""

import math

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from counterpoise.data import Images
from counterpoise.errors import InputError
from counterpoise.metric import realrag
from counterpoise.metric.realrag import (
    Judge,
    PipelineGenerator,
    RealRAG,
    RealRAGLoss,
    SmallGenerator,
    generate_augmented,
    real_rag,
    reflective_negatives,
)
from counterpoise.nets.text import bag_of_words
from counterpoise.training.trainer import fit
from worlds import Encoder, seeded

N, D, T = 6, 4, 0.2


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


Q, P, R = randn(seeded(0), 3, N, D)
LABELS = torch.tensor([0, 1, 0, 2, 1, 3])


def written_out(queries, positives, reflective, labels=None, absent=()):
    """Row by row, from cosines."""
    cosine = lambda a, b: (a @ b / a.norm() / b.norm()).item()  # noqa: E731
    rows = []
    for i, q in enumerate(queries):
        own = math.exp(cosine(q, positives[i]) / T)
        normal = sum(
            math.exp(cosine(q, p) / T)
            for j, p in enumerate(positives)
            if (i != j if labels is None else labels[i] != labels[j])
        )
        mirrored = 0.0 if reflective is None or i in absent else math.exp(cosine(q, reflective[i]) / T)
        rows.append(-math.log(own / (own + normal + mirrored)))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize("absent", [(), (1, 4)])
def test_the_loss_written_out(labels, absent):
    without = torch.zeros(N, dtype=torch.bool)
    without[list(absent)] = True
    expected = written_out(Q, P, R, labels, absent)
    torch.testing.assert_close(real_rag(Q, P, R, T, labels, without), expected)
    torch.testing.assert_close(RealRAGLoss(T)(Q, 3 * P, R / 2, labels, without), expected.mean())


def test_without_reflective_negatives_it_is_infonce_from_text_to_image():
    logits = F.normalize(Q, dim=1) @ F.normalize(P, dim=1).T / T
    expected = F.cross_entropy(logits, torch.arange(N), reduction="none")
    torch.testing.assert_close(real_rag(Q, P, None, T), expected)
    torch.testing.assert_close(real_rag(Q, P, R, T, absent=torch.ones(N, dtype=torch.bool)), expected)


def test_a_reflective_negative_can_only_raise_the_loss():
    more = real_rag(Q, P, R, T) - real_rag(Q, P, None, T)
    assert (more > 1e-6).all()
    far = real_rag(Q, P, -Q, 0.01) - real_rag(Q, P, None, 0.01)  # at cosine -1 and a low temperature it is nothing
    assert far.abs().max() < 1e-12


def test_one_that_is_the_positive_counts_as_much():
    assert (real_rag(Q, P, P, T) >= math.log(2)).all()
    alone = real_rag(Q[:1], P[:1], P[:1], T)
    assert alone.item() == pytest.approx(math.log(2), abs=1e-12)


def test_a_query_alone_has_its_reflective_negative_or_is_refused():
    q, p, r = (F.normalize(x[:1], dim=1) for x in (Q, P, R))
    expected = math.log1p(math.exp(((q * r).sum() - (q * p).sum()).item() / T))
    assert real_rag(Q[:1], P[:1], R[:1], T).item() == pytest.approx(expected)
    same = torch.zeros(N, dtype=torch.int64)  # all of one object: no normal negative either
    torch.testing.assert_close(real_rag(Q, P, R, T, same)[:1], real_rag(Q[:1], P[:1], R[:1], T))
    for reflective, absent in ((R, torch.ones(N, dtype=torch.bool)), (None, None)):
        with pytest.raises(InputError, match="labels: expected two objects in the batch, or a reflective negative"):
            real_rag(Q, P, reflective, T, same, absent)


def test_rows_of_no_known_object_are_like_no_other():
    unknown, apart = torch.tensor([0, 0, -1, 1, -1, 1]), torch.tensor([0, 0, 2, 1, 3, 1])
    torch.testing.assert_close(real_rag(Q, P, R, T, unknown), real_rag(Q, P, R, T, apart))


def test_a_learnt_temperature_is_where_it_starts_and_has_the_gradient_of_the_formula():
    loss = RealRAGLoss(T, learn_temperature=True).double()
    assert list(loss.state_dict()) == ["log_scale"]
    assert list(RealRAGLoss(T).state_dict()) == []
    absent = torch.arange(N) == 2
    value = loss(Q, P, R, LABELS, absent)
    torch.testing.assert_close(value, RealRAGLoss(T)(Q, P, R, LABELS, absent))
    value.backward()
    q, p, r = (F.normalize(x, dim=1) for x in (Q, P, R))
    own = torch.eye(N, dtype=torch.bool)
    others = (q @ p.T).masked_fill((LABELS[:, None] == LABELS) & ~own, -math.inf)
    cosines = torch.cat([others, (q * r).sum(1).masked_fill(absent, -math.inf)[:, None]], 1)
    means = ((cosines / T).softmax(1) * cosines.nan_to_num(neginf=0)).sum(1)  # d/da of log-sum-exp of a·s
    torch.testing.assert_close(loss.log_scale.grad, ((means - (q * p).sum(1)) / T).mean())

    def by_scale(log_scale):
        return real_rag(Q, P, R, (-log_scale).exp(), LABELS, absent)

    assert torch.autograd.gradcheck(by_scale, (torch.tensor(1.2, dtype=torch.float64, requires_grad=True),))


def test_a_learnt_temperature_falls_where_pairs_are_apart_and_stays_above_a_hundredth():
    apart = torch.eye(N, dtype=torch.float64)
    loss = RealRAGLoss(T, learn_temperature=True).double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e3)
    loss(apart, apart, None).backward()
    optimizer.step()
    assert loss.log_scale > math.log(100)
    loss.eval()(apart, apart, None)
    assert loss.log_scale > math.log(100)  # nothing changes outside of training
    loss.train()(apart, apart, None)
    assert loss.temperature.item() == pytest.approx(0.01)
    optimizer.zero_grad()
    loss(apart, apart.roll(1, 0), None).backward()
    optimizer.step()
    assert loss.temperature > 1  # it can return from the bound


def test_a_reflective_negative_is_pushed_from_its_own_query_alone():
    """Along the query, times its probability over the temperature; normalisation takes what is along the row itself."""
    q, p, r = (F.normalize(x, dim=1) for x in (Q, P, R))
    r.requires_grad_()
    losses = real_rag(q, p, r, T)
    (grad,) = torch.autograd.grad(losses[2], r, retain_graph=True)
    assert torch.equal(grad[[0, 1, 3, 4, 5]], torch.zeros(5, D, dtype=torch.float64))
    probability = ((q[2] @ r[2] / T).exp() / ((q[2] @ p.T / T).exp().sum() + (q[2] @ r[2] / T).exp())).detach()
    along = q[2] - (q[2] @ r[2]) * r[2]
    torch.testing.assert_close(grad[2], (probability / T * along).detach())


def test_what_one_query_lacks_does_not_matter_to_others():
    absent = torch.zeros(N, dtype=torch.bool)
    whole = real_rag(Q, P, R, T, LABELS, absent)
    absent[3] = True
    cut = real_rag(Q, P, R * (~absent)[:, None], T, LABELS, absent)
    assert cut[3] < whole[3]
    torch.testing.assert_close(cut[~absent], whole[~absent], rtol=0, atol=0)


def test_invariances(rng):
    order = torch.randperm(N, generator=rng)
    rotation = torch.linalg.qr(randn(rng, D, D)).Q
    whole = real_rag(Q, P, R, T, LABELS)
    torch.testing.assert_close(real_rag(Q[order], P[order], R[order], T, LABELS[order]), whole[order])
    torch.testing.assert_close(real_rag(Q @ rotation, P @ rotation, R @ rotation, T, LABELS), whole)
    torch.testing.assert_close(real_rag(Q, P, R, T, 7 - LABELS), whole)


def test_gradient_in_double_precision():
    absent = torch.tensor([False, True, False, False, True, False])
    leaves = [x.clone().requires_grad_() for x in (Q, P, R)]
    assert torch.autograd.gradcheck(lambda *x: RealRAGLoss(T)(*x, LABELS, absent), leaves, fast_mode=True)


def test_bfloat16_is_computed_in_float32():
    given = [x.bfloat16() for x in (Q, P, R)]
    value = RealRAGLoss(0.07)(*given, LABELS)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, RealRAGLoss(0.07)(*(x.float() for x in given), LABELS))


def test_mining_finds_the_most_alike_unless_it_is_of_the_prompt_s_own_object(rng):
    generated, database = randn(rng, 5, D), randn(rng, 40, D)
    labels, image_labels = torch.arange(5), torch.randint(5, (40,), generator=rng)
    found = reflective_negatives(generated, database, labels, image_labels)
    best = F.cosine_similarity(generated[:, None], database[None], dim=2).argmax(1)
    expected = torch.where(image_labels[best] == labels, -1, best)
    assert torch.equal(found, expected)
    order = torch.randperm(40, generator=rng)
    mixed = reflective_negatives(generated, database[order], labels, image_labels[order])
    assert torch.equal(torch.where(mixed >= 0, order[mixed], -1), expected)
    own = reflective_negatives(generated, database, labels, labels.repeat(8))
    other = reflective_negatives(generated, database, labels, torch.full((40,), -1))
    assert torch.equal(other, best)
    assert ((own == -1) == (labels.repeat(8)[best] == labels)).all()


class Tiny:
    """What a pipeline of diffusers takes and gives: grey as the prompt says, or the reference, each twice as large."""

    def __init__(self):
        self.calls = []

    def __call__(self, *, prompt, generator, image=None, num_inference_steps=50):
        self.calls.append((prompt, image, num_inference_steps, torch.rand(1, generator=generator).item()))
        grey = Image.new("RGB", (8, 6), (int(prompt),) * 3)
        picture = grey if image is None else image.resize((2 * image.width, 2 * image.height), 0)
        return type("Output", (), {"images": [picture]})


def test_a_pipeline_draws_each_prompt_from_the_same_seed():
    pipeline = Tiny()
    made = PipelineGenerator(pipeline, num_inference_steps=3)(["10", "200"])
    assert made.shape == (2, 3, 6, 8)
    assert made.flatten(1).unique(dim=1).flatten().tolist() == [10, 200]
    assert [call[:3] for call in pipeline.calls] == [("10", None, 3), ("200", None, 3)]
    assert pipeline.calls[0][3] == pipeline.calls[1][3]
    PipelineGenerator(pipeline, seed=1)(["10"])
    assert pipeline.calls[2][3] != pipeline.calls[0][3]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_pipeline_gets_its_reference_by_name_and_gives_the_wanted_shape(channels, rng):
    references = torch.randint(0, 256, (2, channels, 3, 4), generator=rng, dtype=torch.uint8)
    text, both = Tiny(), Tiny()
    made = PipelineGenerator(text, both, "image", shape=(channels, 6, 8))(["1", "2"], references)
    assert not text.calls
    assert [call[0] for call in both.calls] == ["1", "2"]
    torch.testing.assert_close(made, references.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with pytest.raises(TypeError, match="ip_adapter_image"):
        PipelineGenerator(text, both, "ip_adapter_image")(["1"], references[:1])


@pytest.mark.slow
def test_a_pipeline_of_diffusers(rng):
    """A real one, that starts from noise, or from the reference, and draws as its net and its scheduler say."""
    from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel

    class Pipeline(DiffusionPipeline):
        def __init__(self, unet, scheduler):
            super().__init__()
            self.register_modules(unet=unet, scheduler=scheduler)

        @torch.no_grad()
        def __call__(self, prompt, image=None, generator=None):
            x = torch.randn(1, 3, 8, 8, generator=generator)
            if image is not None:
                pixels = torch.tensor(list(image.get_flattened_data()), dtype=torch.float32).view(1, 8, 8, 3)
                x = pixels.movedim(3, 1) / 127.5 - 1
            self.scheduler.set_timesteps(2)
            for t in self.scheduler.timesteps:
                x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
            return ImagePipelineOutput(self.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).movedim(1, 3).numpy()))

    torch.manual_seed(0)
    unet = UNet2DModel(8, 3, 3, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
                       block_out_channels=(8,), norm_num_groups=2, layers_per_block=1)  # fmt: skip
    pipeline = Pipeline(unet.eval(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    generator = PipelineGenerator(pipeline, shape=(1, 8, 8))
    references = torch.randint(0, 256, (2, 1, 8, 8), generator=rng, dtype=torch.uint8)
    alone, augmented = generator(["a", "b"]), generator(["a", "b"], references)
    assert alone.shape == augmented.shape == (2, 1, 8, 8)
    assert torch.equal(alone[0], alone[1])
    assert not torch.equal(augmented[0], augmented[1])


def test_the_best_image_by_exhaustive_search_is_the_reference_and_the_generator_gets_no_gradient(rng):
    queries, objects = randn(rng, 4, D).requires_grad_(), randn(rng, 30, D)
    pixels = torch.randint(0, 256, (30, 1, 2, 2), generator=rng, dtype=torch.uint8)
    weight = torch.ones((), requires_grad=True)
    calls = []

    def generator(prompts, references):
        calls.append((prompts, references))
        assert not (weight * references.float()).requires_grad
        return references.flip(3)

    found = generate_augmented(generator, ["a", "b", "c", "d"], queries, objects, pixels)
    best = F.cosine_similarity(queries[:, None], objects[None], dim=2).argmax(1)
    assert torch.equal(found.references, best)
    ((prompts, references),) = calls
    assert prompts == ["a", "b", "c", "d"]
    assert torch.equal(references, pixels[best])
    assert torch.equal(found.images, pixels[best].flip(3))


def squares(rng, classes=4, each=6, size=8):
    """Images of one bright quarter each, and a little noise; the class says which."""
    labels = torch.arange(classes).repeat(each)
    pixels = torch.randint(0, 30, (len(labels), 1, size, size), generator=rng, dtype=torch.uint8)
    half = size // 2
    for i, label in enumerate(labels.tolist()):
        top, left = label // 2 * half, label % 2 * half
        pixels[i, 0, top : top + half, left : left + half] += 200
    names = ("north", "east", "south", "west")[:classes]
    return Images(pixels, labels, names, "squares")


def shown_by(images, like):
    """Which class each image is of, by its distance to their means."""
    means = torch.stack([like.pixels[like.labels == k].float().mean(0) for k in range(4)])
    return torch.cdist(images.flatten(1).float(), means.flatten(1)).argmin(1)


@pytest.mark.slow
def test_the_small_generator_draws_what_captions_and_references_say(rng):
    given = squares(rng, each=16)
    torch.manual_seed(0)
    small = SmallGenerator(1)
    small.fit(given.pixels, [given.classes[label] for label in given.labels.tolist()], epochs=8)
    assert not any(p.requires_grad or p.grad is not None for p in small.parameters())
    alone, augmented = small(given.classes), small(given.classes, given.pixels[[1, 1, 3, 3]])
    assert alone.dtype == augmented.dtype == torch.uint8
    assert torch.equal(shown_by(alone, given), torch.arange(4))
    assert torch.equal(shown_by(augmented, given), torch.tensor([1, 1, 3, 3]))
    assert torch.equal(shown_by(small.sketch(bag_of_words(given.classes)) * 127.5 + 127.5, given), torch.arange(4))


def test_a_reference_takes_the_sketch_s_place_beside_it(rng):
    """Of the net's inputs, the first is noisy, the second the sketch, the third the reference or the sketch again."""
    torch.manual_seed(0)
    small, seen = SmallGenerator(3, width=2, steps=2), []
    pixels = torch.randint(0, 256, (8, 3, 9, 7), generator=rng, dtype=torch.uint8)
    small.fit(pixels, ["a", "b"] * 4, epochs=1, batch_size=4)
    small.unet.register_forward_pre_hook(lambda _, got: seen.append(got[0].split(3, 1)))
    small(["a", "b"])
    (_, sketch, shown), _ = seen
    torch.testing.assert_close(sketch, small.sketch(bag_of_words(["a", "b"])))
    assert torch.equal(sketch, shown)
    small(["a", "b"], pixels[:2])
    assert torch.equal(seen[2][1], sketch)
    torch.testing.assert_close(seen[2][2], pixels[:2].float() / 127.5 - 1)
    untrained = SmallGenerator(3, width=2, steps=2)
    untrained.fit(pixels, ["a", "b"] * 4, epochs=0)  # the net, which starts at 0, adds nothing to what is shown
    assert torch.equal(untrained(["a", "b"], pixels[:2]), pixels[:2])


def test_the_regression_predicts_the_mean_image_of_each_caption(rng):
    given = squares(rng, each=16, size=16)
    torch.manual_seed(0)
    small = SmallGenerator(1)
    small.fit(given.pixels, [given.classes[label] for label in given.labels.tolist()], epochs=0)
    means = torch.stack([given.pixels[given.labels == k].float().mean(0) for k in range(4)]) / 127.5 - 1
    torch.testing.assert_close(small.sketch(bag_of_words(given.classes)), means, atol=0.02, rtol=0)
    rows = given.pixels[:5].float().flatten(1) / 127.5 - 1
    torch.testing.assert_close(
        small.features(given.pixels[:5]), rows - (given.pixels.float() / 127.5 - 1).mean(0).flatten()
    )


def test_the_judge_distinguishes_classes_and_passes_over_unlabelled_images(rng):
    given = squares(rng, each=10)
    judge = Judge(given.pixels, given.labels)
    assert judge.share(given.pixels, given.labels) == 1
    assert judge.share(given.pixels, (given.labels + 1) % 4) == 0
    fewer = Judge(given.pixels, given.labels.masked_fill(given.labels == 3, -1))
    assert fewer.share(given.pixels, given.labels) == 0.75
    assert fewer.share(given.pixels, torch.full((40,), -1)) == 0


class Frozen(nn.Flatten):
    """Pixels are the frozen features."""


def started(given, generator=None, **arguments):
    torch.manual_seed(0)
    own = {} if generator is None else {"generator": generator, "frozen": Frozen()}
    method = RealRAG(
        Encoder(64, features=5), len(given), len(given.classes), dim=D, generator_epochs=1, **own, **arguments
    )
    method.start_epoch(given, 0)
    return method


def lookalikes(given, shown):
    """A generator that draws, for the prompts in their order, an image of another class or of the same."""
    return lambda prompts, references: torch.stack(
        [given.pixels[shown[given.classes.index(prompt)]] for prompt in prompts]
    )


def test_the_method_mines_what_its_generator_draws(rng):
    given, calls = squares(rng), []
    draw = lookalikes(given, [1, 5, 3, 7])  # 0 as 1, 1 as itself, 2 and 3 as 3
    method = started(given, lambda prompts, references: calls.append(references) or draw(prompts, references))
    assert method.negatives.tolist() == [1, -1, 3, -1]
    method.start_epoch(given, 1)
    assert calls == [None]
    assert method.known.tolist() == [False, True, False, True]


def test_a_generator_s_images_take_the_shape_of_the_database(rng):
    given = squares(rng)
    large = given.pixels[[1, 1, 3, 3]].repeat_interleave(3, 2).repeat_interleave(3, 3).expand(-1, 3, -1, -1)
    method = started(given, lambda prompts, references: large)
    assert method.draw(given.classes, like=given.pixels).shape == (4, 1, 8, 8)
    assert method.negatives.tolist() == [1, -1, 3, -1]


@pytest.mark.parametrize("reflective", [True, False])
def test_the_method_compares_names_with_images_and_reflective_negatives(reflective, rng):
    given = squares(rng)
    method = started(given, lookalikes(given, [1, 5, 3, 7]), reflective=reflective, temperature=T)
    views = [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    labels = torch.tensor([0, 1, 2, 3, 0, -1])
    queries = method.text(bag_of_words([given.classes[label] for label in labels.tolist()]))[:5]
    positives, negatives = (method.encoder(view)[:5] for view in views)
    absent = (1, 3) if reflective else range(5)
    expected = written_out(*(x.detach().double() for x in (queries, positives, negatives)), labels[:5], absent)
    torch.testing.assert_close(method.loss(views, labels, torch.arange(N)), expected.mean().float())
    torch.testing.assert_close(method.queries(given.classes), method.text(bag_of_words(given.classes)))


def test_a_step_s_second_view_is_one_of_the_reflective_negative(rng):
    given = squares(rng)
    method = started(given, lookalikes(given, [1, 5, 3, 7]))
    method.log = lambda *_, **__: None
    seen = []
    method.loss = lambda views, labels, index: seen.extend(views) or torch.zeros(())
    index = torch.tensor([0, 6, 8])  # of the classes 0, 2 and 0
    method.training_step((given.pixels[index], given.labels[index], index), 0)
    torch.testing.assert_close(seen[0], given.pixels[index].float() / 127.5 - 1)
    torch.testing.assert_close(seen[1], given.pixels[[1, 3, 1]].float() / 127.5 - 1)


def test_known_pairs_are_of_the_classes_that_the_generator_learns_from(rng):
    given = squares(rng)
    for pairs, classes in (("all", 4), ("known", 2)):
        method = started(given, lookalikes(given, [1, 5, 3, 7]), pairs=pairs)
        used = [i for batch in method.batches(torch.arange(24), 8) for i in batch]
        assert len(given.labels[used].unique()) == classes
        assert pairs == "all" or method.known[given.labels[used]].all()


def test_the_small_generator_learns_from_known_classes_alone(rng):
    given = squares(rng)
    torch.manual_seed(0)
    method = RealRAG(Encoder(64, features=5), 24, 4, dim=D, known=0.5)
    seen = []
    method.small.fit = lambda pixels, names, epochs: seen.append((pixels, names, epochs))
    method.start_epoch(given, 0)
    ((pixels, names, epochs),) = seen
    assert epochs == 10
    assert len(pixels) == 12
    assert {given.classes.index(name) for name in names} == {*method.known.nonzero().flatten().tolist()}


@pytest.mark.slow
def test_reflective_negatives_part_the_lookalike(tmp_path, rng):
    """One image is the reflective negative of all other classes: they go farther from it than without it."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8)
    given = Images(pixels, torch.arange(40) // 2 % 20, tuple(f"thing {chr(97 + k)}" for k in range(20)), "noise")
    method_of = {}
    for reflective in (True, False):
        method = started(
            given, lambda prompts, _: given.pixels[1].expand(20, -1, -1, -1), reflective=reflective, lr=0.02
        )
        fit(method, given, epochs=8, batch_size=8, seed=0, folder=tmp_path / str(reflective), device="cpu")
        queries = F.normalize(method.queries(given.classes[1:]), dim=1)
        method_of[reflective] = (queries @ F.normalize(method.encoder(method.view(pixels[1:2])), dim=1).T).mean().item()

    assert method_of[True] < method_of[False] - 0.05


def test_diagnostics_measure_what_is_retrieved_and_generated(rng):
    """With an oracle as the generator: it copies its reference, and alone draws the class before, at last its own."""
    train = squares(rng, classes=2)
    novel = squares(rng)
    novel = Images(novel.pixels[novel.labels > 1], novel.labels[novel.labels > 1] - 2, novel.classes[2:], "squares")
    names = (*train.classes, *novel.classes)
    first = {name: (train if k < 2 else novel).pixels[k % 2] for k, name in enumerate(names)}

    off = [1]

    def generator(prompts, references):
        alone = torch.stack([first[names[names.index(prompt) - off[0]]] for prompt in prompts])
        return alone if references is None else references

    method = started(train, generator)
    method.known[:] = True
    method.negatives.copy_(torch.tensor([-1, 0]))
    where = torch.eye(4)
    method.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())  # the quarters
    method.queries = lambda prompts: where[[names.index(prompt) for prompt in prompts]]
    found = method.diagnostics(train, novel, novel)
    assert found["reflective"] == 0.5
    for name in ("novel", "known"):
        assert found[f"{name} precision"] == found[f"{name} accuracy"] == found[f"{name} gain"] == 1
        assert found[f"{name} without"] == found[f"{name} lookalike"] == 0
    method.queries = lambda prompts: where[[names.index(prompt) - 1 for prompt in prompts]]
    found = method.diagnostics(train, novel, novel)
    for name in ("novel", "known"):
        assert found[f"{name} precision"] == found[f"{name} accuracy"] == found[f"{name} gain"] == 0
        assert found[f"{name} lookalike"] == 1
    off[0] = 0
    method.queries = lambda prompts: where[[names.index(prompt) for prompt in prompts]]
    found = method.diagnostics(train, novel, novel)
    for name in ("novel", "known"):
        assert found[f"{name} precision"] == found[f"{name} without"] == 1
        assert found[f"{name} gain"] == found[f"{name} lookalike"] == 0


class Letters(nn.Module):
    """A text encoder of the shape of a user's: counts of letters, and a linear layer; it keeps what it was asked."""

    features = 5

    def __init__(self):
        super().__init__()
        self.layer, self.asked = nn.Linear(26, 5), []

    def forward(self, texts):
        self.asked.append(list(texts))
        counts = [[text.count(chr(97 + k)) for k in range(26)] for text in texts]
        return self.layer(torch.tensor(counts).float())


def test_a_text_encoder_of_the_user_gets_each_name_once_and_learns(rng):
    given, letters = squares(rng), Letters()
    method = started(given, lookalikes(given, [1, 5, 3, 7]), temperature=T, text_encoder=letters)
    assert "captions" not in method.state_dict()
    views = [torch.randn(N, 1, 8, 8, generator=rng) for _ in range(2)]
    labels = torch.tensor([3, 1, 1, 3, 0, -1])
    value = method.loss(views, labels, torch.arange(N))
    assert letters.asked == [[given.classes[k] for k in (0, 1, 3)]]
    queries = method.text([given.classes[label] for label in labels[:5].tolist()])
    positives, negatives = (method.encoder(view)[:5] for view in views)
    expected = written_out(*(x.detach().double() for x in (queries, positives, negatives)), labels[:5], (0, 1, 2, 3))
    torch.testing.assert_close(value, expected.mean().float())
    value.backward()
    assert letters.layer.weight.grad.abs().max() > 0
    torch.testing.assert_close(method.queries(["north", "a"]), method.text(["north", "a"]))
    assert queries.shape == (5, D)


@pytest.mark.slow
def test_a_text_encoder_is_trained_and_resumed_with_the_rest(tmp_path, rng):
    given = squares(rng, each=4)
    states = []
    for epochs in ((2,), (1, 2)):
        for last in epochs:
            torch.manual_seed(0)
            method = RealRAG(Encoder(64, features=5), 16, 4, dim=D, generator_epochs=1, text_encoder=Letters())
            fit(method, given, epochs=last, batch_size=8, seed=0, folder=tmp_path / str(len(epochs)), device="cpu")
        states.append(method.state_dict())
    assert states[0].keys() == states[1].keys()
    torch.manual_seed(0)
    assert not torch.equal(states[0]["text.0.layer.weight"], Letters().layer.weight)


def test_sentence_encoders_by_name_have_their_own_width(rng, monkeypatch):
    given = squares(rng)

    def encode(texts):
        return torch.tensor([[float(len(text)), 1.0, 0.0] for text in texts])

    monkeypatch.setattr(realrag, "sentence_encoder", {"minilm": encode}.get)
    method = started(given, lookalikes(given, [1, 5, 3, 7]), sentences="minilm")
    assert torch.equal(method.captions, encode(given.classes))
    torch.testing.assert_close(method.queries(["north"]), method.text(encode(["north"])).detach())


def test_the_learnt_temperature_of_the_method_moves_and_is_reported(tmp_path, rng):
    given = squares(rng, each=4)
    found, generator = {}, lookalikes(given, [1, 5, 3, 7])
    for learn in (False, True):
        torch.manual_seed(0)
        method = RealRAG(
            Encoder(64, features=5),
            *(16, 4),
            dim=D,
            generator=lambda prompts, shown: generator(prompts, shown) if shown is None else shown,
            frozen=Frozen(),
            temperature=0.5,
            learn_temperature=learn,
            lr=0.05,
        )
        fit(method, given, epochs=2, batch_size=8, seed=0, folder=tmp_path / str(learn), device="cpu")
        found[learn] = method.diagnostics(given, given, given)
    assert found[True].keys() - found[False].keys() == {"temperature"}
    assert found[True]["temperature"] == pytest.approx(method.objective.temperature.item())
    assert abs(found[True]["temperature"] - 0.5) > 0.01
    groups = [g for g in method.parameter_groups() if any(p is method.objective.log_scale for p in g["params"])]
    assert [g["weight_decay"] for g in groups] == [0.0]


@pytest.mark.usefixtures("plain_shapes")
def test_bad_input_is_refused_by_name():
    loss = RealRAGLoss()
    with pytest.raises(
        InputError, match=r"queries and positives and reflective: expected the same shape, got \[6, 4\]"
    ):
        loss(Q, P, R[:5])
    with pytest.raises(InputError, match="reflective: 24 of 24 numbers are NaN or infinite"):
        loss(Q, P, R * math.nan)
    with pytest.raises(InputError, match="labels: expected one integer for each of the 6 rows"):
        loss(Q, P, R, LABELS[:5])
    with pytest.raises(InputError, match=r"absent: expected one for each of the 6 rows, got \[5\]"):
        loss(Q, P, R, LABELS, torch.zeros(5, dtype=torch.bool))
    with pytest.raises(InputError, match="temperature: expected a number above 0, got 0"):
        RealRAGLoss(0)
    with pytest.raises(InputError, match="temperature: expected a number above 0, got -1"):
        real_rag(Q, P, R, torch.tensor(-1.0))
    wrong = started(squares(seeded(4)), lookalikes(squares(seeded(4)), [1, 5, 3, 7]), text_encoder=Letters())
    wrong.text[0].forward = lambda texts: torch.zeros(len(texts), 4)
    with pytest.raises(InputError, match=r"text_encoder: expected features of shape \[2, 5\], got \[2, 4\]"):
        wrong.queries(["a", "b"])
    with pytest.raises(InputError, match="image_labels: expected one integer for each of the 6 rows"):
        reflective_negatives(Q, P, LABELS, LABELS[:5])
    with pytest.raises(InputError, match="queries: expected one for each of the 2 prompts, got 6"):
        generate_augmented(None, ["a", "b"], Q, P, torch.zeros(6, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(InputError, match="objects: expected one for each of the 5 images, got 6"):
        generate_augmented(None, ["a"], Q[:1], P, torch.zeros(5, 1, 2, 2, dtype=torch.uint8))
    with pytest.raises(InputError, match="augmented: expected a pipeline of diffusers, got str"):
        PipelineGenerator(Tiny(), "a name")
    with pytest.raises(InputError, match="labels: expected integers of at least -1, got -2"):
        loss(Q, P, R, LABELS - 2)
    pixels, names = torch.zeros(8, 1, 4, 4, dtype=torch.uint8), ("a", "b", "c")
    learner = RealRAG(Encoder(64, features=5), 8, 3, pairs="known", known=0.3)
    with pytest.raises(InputError, match=r"known: expected a share with at least 2 of the 3 classes .* got 0\.3"):
        learner.check_data(Images(pixels, torch.arange(8) % 3, names, "noise"), 4)
    for wrong, message in (
        ({"pairs": "some"}, "pairs 'some' is not known"),
        ({"known": 0}, "known: expected a number above 0"),
        ({"generator": Tiny()}, "generator and frozen: expected both of them or neither, got one"),
        ({"generator_epochs": -1}, "generator_epochs: expected a whole number of at least 0"),
        ({"sentences": "word"}, "sentence encoder 'word' is not known; did you mean 'words'"),
        ({"sentences": "minilm", "text_encoder": Letters()}, "sentences: expected it without a text_encoder"),
        ({"text_encoder": nn.Linear(3, 4)}, "text_encoder: expected a module with an attribute `features`"),
        ({"temperature": 0.005, "learn_temperature": True}, "temperature: expected a number of at least 0.01"),
        ({"generator_width": 1}, "generator_width: expected a whole number of at least 2"),
    ):
        with pytest.raises(InputError, match=message):
            RealRAG(Encoder(64, features=5), 24, 4, **wrong)
