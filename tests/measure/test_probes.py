import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from counterpoise.errors import InputError
from counterpoise.measure import (
    few_shot_accuracy,
    knn_accuracy,
    knn_predict,
    linear_probe,
    probe_factors,
    probes,
    stratified_split,
)
from counterpoise.ops.neighbours import ranked_in_parts

digits = load_digits()
ORDER = np.random.default_rng(0).permutation(len(digits.data))
X = torch.from_numpy(digits.data[ORDER]).double()
Y = torch.from_numpy(digits.target[ORDER]).long()
TRAIN, VALID = slice(0, 400), slice(400, 700)


# --- nearest neighbours ---


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 0.5)])
def test_knn_against_scikit_learn(k, temperature):
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    expected = oracle.fit(X[TRAIN], Y[TRAIN]).predict(X[VALID])
    predicted = knn_predict(X[TRAIN], Y[TRAIN], X[VALID], 10, k, temperature)
    assert torch.equal(predicted, torch.from_numpy(expected))
    found = knn_accuracy(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, k, temperature)
    assert found == pytest.approx(np.mean(expected == Y[VALID].numpy()))


def test_knn_vote_worked_by_hand():
    """Cosines 1 (class 0) and twice 0.8 (class 1): e^(1/T) against 2 e^(0.8/T), equal at T = 0.2 / log 2."""
    train, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]]), torch.tensor([0, 1, 1])
    edge = 0.2 / math.log(2)
    for temperature, expected in [(0.9 * edge, 0), (1.1 * edge, 1), (1e-30, 0)]:
        assert knn_predict(train, labels, torch.tensor([[1.0, 0.0]]), 2, 3, temperature).item() == expected


def test_knn_equal_votes_go_to_the_lowest_class():
    train = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    query = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert knn_predict(train, torch.tensor([2, 1]), query, 3, 2).tolist() == [1, 1]
    assert knn_predict(train, torch.tensor([1, 2]), query, 3, 2).tolist() == [1, 1]


def test_knn_shares_the_last_votes_among_rows_that_are_equally_near():
    """Two votes: one of class 2, and one that three rows share, of which two are of class 1."""
    train = torch.tensor([[0.8, 0.6], [1.0, 0.0], [0.8, 0.6], [0.8, 0.6]])
    labels = torch.tensor([0, 2, 1, 1])
    assert knn_predict(train, labels, torch.tensor([[1.0, 0.0]]), 3, 2, temperature=1e6).item() == 2
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        found = ranked_in_parts(torch.tensor([[1.0, 0.0]]), train[order], 2)
        votes = probes.knn_votes(next(found), labels[order], 3, temperature=1e6)
        torch.testing.assert_close(votes, torch.tensor([[1 / 3, 2 / 3, 1.0]], dtype=torch.float64))


def test_knn_of_a_collapsed_encoder_knows_no_class_whatever_the_order_of_rows():
    """With the classes evenly there, it is right as often as random features; else it says the most frequent."""
    labels = torch.arange(8).repeat_interleave(25)
    assert knn_accuracy(torch.ones(200, 600), labels, torch.ones(200, 600), labels, 8) == 1 / 8
    random = [knn_accuracy(torch.randn(200, 9), labels, torch.randn(200, 9), labels, 8) for _ in range(40)]
    assert np.mean(random) == pytest.approx(1 / 8, abs=4 * np.std(random) / 40**0.5)
    uneven = torch.cat([torch.zeros(60), torch.ones(140)]).long()
    assert knn_predict(torch.ones(200, 5), uneven, torch.ones(3, 5), 2).tolist() == [1, 1, 1]


def test_few_shot_of_a_collapsed_encoder_is_right_by_chance():
    labels = torch.arange(8).repeat_interleave(25)
    assert few_shot_accuracy(torch.ones(200, 9), labels, episodes=20)[0] == pytest.approx(1 / 5)


def test_knn_takes_all_where_there_are_fewer_than_k():
    assert torch.equal(
        knn_predict(X[:6], Y[:6], X[VALID], 10, 20),
        knn_predict(X[:6], Y[:6], X[VALID], 10, 6),
    )


def test_knn_leaves_out_the_unlabelled():
    kept = torch.arange(400) % 3 > 0
    masked = Y[TRAIN].where(kept, -1)
    expected = knn_predict(X[TRAIN][kept], Y[TRAIN][kept], X[VALID], 10)
    assert torch.equal(knn_predict(X[TRAIN], masked, X[VALID], 10), expected)
    seen = torch.arange(300) % 2 > 0
    accuracy = knn_accuracy(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID].where(seen, -1), 10)
    assert accuracy == knn_accuracy(X[TRAIN], Y[TRAIN], X[VALID][seen], Y[VALID][seen], 10)


# --- the linear probe ---


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-3])
def test_linear_probe_has_scikit_learns_weights(strength):
    scaler = StandardScaler().fit(X[TRAIN])
    oracle = LogisticRegression(C=1 / (400 * strength), solver="newton-cg", tol=1e-8, max_iter=1000)
    oracle.fit(scaler.transform(X[TRAIN]), Y[TRAIN])
    probe = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (strength,), tolerance=1e-7)
    np.testing.assert_allclose(probe.weight, oracle.coef_, atol=1e-3)
    np.testing.assert_allclose(probe.bias, oracle.intercept_, atol=1e-3)
    assert probe.valid_accuracy == pytest.approx(oracle.score(scaler.transform(X[VALID]), Y[VALID]))
    assert torch.equal(probe.predict(X[VALID]), torch.from_numpy(oracle.predict(scaler.transform(X[VALID]))))


def test_linear_probe_in_float32_says_the_same():
    wide = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (0.01,), tolerance=1e-5)
    narrow = linear_probe(X[TRAIN].float(), Y[TRAIN], X[VALID].float(), Y[VALID], 10, (0.01,), tolerance=1e-5)
    assert narrow.weight.dtype == torch.float32
    torch.testing.assert_close(narrow.weight.double(), wide.weight, atol=3e-3, rtol=0)


def test_linear_probe_takes_the_strength_that_validates_best_and_of_equal_ones_the_strongest():
    strengths = (1e-3, 1e3, 1e-1)
    alone = [linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (s,)) for s in strengths]
    best = max(probe.valid_accuracy for probe in alone)
    expected = max(probe.strength for probe in alone if probe.valid_accuracy == best)
    found = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, strengths)
    assert (found.valid_accuracy, found.strength) == (best, expected)
    assert min(probe.valid_accuracy for probe in alone) < best
    easy = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
    assert linear_probe(easy, Y.new_tensor([0, 0, 1, 1]), easy, Y.new_tensor([0, 0, 1, 1]), 2).strength == 1.0


def test_linear_probe_does_not_see_the_scale_or_offset_of_features():
    scale = 10.0 ** torch.linspace(-8, 8, 64, dtype=torch.float64)
    plain = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (0.01,), tolerance=1e-6)
    moved = linear_probe(X[TRAIN] * scale + 3, Y[TRAIN], X[VALID], Y[VALID], 10, (0.01,), tolerance=1e-6)
    visible = plain.scale * scale > 1e-6  # below, a feature drowns in the offset's rounding
    torch.testing.assert_close(moved.weight[:, visible], plain.weight[:, visible], atol=1e-3, rtol=0)


def test_constant_features_weigh_nothing():
    constant = torch.full((400, 1), 0.1)
    probe = linear_probe(
        torch.cat([X[TRAIN].float(), constant], 1), Y[TRAIN], X[:0, :1].float().repeat(1, 65), Y[:0], 10, (0.01,)
    )
    assert probe.scale[-1] == 1
    assert probe.weight[:, -1].abs().max() < 1e-5


def test_classes_without_training_rows_are_never_predicted():
    few = Y[TRAIN].where(Y[TRAIN] % 2 == 0, -1)
    probe = linear_probe(X[TRAIN], few, X[VALID], Y[VALID], 10, (0.01,))
    assert probe.predict(X).unique().tolist() == [0, 2, 4, 6, 8]
    only = linear_probe(X[:5], torch.full((5,), 3), X[VALID], Y[VALID], 10)
    assert only.predict(X).unique().tolist() == [3]


def test_without_validation_rows_the_middle_strength_is_taken_with_a_warning():
    with pytest.warns(UserWarning, match=r"no labelled validation rows, so its strength is 0\.01, not chosen"):
        probe = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], torch.full((300,), -1), 10, (1.0, 0.01, 0.0001))
    assert (probe.strength, probe.valid_accuracy) == (0.01, None)


def test_linear_probe_ends_near_the_minimum_by_default():
    rough = linear_probe(X[TRAIN].float(), Y[TRAIN], X[VALID].float(), Y[VALID], 10, (1e-3,))
    fine = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (1e-3,), tolerance=1e-7)
    assert (rough.predict(X.float()) == fine.predict(X)).float().mean() > 0.995


def test_linear_probe_warns_only_if_it_did_not_converge():
    with pytest.warns(UserWarning, match=r"not converged at strength 0\.001 in at most 3 iterations"):
        linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (1e-3,), iterations=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_probe(X[TRAIN].float(), Y[TRAIN], X[VALID].float(), Y[VALID], 10, (100.0, 1.0, 1e-2, 1e-4))


def test_linear_probe_works_where_gradients_are_off():
    with torch.no_grad():
        probe = linear_probe(X[TRAIN], Y[TRAIN], X[VALID], Y[VALID], 10, (0.01,))
    assert probe.valid_accuracy > 0.9


# --- splits ---


@pytest.mark.parametrize("share", [0.1, 0.75, 0.99])
def test_stratified_split_keeps_the_share_of_every_class(share):
    labels = Y.where(torch.arange(len(Y)) % 7 > 0, -1)
    first, second = stratified_split(labels, share, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([first, second]).sort().values, (labels >= 0).nonzero().flatten())
    counts, all_counts = labels[first].bincount(minlength=10), labels[labels >= 0].bincount(minlength=10)
    assert ((counts - share * all_counts).abs() <= 0.5).all()


def test_stratified_split_of_small_classes():
    first, second = stratified_split(torch.tensor([0, 1, 1, 2, 2, 2]), 0.99, torch.Generator().manual_seed(0))
    assert 0 in first.tolist()
    assert torch.tensor([0, 1, 1, 2, 2, 2])[second].tolist() == [1, 2]


def test_stratified_split_is_drawn_from_its_generator():
    first, again, other = (stratified_split(Y, 0.5, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- few-shot ---


def test_few_shot_of_features_without_class_is_chance():
    noise = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    mean, half = few_shot_accuracy(noise, torch.arange(1000) % 10, episodes=300)
    assert abs(mean - 0.2) < 3 * half
    assert 0.002 < half < 0.02


def test_few_shot_is_the_exhaustive_mean_where_everything_can_be_counted():
    """Two classes of three directions, one shot, one query: all 36 draws of query, own example and other example."""
    angles = {0: [0.0, 10.0, 65.0], 1: [90.0, 80.0, 25.0]}
    rows = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for c in (0, 1) for a in angles[c]])
    right = [
        abs(angles[c][q] - angles[c][s]) < abs(angles[c][q] - other)
        for c in (0, 1)
        for s in range(3)
        for q in range(3)
        if q != s
        for other in angles[1 - c]
    ]
    lengths = torch.tensor([1.0, 50.0, 0.01, 3.0, 2.0, 7.0])[:, None]
    mean, half = few_shot_accuracy(
        rows * lengths, torch.tensor([0, 0, 0, 1, 1, 1]), shots=1, ways=2, episodes=2000, queries=1
    )
    assert abs(mean - np.mean(right)) < 2 * half


@pytest.mark.slow
def test_few_shot_interval_is_that_of_the_mean_over_episodes():
    """Half widths shrink with the root of the number of episodes, and cover the mean of a long run."""
    truth, _ = few_shot_accuracy(X, Y, shots=1, episodes=2000, seed=99)
    found = [few_shot_accuracy(X, Y, shots=1, episodes=25, seed=seed) for seed in range(40)]
    held = sum(abs(mean - truth) <= half for mean, half in found)
    assert held >= stats.binom.ppf(0.001, 40, 0.95)
    wide, narrow = (few_shot_accuracy(X, Y, shots=1, episodes=n)[1] for n in (50, 800))
    assert wide / narrow == pytest.approx(4, rel=0.3)


def test_few_shot_is_decided_by_its_seed():
    assert few_shot_accuracy(X, Y, episodes=20, seed=1) == few_shot_accuracy(X, Y, episodes=20, seed=1)
    assert few_shot_accuracy(X, Y, episodes=20, seed=1) != few_shot_accuracy(X, Y, episodes=20, seed=2)


def test_few_shot_leaves_out_small_classes_and_the_unlabelled():
    """Class 2 has 3 rows, too few: with it in, a draw would fail; the unlabelled rows would ruin the classes."""
    good = torch.eye(2).repeat(10, 1)
    features = torch.cat([good, torch.ones(3, 2), -torch.ones(50, 2)])
    labels = torch.cat([torch.arange(20) % 2, torch.full((3,), 2), torch.full((50,), -1)])
    assert few_shot_accuracy(features, labels, shots=2, ways=2, episodes=20, queries=3) == (1.0, 0.0)


# --- bad input ---


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: knn_predict(X, Y, X, 10, k=0), "k: expected a whole number of at least 1, got 0"),
        (lambda: knn_predict(X, Y, X, 10, temperature=0), "temperature: expected a number above 0, got 0"),
        (lambda: knn_predict(X, Y, X, 9), "train_labels: expected integers from -1 to 8, got 9"),
        (lambda: knn_predict(X[:2], Y[:2] * 0 - 1, X, 9), "train_labels: no row is labelled, so there is none to vote"),
        (lambda: knn_predict(X, Y, X[:, :5], 10), "features: expected 64 columns as in training, got 5"),
        (lambda: knn_predict(X.log().log(), Y, X, 10), r"train_features: \d+ of \d+ numbers are NaN"),
        (lambda: knn_accuracy(X, Y, X, Y[:3], 10), "labels: expected one integer for each of the 1797 rows"),
        (lambda: knn_accuracy(X, Y, X[:2], Y[:2] * 0 - 1, 10), "labels: none of the 0 rows is labelled"),
        (lambda: linear_probe(X, Y, X, Y, 10, ()), "strengths: expected at least one number, got none"),
        (lambda: linear_probe(X, Y, X, Y, 10, (1.0, 0.0)), "strengths: expected a number above 0, got 0"),
        (lambda: linear_probe(X, Y, X, Y, 10, tolerance=0), "tolerance: expected a number above 0, got 0"),
        (lambda: linear_probe(X, Y, X[:, 1:], Y, 10), "features: expected 64 columns as in training, got 63"),
        (lambda: linear_probe(X, Y, X, Y + 1, 10), "valid_labels: expected integers from -1 to 9, got 10"),
        (lambda: linear_probe(X, Y * 0 - 1, X, Y, 10), "train_labels: no row is labelled, so there is nothing to fit"),
        (lambda: linear_probe(X[:9], Y[:9], X, Y, 10, (1.0,)).predict(X[:, 1:]), "features: expected 64 columns"),
        (lambda: stratified_split(Y, 1.0, torch.Generator()), "share: expected a number above 0 and below 1, got 1"),
        (lambda: few_shot_accuracy(X, Y, shots=170), "labels: 0 classes have at least 185 rows"),
        (lambda: few_shot_accuracy(X, Y, ways=11), "labels: 10 classes have at least 20 rows .* too few for 11 ways"),
        (lambda: few_shot_accuracy(X, Y, ways=1), "ways: expected a whole number of at least 2, got 1"),
        (lambda: few_shot_accuracy(X, Y, episodes=1), "episodes: expected a whole number of at least 2, got 1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- factors ---


def of_factors(**factors: list[int]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in factors.items()}


def test_each_factor_is_read_by_a_probe_of_its_own():
    x = torch.tensor([[0.0, 0.0], [0.1, 5.0], [9.0, 0.1], [9.1, 5.1]] * 3)
    first, second = [0, 0, 1, 1] * 3, [0, 2, 0, 2] * 3
    factors = of_factors(first=first, second=second)
    assert probe_factors(x, factors, x, factors) == {"first": 1.0, "second": 1.0}
    wrong = of_factors(first=first, second=[2, 0, 2, 0] * 3)
    assert probe_factors(x, factors, x, wrong) == {"first": 1.0, "second": 0.0}


@pytest.mark.parametrize(
    ("learnt", "judged"),
    [
        ([1] * 8, [0, 1] * 4),
        ([0, 1] * 4, [1] * 8),
        ([0, 1] * 4, [0, -1] * 4),
        ([-1] * 8, [-1] * 8),
        ([0, 1] * 4, [2, 3] * 4),
        ([2, 3, -1, 2] * 2, [0, 1, -1, 0] * 2),
    ],
)
def test_a_factor_that_no_probe_can_read_is_left_out(learnt, judged):
    x = torch.arange(8.0)[:, None]
    also = [0, 0, 0, 0, 1, 1, 1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe_factors(x, of_factors(odd=learnt), x, of_factors(odd=judged)) == {}
    found = probe_factors(x, of_factors(odd=learnt, large=also), x, of_factors(odd=judged, large=also))
    assert found == {"large": 1.0}


def test_values_that_the_probe_has_not_seen_count_as_wrong_beside_those_that_it_has():
    x = torch.tensor([[0.0], [0.1], [5.0], [5.1]] * 3)
    found = probe_factors(x, of_factors(step=[0, 0, 1, 1] * 3), x, of_factors(step=[0, 2, 1, 2] * 3))
    assert found == {"step": 0.5}
