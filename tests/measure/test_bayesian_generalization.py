import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import nn

from counterpoise.errors import InputError
from counterpoise.measure import bayesian_generalization as paper
from counterpoise.measure.bayesian_generalization import (
    by_concept,
    complexity_grid,
    concept_activations,
    description_length,
    generalise,
    hypothesis_posterior,
    importance,
    masked_accuracy,
    parabola,
    pool,
    pool_images,
    pooled_complexity,
    quadruple_importance,
    representativeness,
    subjective_complexity,
    visual_complexity,
)

MAPS = torch.randn(24, 6, 3, 4, generator=torch.Generator().manual_seed(0)).relu()
LABELS = torch.arange(24) % 3
POOLED = pool(MAPS)
M = concept_activations(POOLED.peak, LABELS, 3)
HEAD = nn.Linear(6, 3)
CURVES = torch.tensor([[0.2, 0.5, 0.85, 0.8], [1.0, 0.3, 0.9, 0.5], [0.6, 0.6, 0.6, 0.6]])
BOARD = (torch.arange(20)[:, None] + torch.arange(20)) % 2 * 255


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


# Attributes


def test_peak_and_mean_of_each_channel():
    assert torch.equal(POOLED.peak, MAPS.flatten(2).max(2).values)
    torch.testing.assert_close(POOLED.mean, MAPS.flatten(2).mean(2))


def test_a_network_gives_what_its_maps_give_and_stays_in_its_mode():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before = network[1].running_mean.clone()
    found = pool_images(network, images, batch_size=3)
    assert network.training
    assert torch.equal(network[1].running_mean, before)
    torch.testing.assert_close(found, pool(network.eval()(images).detach()))
    assert not found.peak.requires_grad


def test_an_embedding_is_the_mean_of_the_first_labelled_images():
    labels = LABELS.clone()
    labels[0] = -1
    expected = POOLED.peak[[3, 6]].double().mean(0)
    torch.testing.assert_close(concept_activations(POOLED.peak, labels, 3, most=2)[0], expected)
    torch.testing.assert_close(M[1], POOLED.peak[1::3].double().mean(0))


# Representativeness


def test_roa_worked_by_hand():
    """Concept 0 has activations 1 and 3, concept 1 has 1 and 1: P(c|a) is 1/2, 3/4 and 1/2, 1/4."""
    found = representativeness(doubles([1, 3], [1, 1]))
    torch.testing.assert_close(found.attributes, doubles([1 / 4, 3 / 4], [1 / 2, 1 / 2]))
    torch.testing.assert_close(found.concepts, doubles([1 / 2, 3 / 4], [1 / 2, 1 / 4]))
    torch.testing.assert_close(found.roa, doubles([1 / 2, 3], [1, 2 / 3]))
    torch.testing.assert_close(found.maximum, doubles(3, 1))
    torch.testing.assert_close(found.mean, doubles(7 / 4, 5 / 6))
    torch.testing.assert_close(found.variance, doubles(25 / 8, 1 / 18))
    torch.testing.assert_close(found.entropy, doubles(math.log(2) / 2 - 3 * math.log(3), math.log(3 / 2) * 2 / 3))
    torch.testing.assert_close(found.attribute_entropy[1], torch.tensor(math.log(2), dtype=torch.float64))


def test_the_denominator_is_the_sum_over_the_other_concepts():
    found = representativeness(M)
    for concept in range(3):
        others = found.concepts[[c for c in range(3) if c != concept]].sum(0)
        torch.testing.assert_close(found.roa[concept], found.attributes[concept] / others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_concepts_of_disjoint_attributes(dtype):
    found = representativeness(torch.tensor([[0.01, 3, 0, 0], [0, 0, 2, 0.7]], dtype=dtype))
    own = torch.tensor([[True, True, False, False], [False, False, True, True]])
    assert torch.equal(found.concepts, own.double())
    assert (found.roa[own] > 1e9).all()
    assert (found.roa[own] == found.attributes[own] / 1e-12).all()
    assert (found.roa[~own] == 0).all()


def test_equal_concepts():
    found = representativeness(M[:1].expand(4, -1))
    assert torch.allclose(1 - found.concepts, torch.tensor(3 / 4, dtype=torch.float64))
    torch.testing.assert_close(found.roa, found.attributes * 4 / 3)
    assert torch.equal(found.roa.argsort(1), found.attributes.argsort(1))


def test_scales():
    """A common scale changes nothing; that of one concept acts through P(c | a) alone."""
    plain, scaled = representativeness(M), representativeness(1e-3 * M)
    torch.testing.assert_close(scaled.roa, plain.roa)
    one = M.clone()
    one[1] *= 5
    found = representativeness(one)
    torch.testing.assert_close(found.attributes, plain.attributes)
    torch.testing.assert_close(found.roa[1], plain.attributes[1] / (1 - one[1] / one.sum(0)))


def test_dead_attributes_and_dead_concepts_give_numbers():
    found = representativeness(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]))
    for value in (found.roa, found.maximum, found.mean, found.variance, found.entropy, found.attribute_entropy):
        assert value.isfinite().all()
    assert (found.roa[:, 1] == 0).all()
    assert (found.roa[1] == 0).all()
    assert representativeness(torch.ones(2, 1)).variance.tolist() == [0, 0]


def test_importance_worked_by_hand():
    found = importance(torch.tensor([0.0, math.log(3), math.log(2)]))
    torch.testing.assert_close(found.relatedness, doubles(1, 3, 2) / 6)
    torch.testing.assert_close(found.analogy, doubles(6, 2, 3) / 11)
    for weights in importance(representativeness(M).attribute_entropy):
        assert weights.sum().item() == pytest.approx(1)
    for weights in importance(torch.full((4,), 2.5)):
        torch.testing.assert_close(weights, doubles(*[0.25] * 4))


def test_importance_of_three_concepts_beside_a_novel_one():
    weights = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    found = quadruple_importance(weights, torch.tensor([[0, 1, 2], [1, 2, 3]]))
    assert found.tolist() == pytest.approx([0.0015 / 0.85, 0.00225 / 0.9])
    first = quadruple_importance(weights, torch.tensor([[4, 1, 2]]), novel=0)
    assert first.item() == pytest.approx(0.0015 / 0.85)


# Subjective complexity


def plain_masked_accuracy(maps, labels, head, scores):
    """As the definition says: zero the maps' channels, pool them, ask the head."""
    found = torch.zeros(scores.shape, dtype=torch.float64)
    for concept, best in enumerate(scores.argsort(dim=1, descending=True, stable=True)):
        mine = maps[labels == concept]
        for k in range(1, len(best) + 1):
            mask = torch.zeros(len(best)).index_fill(0, best[:k], 1)
            logits = head((mine * mask[:, None, None]).mean((2, 3)))
            found[concept, k - 1] = (logits.argmax(1) == concept).double().mean()
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_masking_is_what_the_definition_says(bias, monkeypatch):
    torch.manual_seed(0)
    head, roa = nn.Linear(6, 5, bias=bias), representativeness(M).roa
    expected = plain_masked_accuracy(MAPS, LABELS, head, roa)
    assert 0 < expected.mean() < 1
    assert torch.equal(masked_accuracy(POOLED.mean, LABELS, head, roa), expected)
    monkeypatch.setattr(paper, "TILE", 1)
    assert torch.equal(masked_accuracy(POOLED.mean, LABELS, head, roa), expected)


def test_all_attributes_are_no_mask():
    right = HEAD(POOLED.mean).argmax(1) == LABELS
    expected = torch.stack([right[c::3].double().mean() for c in range(3)])
    for scores in (M, -M):
        torch.testing.assert_close(masked_accuracy(POOLED.mean, LABELS, HEAD, scores)[:, -1], expected)


def test_high_scores_come_first_and_equal_ones_in_order():
    head = nn.Linear(3, 2, bias=False)
    head.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    features, labels = torch.ones(2, 3), torch.tensor([0, 1])
    scores = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    assert masked_accuracy(features, labels, head, scores)[0].tolist() == [1, 1, 1]
    assert masked_accuracy(features, labels, head, scores)[1, 1] == 1
    assert masked_accuracy(features, labels, head, -scores)[1].tolist() == [0, 0, 0]


def test_the_shortest_description():
    assert description_length(CURVES, 0.7).tolist() == [3, 1, 4]
    assert description_length(CURVES, 0.0).tolist() == [1, 1, 1]
    assert description_length(CURVES, 0.6).tolist() == [3, 1, 1]


def test_subjective_complexity_worked_by_hand():
    """Losses are .6, .3, -.05; -.5, .2, -.4; and 0, 0, 0."""
    found = subjective_complexity(CURVES.double(), reject=0.45, converge=0.1)
    torch.testing.assert_close(found.concepts, doubles(0.9, 0.2, 0))
    assert found.valid.tolist() == [True, False, True]
    assert found.validity == pytest.approx(2 / 3)
    assert found.log == pytest.approx(math.log(0.9 / 2))
    wide = subjective_complexity(CURVES, reject=0.6, converge=0.25)
    assert wide.valid.all()
    assert wide.log == pytest.approx(math.log(0.9 / 3))


def test_the_loss_of_rejected_concepts_counts_where_it_is_asked_for():
    curves = doubles([0.2, 0.5, 1.0, 0.1, 0.5], [0.4, 0.9, 0.9, 0.9, 0.9])
    assert subjective_complexity(curves, reject=0.4).log == pytest.approx(math.log(0.5))
    assert subjective_complexity(curves, reject=0.4, rejected=True).log == pytest.approx(math.log(0.5 + 0.3))


def test_no_loss_and_no_valid_concept():
    assert subjective_complexity(torch.ones(2, 3)).log == -math.inf
    none = subjective_complexity(doubles([1.0, 0.2]))
    assert none.log is None
    assert none.validity == 0
    assert pooled_complexity(doubles([1.0, 0.2])) is None
    assert pooled_complexity(torch.ones(2, 3)) is None


@pytest.mark.slow
def test_the_mean_over_the_authors_grid():
    """Losses .125 and .5: the first counts for 22 of the 36 values of t, the second for all."""
    found = pooled_complexity(doubles([0.375, 0.0, 0.5]))
    assert found == pytest.approx((22 * math.log(0.625) + 14 * math.log(0.5)) / 36)
    grid = [subjective_complexity(CURVES, r, t).log for r in paper.REJECT for t in paper.CONVERGE]
    assert pooled_complexity(CURVES) == pytest.approx(np.mean(grid))
    assert (len(paper.REJECT), len(paper.CONVERGE)) == (80, 36)
    assert (paper.REJECT[0], paper.REJECT[-1], paper.CONVERGE[0], paper.CONVERGE[-1]) == (0.205, 0.6, 0.02, 0.195)


def test_rejected_concepts_count_in_the_grid_as_in_a_single_pair():
    """Of the second concept's losses, -.1, -.45 and .3, the last counts only where -.45 does not reject it."""
    curves = doubles([0.375, 0.0, 0.5, 0.5], [0.6, 0.95, 0.2, 0.5])
    grids = complexity_grid(curves), complexity_grid(curves, rejected=True)
    for i in range(0, 80, 7):
        for j in range(0, 36, 5):
            for grid, rejected in zip(grids, (False, True), strict=True):
                one = subjective_complexity(curves, paper.REJECT[i], paper.CONVERGE[j], rejected)
                assert grid.log[i, j].item() == pytest.approx(one.log)
                assert grid.validity[i].item() == one.validity
    assert torch.equal(grids[0].log, grids[1].log)  # it loses nothing before it is rejected
    curves[1, :2] = doubles(0.3, 0.95)
    without, found = complexity_grid(curves), complexity_grid(curves, rejected=True)
    few = torch.tensor(paper.REJECT) < 0.45
    torch.testing.assert_close(found.log[few].exp(), without.log[few].exp() + 0.2)
    assert torch.equal(found.log[~few], without.log[~few])
    assert pooled_complexity(curves, rejected=True) == pytest.approx(found.log.mean().item())
    assert pooled_complexity(curves, rejected=True) > pooled_complexity(curves)


def test_the_grid_of_concepts_that_are_all_rejected_and_of_none_that_loses():
    rejected = complexity_grid(doubles([0.3, 1.0, 0.2]), rejected=True)
    assert rejected.log.isnan().all()
    assert (rejected.validity == 0).all()
    assert pooled_complexity(doubles([0.3, 1.0, 0.2]), rejected=True) is None
    level = complexity_grid(torch.ones(2, 3))
    assert (level.log == -math.inf).all()
    assert (level.validity == 1).all()


# Visual complexity


def test_visual_complexity_against_joint_entropy_by_hand():
    """I(X; X) of the pairs, as numbers of their own, is their entropy."""
    image = torch.randint(0, 5, (9, 7), generator=torch.Generator().manual_seed(2)).numpy()
    framed = np.pad(image - image.min(), 1)
    pairs = []
    for i in range(9):
        for j in range(7):
            patch = framed[i : i + 3, j : j + 3]
            pairs.append(100 * int(patch[1, 1]) + int(patch.sum() - patch[1, 1]))
    expected = mutual_info_score(pairs, pairs) / math.log(2)
    found = visual_complexity(torch.tensor(image, dtype=torch.uint8)[None, None], size=None)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [None, 30])
def test_visual_complexity_of_a_constant_image(size):
    image = torch.full((1, 3, 4, 4), 9, dtype=torch.uint8)
    assert visual_complexity(image, size).item() == 0
    if size is None:
        padded = -16 / 36 * math.log2(16 / 36)
        assert visual_complexity(image, size, "padded").item() == pytest.approx(padded)


def test_visual_complexity_does_not_depend_on_flips_nor_on_a_common_offset():
    generator = torch.Generator().manual_seed(3)
    image = torch.randint(0, 50, (2, 3, 8, 8), generator=generator, dtype=torch.uint8)
    plain = visual_complexity(image, None)
    torch.testing.assert_close(visual_complexity(image.flip(2), None), plain)
    torch.testing.assert_close(visual_complexity(image.flip(3), None), plain)
    torch.testing.assert_close(visual_complexity(image + 100, None), plain)
    torch.testing.assert_close(visual_complexity(image.float() / 255, None), plain)
    assert (plain <= 6).all()


def test_the_frame_has_the_lowest_value_of_all_channels():
    """A constant channel above another one sees a darker frame: corners, edges and the inside differ."""
    image = torch.stack([torch.zeros(5, 5), torch.full((5, 5), 8.0)]).to(torch.uint8)[None]
    expected = -sum(n / 25 * math.log2(n / 25) for n in (4, 12, 9)) / 2
    assert visual_complexity(image, None).item() == pytest.approx(expected)


def test_a_chequered_board_has_two_pairs_inside():
    inside = 18 * 18 / 2
    found = visual_complexity(BOARD[None, None].to(torch.uint8), None).item()
    expected = -sum(n / 400 * math.log2(n / 400) for n in (inside, inside, 36, 36, 2, 2))
    assert found == pytest.approx(expected)


def test_images_are_brought_to_a_size():
    generator = torch.Generator().manual_seed(4)
    image = torch.randint(0, 255, (1, 1, 20, 20), generator=generator, dtype=torch.uint8)
    larger = torch.nn.functional.interpolate(image.float(), (31, 31), mode="bilinear").round().to(torch.uint8)
    assert visual_complexity(image, 31).item() == pytest.approx(visual_complexity(larger, None).item())
    assert visual_complexity(image).item() <= 2 * math.log2(224)


def test_by_concept():
    found = by_concept(torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([1, 0, 1, -1]), 2)
    assert found.mean.tolist() == [2, 2]
    assert found.variance.tolist() == [0, 1]


def test_a_parabola_is_found_again():
    x = doubles(0.5, 1, 2, 3.5)
    found = parabola(x, -2 * x**2 + 6 * x + 1)
    assert found == pytest.approx((-2, 4, -8, 1.5))
    assert found.inverted_u
    assert not parabola(x, x**2 - 3 * x).inverted_u
    assert not parabola(x, -(x**2)).inverted_u
    assert not parabola(x, 9 * x - x**2).inverted_u


# Generalisation


def test_posterior_worked_by_hand():
    inside = torch.tensor([[True, True, True], [True, True, False]])
    found = hypothesis_posterior(inside, torch.tensor([2, 4, 9]), torch.tensor([0.2, 0.8, 5.0]))
    torch.testing.assert_close(found, doubles(0.2 / 4, 0.8 / 16, 0) / (0.1))


def test_size_principle():
    """The smaller of two sets that hold all examples gains with each of them."""
    shares = []
    for n in (1, 2, 4, 40):
        posterior = hypothesis_posterior(torch.ones(n, 2, dtype=torch.bool), torch.tensor([10, 20]), torch.ones(2))
        assert posterior.sum().item() == pytest.approx(1)
        shares.append(posterior[0].item())
    assert shares == pytest.approx([2 / 3, 4 / 5, 16 / 17, 1])


def test_no_hypothesis_holds_all_examples():
    found = hypothesis_posterior(torch.eye(2, dtype=torch.bool), torch.tensor([1, 1]), torch.ones(2))
    assert found.tolist() == [0, 0]
    assert hypothesis_posterior(torch.ones(1, 2, dtype=torch.bool), torch.ones(2, dtype=int), torch.zeros(2)).sum() == 0


PEAKS = torch.tensor([[2.0, 2, 2]] * 4 + [[0.0, 2, 2]] * 4 + [[0.0, 0, 2]] * 4 + [[0.0, 0, 0]] * 4)
KNOWN = torch.tensor([[0.1, 0.1, 0.1]])


def test_one_example_gives_graded_generalisation_many_give_all_or_none():
    """Nested sets of 4, 8 and 12 items: likelihoods in the ratio of 1/4^n, 1/8^n and 1/12^n."""
    one = generalise(PEAKS, torch.tensor([0]), KNOWN)
    assert one.similarity[::4].tolist() == pytest.approx([1, 5 / 11, 2 / 11, 0])
    four = generalise(PEAKS, torch.arange(4), KNOWN)
    assert four.similarity[4].item() == pytest.approx((1 / 16 + 1 / 81) / (1 + 1 / 16 + 1 / 81))
    assert four.similarity[4] < 0.1 < one.similarity[4]


def test_the_rule_is_a_conjunction_of_the_most_probable_attributes():
    for length, size in ((1, 4), (2, 4), (9, 4)):
        assert generalise(PEAKS, torch.tensor([0]), KNOWN, length).rule.sum() == size
    later = generalise(PEAKS, torch.tensor([0, 5]), KNOWN, length=1)
    assert later.posterior.argmax() == 1
    assert later.posterior[0] == 0
    assert later.rule.tolist() == [True] * 8 + [False] * 8


def test_where_no_attribute_holds_of_all_examples_nothing_is_in():
    found = generalise(PEAKS, torch.tensor([0, 15]), KNOWN)
    assert not found.rule.any()
    assert (found.similarity == 0).all()


def test_the_prior_is_the_roa_of_the_examples_beside_the_known_concepts():
    """Of two sets of one size, the one whose attribute the known concepts have less is the more probable."""
    peaks = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    known = torch.tensor([[1.0, 3.0]])
    found = generalise(peaks, torch.tensor([0]), known, length=1)
    roa = doubles(0.5 / (1 - 1 / 2), 0.5 / (1 - 1 / 4))
    torch.testing.assert_close(found.posterior, roa / roa.sum())
    assert found.rule.tolist() == [True, True, False, False]


def test_an_item_has_an_attribute_from_above_the_mean_peak():
    """Means of 4 and 3.7, medians of 5 and 4.5."""
    peaks = torch.tensor([[5.0, 9.0], [5.0, 5.0], [5.0, 4.5], [5.0, 0.0], [0.0, 0.0]])
    known = torch.tensor([[1.0, 1.0]])
    assert generalise(peaks, torch.tensor([0]), known, length=2).rule.tolist() == [True] * 3 + [False] * 2


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool(MAPS[0]), r"maps: expected \[images, channels, height, width\], got shape \[6, 3, 4\]"),
        (lambda: pool(MAPS.log()), "maps: .* are NaN or infinite"),
        (lambda: pool_images(nn.Identity(), MAPS[:0]), "is empty"),
        (lambda: concept_activations(POOLED.peak, LABELS, 4), "labels: concept 3 of 4 has no image"),
        (lambda: concept_activations(POOLED.peak, LABELS, 2), "labels: expected integers from -1 to 1, got 2"),
        (lambda: concept_activations(POOLED.peak - 1, LABELS, 3), "peaks: expected activations of at least 0"),
        (lambda: concept_activations(POOLED.peak, LABELS, 3, most=0), "most: expected a whole number of at least 1"),
        (lambda: representativeness(M[:1]), "activations: expected at least 2 rows, got 1"),
        (lambda: representativeness(-M), "activations: expected activations of at least 0"),
        (lambda: representativeness(M / 0), "activations: .* are NaN or infinite"),
        (lambda: importance(M), r"entropy: expected a vector with at least one number, got shape \[3, 6\]"),
        (lambda: quadruple_importance(M[0], torch.tensor([[0, 1, 6]])), "triples: expected integers from 0 to 5"),
        (
            lambda: quadruple_importance(M[0], torch.tensor([[0, 1, 2]]), 6),
            "novel: expected a whole number",
        ),
        (
            lambda: masked_accuracy(POOLED.mean, LABELS, HEAD, M[:, :4]),
            "features, head and scores: expected as many attributes, got 6, 6 and 4",
        ),
        (
            lambda: masked_accuracy(POOLED.mean, LABELS, nn.Linear(6, 2), M),
            "head: expected an output for each of the 3 concepts, got 2",
        ),
        (lambda: masked_accuracy(POOLED.mean, LABELS * 0, HEAD, M), "labels: concept 1 of 3 has no image"),
        (lambda: description_length(CURVES, 1.5), "threshold: expected a number of at least 0 and of at most 1"),
        (lambda: subjective_complexity(CURVES[:, :1]), "accuracy: expected at least 2 attributes, got 1"),
        (lambda: subjective_complexity(CURVES, reject=-1), "reject: expected a number of at least 0"),
        (lambda: subjective_complexity(CURVES, converge=-1), "converge: expected a number of at least 0"),
        (lambda: visual_complexity(MAPS[0]), "images: expected .*, got shape"),
        (lambda: visual_complexity(torch.full((1, 1, 2, 2), 2.0)), "images: expected values from 0 to 1, got 2 to 2"),
        (lambda: visual_complexity(MAPS / 9, size=0), "size: expected a whole number of at least 1"),
        (lambda: visual_complexity(MAPS / 9, None, "pad"), "normalisation 'pad' is not known; did you mean 'padded'"),
        (lambda: by_concept(M[0], LABELS[:6], 4), "labels: concept 3 of 4 has no image"),
        (lambda: parabola(doubles(1, 1, 2), doubles(1, 2, 3)), "x and y: expected as many, of at least 3 different x"),
        (lambda: parabola(doubles(1, 2, 3), doubles(1, 2)), "x and y: expected as many"),
        (lambda: parabola(doubles(1, 2, 3), doubles(1, 2, -math.inf)), "y: 1 of 3 numbers are NaN or infinite"),
        (
            lambda: hypothesis_posterior(torch.ones(0, 2).bool(), torch.tensor([1, 1]), torch.ones(2)),
            r"inside: expected booleans \[examples, hypotheses\]",
        ),
        (
            lambda: hypothesis_posterior(torch.ones(1, 2).bool(), torch.tensor([1, 1]), -torch.ones(2)),
            "prior: expected a number of at least 0 for each of the 2 hypotheses",
        ),
        (
            lambda: hypothesis_posterior(torch.ones(1, 2).bool(), torch.tensor([1, 0]), torch.ones(2)),
            "sizes: expected at least 1 where an example is inside",
        ),
        (lambda: generalise(PEAKS, torch.tensor([16]), KNOWN), "examples: expected integers from 0 to 15, got 16"),
        (lambda: generalise(PEAKS, LABELS[:0], KNOWN), "examples: expected at least one, got none"),
        (lambda: generalise(PEAKS, torch.tensor([0]), M), r"known: expected a matrix \[concepts, 3\], got shape"),
        (lambda: generalise(PEAKS, torch.tensor([0]), KNOWN, 0), "length: expected a whole number of at least 1"),
        (lambda: generalise(-PEAKS, torch.tensor([0]), KNOWN), "peaks: expected activations of at least 0"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()
