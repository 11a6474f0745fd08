"""Imperfections: exact figures, their limits, what they leave alone, and what they refuse."""

import hashlib
import math
from itertools import chain

import pytest
import torch

from counterpoise.data.images import Images, Splits
from counterpoise.data.imperfect import (
    CONTRADICTIONS,
    IMPERFECTIONS,
    asymmetric_label_noise,
    blur,
    fewer,
    label_noise,
    label_noise_by_size,
    linear_tail,
    long_tail,
    make_imperfect,
    make_imperfect_with_truth,
    noise,
    parse_spec,
    random_tail,
    rotation,
    tint,
    unknown_classes,
    unlabelled,
)
from counterpoise.data.openset import labelled
from counterpoise.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = ("a", "b", "c", "d", "e")


def part(count: int = 1000, channels: int = 1) -> Images:
    pixels = torch.randint(0, 256, (count, channels, 9, 9), generator=GENERATOR, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 5, CLASSES, "toy", notes=("made for tests",))


SPLITS = Splits(part(), part(200))
SPECS = [
    "long-tail=10",
    "random-tail=10",
    "linear-tail=10",
    "fewer=0.5",
    "label-noise=0.4",
    "label-noise-asymmetric=0.4",
    "unlabelled=0.9",
    "label-noise-by-size=0.4",
    "labelled=0.3",
    "unknown=2",
    "rotation=30",
    "tint=0.5",
    "blur=1.0",
    "noise=0.1",
]
OF_BOTH = [
    ["missing=2"],
    ["outsiders=0.4", "unlabelled=0.9"],
    ["known=0.5"],
    ["new-classes=2"],
    ["steps=2"],
    ["steps=3", "first-step=2"],
    ["domain-steps=2"],
    ["clients=3"],
    ["clients=3", "client-skew=0.5"],
    ["clients=3", "client-tint=1"],
    ["clients=3", "client-noise=0.3"],
    ["forget=0.2"],
    ["forget-class=2"],
    ["forget-class=2", "forget=0.2"],
]
DOMAINS = ("sketch", "photo", "clipart")
OF_DOMAINS = Splits(*(x.with_factor("domain", torch.arange(len(x)) // 7 % 3, DOMAINS) for x in SPLITS))


def same(one: Images, other: Images) -> bool:
    return torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


def test_every_imperfection_is_tried_here():
    assert {parse_spec(spec)[1] for spec in (*SPECS, *chain.from_iterable(OF_BOTH))} == set(IMPERFECTIONS)


@pytest.mark.parametrize("spec", SPECS)
def test_the_seed_decides_and_the_other_split_stays(spec):
    one, again, other = (make_imperfect(SPLITS, [spec], seed) for seed in (0, 0, 1))
    split, name, _ = parse_spec(spec)
    assert all(map(same, one, again))
    assert not same(getattr(one, split), getattr(SPLITS, split))
    if name not in ("blur",):
        assert not same(getattr(one, split), getattr(other, split))
    rest = "test" if split == "train" else "train"
    untouched = getattr(SPLITS, rest).with_channels(3 if name == "tint" else 1)
    assert same(getattr(one, rest), untouched)
    assert getattr(one, rest).notes == ("made for tests",)
    notes = getattr(one, split).notes
    assert notes[0] == "made for tests"
    assert notes[1].startswith(f"{split}: ")


@pytest.mark.parametrize("spec", SPECS)
def test_the_data_given_is_left_as_it_is(spec):
    pixels = [images.pixels.clone() for images in SPLITS]
    labels = [images.labels.clone() for images in SPLITS]
    make_imperfect(SPLITS, [spec], 0)
    assert all(torch.equal(before, images.pixels) for before, images in zip(pixels, SPLITS, strict=True))
    assert all(torch.equal(before, images.labels) for before, images in zip(labels, SPLITS, strict=True))


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        ("long-tail=10", "0e79df853e8b0b17"),
        ("random-tail=10", "b32b38b2d5172f4e"),
        ("linear-tail=10", "55cfd369cd9daf91"),
        ("fewer=0.5", "b4253f521628e8be"),
        ("label-noise=0.4", "1eeea146f980fd51"),
        ("label-noise-asymmetric=0.4", "1211dba15af48470"),
        ("unlabelled=0.9", "1dba653972ae44c7"),
        ("unknown=2", "eb97bca509a6f352"),
    ],
)
def test_what_was_drawn_in_earlier_versions_is_drawn_still(spec, digest):
    """Recorded results stand on these draws."""
    images = Images(torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1), torch.arange(200) % 5, CLASSES, "toy")
    made = make_imperfect(Splits(images, images), [spec], 3).train
    kept = torch.cat([made.pixels.flatten().long(), made.labels])
    assert hashlib.sha256(kept.numpy().tobytes()).hexdigest()[:16] == digest


def same_factors(one: Images, other: Images) -> bool:
    names = one.factors.keys() == other.factors.keys()
    return names and all(torch.equal(values, other.factors[name]) for name, values in one.factors.items())


@pytest.mark.parametrize("specs", OF_BOTH)
def test_what_concerns_both_splits_is_noted_in_both_and_drawn_by_the_seed(specs):
    one, again, reordered = (make_imperfect(OF_DOMAINS, some, 0) for some in (specs, specs, specs[::-1]))
    others = [make_imperfect(OF_DOMAINS, specs, seed) for seed in range(1, 8)]
    for found in (again, reordered):
        assert all(map(same, one, found))
        assert all(map(same_factors, one, found))
    assert not all(all(map(same, one, other)) and all(map(same_factors, one, other)) for other in others)
    note = next(note for note in one.train.notes if note.startswith("train and test: "))
    assert note in one.test.notes
    assert not any("true label" in images.factors for images in one)
    assert not any(factor in images.factors for images in OF_DOMAINS for factor in ("step", "client", "forget"))


@pytest.mark.parametrize(
    "spec",
    [
        *("long-tail=1", "linear-tail=1", "fewer=1", "label-noise=0", "label-noise-asymmetric=0"),
        *("unlabelled=0", "rotation=0", "blur=0", "noise=0"),
    ],
)
def test_nothing_at_the_lower_limit(spec):
    assert all(map(same, make_imperfect(SPLITS, [spec], 0), SPLITS))


def test_tint_at_the_lower_limit_is_grey_in_rgb():
    made = make_imperfect(SPLITS, ["tint=0"], 0)
    assert (made.test.pixels == SPLITS.test.pixels).all()


def test_long_tail_of_equal_classes():
    """200·10^(-c/4), rounded."""
    made = make_imperfect(SPLITS, ["long-tail=10"], 0).train
    assert made.counts().tolist() == [200, 112, 63, 36, 20]
    assert made.notes[-1] == "train: long tail, ratio 10: 200 → 20 images per class, 431 of 1,000 images kept"
    assert torch.equal(made.labels, made.labels.sort().values) is False


def test_random_tail_is_a_long_tail_in_another_order():
    counts = [make_imperfect(SPLITS, ["random-tail=10"], seed).train.counts() for seed in range(3)]
    expected = make_imperfect(SPLITS, ["long-tail=10"], 0).train.counts()
    assert all(torch.equal(some.sort(descending=True).values, expected) for some in counts)
    assert len({tuple(some.argsort().tolist()) for some in counts}) == 3


def test_linear_tail_and_fewer_of_equal_classes():
    made = make_imperfect(SPLITS, ["linear-tail=5"], 0).train
    assert made.counts().tolist() == [200, 160, 120, 80, 40]
    assert made.notes[-1] == "train: linear tail, ratio 5: 200 → 40 images per class, 600 of 1,000 images kept"
    made = make_imperfect(SPLITS, ["fewer=0.3"], 0).train
    assert made.counts().tolist() == [60] * 5
    assert made.notes[-1] == "train: fewer images, 30%: 60 → 60 images per class, 300 of 1,000 images kept"


def test_long_tail_of_unequal_classes():
    labels = torch.tensor([0] * 10 + [2] * 40 + [3] * 40 + [-1] * 3)
    images = Images(torch.zeros(93, 1, 1, 1, dtype=torch.uint8), labels, CLASSES, "toy")
    made = make_imperfect(Splits(images, images), ["long-tail=4"], 0).train
    assert made.counts().tolist() == [10, 0, 20, 10, 0]
    assert (made.labels == -1).sum() == 3


def test_label_noise_alters_exactly_that_share_evenly():
    made = make_imperfect(SPLITS, ["label-noise=0.4"], 0).train
    altered = made.labels != SPLITS.train.labels
    assert altered.sum() == 400
    steps = torch.bincount((made.labels - SPLITS.train.labels)[altered] % 5, minlength=5)
    assert steps[0] == 0
    assert (steps[1:] - 100).abs().max() < 4 * (400 * 0.25 * 0.75) ** 0.5
    assert made.notes[-1] == "train: label noise: 400 of 1,000 labels replaced by another class, drawn at random"


def test_less_noise_alters_a_part_of_what_more_noise_alters():
    less, more = (make_imperfect(SPLITS, [f"label-noise={share}"], 0).train.labels for share in (0.1, 0.5))
    assert ((less != SPLITS.train.labels) <= (more != SPLITS.train.labels)).all()


def test_asymmetric_noise_moves_to_the_next_class():
    made = make_imperfect(SPLITS, ["label-noise-asymmetric=1"], 0).train
    assert torch.equal(made.labels, (SPLITS.train.labels + 1) % 5)


def test_noise_leaves_absent_classes_and_unlabelled_images_alone():
    made = make_imperfect(SPLITS, ["unknown=2", "unlabelled=0.5", "label-noise=1"], 0).train
    before = make_imperfect(SPLITS, ["unknown=2", "unlabelled=0.5"], 0).train
    assert torch.equal(made.counts() > 0, before.counts() > 0)
    assert torch.equal(made.labels == -1, before.labels == -1)
    assert (made.labels == before.labels)[before.labels != -1].sum() == 0


def test_noise_by_size_makes_wrong_labels_of_large_classes():
    """Of class k, a share of n_j / (n - n_k) of the wrong labels is j."""
    labels = torch.arange(4).repeat_interleave(torch.tensor([8000, 4000, 2000, 100]))
    images = Images(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, CLASSES, "toy")
    made, note = label_noise_by_size(images, 0.4, torch.Generator().manual_seed(0))
    altered = made.labels != labels
    assert altered.sum() == 5640
    table = torch.zeros(4, 5).index_put_((labels, made.labels), altered.float(), accumulate=True)
    assert (table.diag() == 0).all()
    assert (table[:, 4] == 0).all()
    sizes = images.counts()[:4].float()
    for k in range(3):
        expected = table[k].sum() * sizes / (len(labels) - sizes[k])
        assert ((table[k, :4] - expected)[torch.arange(4) != k].abs() < 4 * expected.max().sqrt()).all()
    assert note == "label noise: 5,640 of 14,100 labels replaced by another class, as likely as it has images"


def test_less_noise_by_size_alters_a_part_of_what_more_alters():
    less, more = (make_imperfect(SPLITS, [f"label-noise-by-size={share}"], 0).train.labels for share in (0.1, 0.5))
    assert ((less != SPLITS.train.labels) <= (more != SPLITS.train.labels)).all()


def test_the_truth_follows_the_images():
    specs = ["label-noise=0.5", "unlabelled=0.5", "long-tail=4", "unknown=1"]
    numbered = SPLITS.train.with_factor("number", torch.arange(1000))
    made, truth = make_imperfect_with_truth(Splits(numbered, SPLITS.test), specs, 0)
    assert torch.equal(truth, SPLITS.train.labels[made.train.factors["number"]])
    assert (truth != made.train.labels).any()
    assert torch.equal(make_imperfect_with_truth(SPLITS, [], 0)[1], SPLITS.train.labels)
    assert same(made.train, make_imperfect(SPLITS, specs, 0).train)


def test_unlabelled():
    made = make_imperfect(SPLITS, ["unlabelled=0.9"], 0).train
    assert (made.labels == -1).sum() == 900
    assert ((made.labels == -1) | (made.labels == SPLITS.train.labels)).all()
    assert made.notes[-1] == "train: 900 of 1,000 labels taken away"
    assert (make_imperfect(SPLITS, ["unlabelled=1"], 0).train.labels == -1).all()


def test_unknown_classes_stay_in_test():
    made = make_imperfect(SPLITS, ["unknown=2"], 0)
    assert sorted(made.train.counts().tolist()) == [0, 0, 200, 200, 200]
    assert made.train.classes == CLASSES
    names = ", ".join(CLASSES[i] for i in (made.train.counts() == 0).nonzero().flatten())
    assert made.train.notes[-1] == f"train: 2 unknown classes ({names}): their 400 images left out, those of test stay"


def test_a_prefix_picks_the_split():
    made = make_imperfect(SPLITS, ["test:label-noise=0.5", "train:noise=0.1"], 0)
    assert (made.test.labels != SPLITS.test.labels).sum() == 100
    assert torch.equal(made.train.labels, SPLITS.train.labels)
    assert not torch.equal(made.train.pixels, SPLITS.train.pixels)
    both = make_imperfect(SPLITS, ["train:noise=0.1", "test:noise=0.1"], 0)
    assert torch.equal(both.train.pixels, made.train.pixels)


def test_specs_apply_in_order_and_draw_independently():
    alone = make_imperfect(SPLITS, ["label-noise=0.3"], 0).train
    after = make_imperfect(SPLITS, ["rotation=10", "label-noise=0.3"], 0).train
    assert torch.equal(alone.labels, after.labels)
    assert make_imperfect(SPLITS, [], 0) == SPLITS


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("long-tial=3", "imperfection 'long-tial' is not known; did you mean 'long-tail'"),
        ("long-tail", "expected long-tail=VALUE, VALUE being the largest class's size over the smallest one's"),
        ("long-tail=", "expected long-tail=VALUE"),
        ("long-tail=many", "expected long-tail=VALUE"),
        ("long-tail=0.5", "imperfection 'long-tail=0.5': expected a number of at least 1, got 0.5"),
        ("long-tail=nan", "expected a number of at least 1, got nan"),
        ("long-tail=inf", "got inf"),
        ("label-noise=1.1", "expected a number of at least 0 and of at most 1, got 1.1"),
        ("unlabelled=-0.1", "got -0.1"),
        ("rotation=200", "at most 180, got 200"),
        ("unknown=1.5", "expected a whole number, got 1.5"),
        ("unknown=0", "at least 1, got 0"),
        ("unknown=5", "imperfection unknown: needs 6 classes with labelled images, got 5"),
        ("test:unknown=1", "unknown applies to train, got 'test'"),
        ("test:long-tail=10", "long-tail applies to train, got 'test'"),
        ("val:noise=0.1", "noise applies to test or train, got 'val'"),
        ("", "imperfection '' is not known"),
        ("long-tail= ", "expected long-tail=VALUE"),
        ("long-tail=1e400", "expected a number of at least 1, got inf"),
        ("rotation=1e400", "of at most 180, got inf"),
        ("noise=0.1=2", "expected noise=VALUE"),
        (":noise=0.1", "noise applies to test or train, got ''"),
        ("unknown=inf", "of at least 1, got inf"),
        (3, "imperfection 3: expected a text such as 'long-tail=100'"),
        (None, "imperfection None: expected a text"),
        ("train:steps=2", "steps concerns train and test together; leave out 'train:'"),
        ("test:missing=1", "missing concerns train and test together; leave out 'test:'"),
        ("steps=1", "expected a number of at least 2, got 1"),
        ("steps=2.5", "expected a whole number, got 2.5"),
        ("steps=6", "imperfection steps: needs 6 classes in train, got 5"),
        ("domain-steps=2", r"domain-steps: needs data with a factor or column 'domain', .* \(factors: none\)"),
        ("clients=1", "expected a number of at least 2, got 1"),
        ("clients=1001", "imperfection clients: needs 1001 images in train, got 1000"),
        ("client-skew=0", "expected a number of at least 0.001 and of at most 1e.06, got 0"),
        ("first-step=2", "imperfection 'first-step=2': is a setting of steps; add steps=VALUE"),
        ("client-skew=0.1", "imperfection 'client-skew=0.1': is a setting of clients; add clients=VALUE"),
        ("client-tint=1", "client-tint: expected clients; add clients=N, or take a table with a column 'client'"),
        ("client-noise=1", "client-noise: expected clients; add clients=N"),
        ("client-tint=1.5", "of at most 1, got 1.5"),
        ("forget=0", "imperfection forget: expected at least one image to forget, got none of 1,000"),
        ("forget=1", "imperfection forget: expected at least one image to keep, got none of 1,000"),
        ("forget=2", "of at most 1, got 2"),
        ("forget-class=0.5", "of at least 1, got 0.5"),
        ("forget-class=5", "imperfection forget-class: needs 6 classes in train, got 5"),
        ("forget-class=f", "imperfection forget-class: class 'f' is not known.* Known: a, b, c, d, e"),
        ("forget-class=", "expected forget-class=VALUE, VALUE being how many classes are to be forgotten, or their"),
        ("forget-class='a", "expected names of classes separated by commas, got 'a"),
        ("missing=5", "imperfection missing: needs 6 classes that train and test have, got 5"),
        ("new-classes=5", "imperfection new-classes: needs 6 classes that train and test have, got 5"),
        ("new-classes=1.5", "amount: expected a whole number, got 1.5"),
        (
            "outsiders=0.5",
            "outsiders: expected unlabelled images of the other classes beside them; add unlabelled=SHARE",
        ),
        ("known=1.5", "of at most 1, got 1.5"),
        ("test:labelled=0.5", "labelled applies to train, got 'test'"),
    ],
)
@pytest.mark.usefixtures("plain_shapes")
def test_specs_that_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        make_imperfect(SPLITS, [spec], 0)


SHARES = (fewer, label_noise, label_noise_by_size, asymmetric_label_noise, unlabelled, labelled)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("function", "name", "wrong"),
    [
        *((f, "ratio", (0.5, 0, -1, math.nan, math.inf, "2")) for f in (long_tail, random_tail, linear_tail)),
        *((f, "share", (-0.5, 2, math.nan, "0.1")) for f in SHARES),
        (unknown_classes, "count", (0, -1, 1.5, math.nan, "2")),
        (rotation, "degrees", (-3, 181, math.nan, "3")),
        (tint, "strength", (-1, 2, math.nan, True)),
        (blur, "sigma", (-1, 101, math.nan, "1")),
        (noise, "deviation", (-1, 2, math.nan, "0.1")),
    ],
)
def test_the_functions_refuse_what_their_specs_refuse(function, name, wrong):
    for value in wrong:
        with pytest.raises(InputError, match=f"^{name}: expected a "):
            function(SPLITS.train, value, torch.Generator())


@pytest.mark.usefixtures("plain_shapes")
def test_specs_are_a_list_and_a_seed_is_a_whole_number():
    with pytest.raises(InputError, match=r"specs: expected a list of specs, got the text 'noise=0\.1'"):
        make_imperfect(SPLITS, "noise=0.1", 0)
    for seed in (1.5, float("nan"), "0", None):
        with pytest.raises(InputError, match="seed: expected a whole number"):
            make_imperfect(SPLITS, [], seed)


def test_a_spec_given_twice():
    with pytest.raises(InputError, match=r"imperfection 'test:noise=0\.2': noise is given twice for test"):
        make_imperfect(SPLITS, ["noise=0.1", "test:noise=0.2"], 0)


def test_a_spec_that_concerns_both_given_twice():
    with pytest.raises(InputError, match=r"imperfection 'steps=3': steps is given twice$"):
        make_imperfect(SPLITS, ["steps=2", "steps=3"], 0)


@pytest.mark.parametrize(("one", "other", "why"), CONTRADICTIONS)
def test_two_that_contradict_each_other_are_refused_in_any_order(one, other, why):
    specs = [f"{name}=2" if IMPERFECTIONS[name].whole else f"{name}=0.5" for name in (one, other)]
    for some in (specs, specs[::-1]):
        with pytest.raises(InputError, match=f"imperfection '{specs[0]}': contradicts '{specs[1]}': {why}"):
            make_imperfect(OF_DOMAINS, some, 0)


def test_labels_missing_in_test_contradict_nothing_in_train():
    made = make_imperfect(SPLITS, ["labelled=0.5", "test:unlabelled=0.5"], 0)
    assert [(images.labels == -1).float().mean() for images in made] == [0.5, 0.5]


@pytest.mark.parametrize("spec", ["long-tail=2", "label-noise=0.1", "label-noise-asymmetric=0.1", "unlabelled=0.1"])
def test_unlabelled_data_has_no_labels_to_spoil(spec):
    bare = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.full((4,), -1), (), "toy")
    with pytest.raises(InputError, match="with labelled images, got 0"):
        make_imperfect(Splits(bare, bare), [spec], 0)
