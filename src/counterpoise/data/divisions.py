"""Data that arrives in steps, lies with clients, or is to be forgotten: factors that are written, and nothing else.

Each function gives both splits a factor ("step", "client", "forget") with the names of its values, and draws what test
gets together with train. Methods read the factors; tables have columns of these names instead (`tables.FACTORS`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from counterpoise.data.draws import (
    TRUTH,
    check_free,
    check_whole,
    classes_of,
    draw_classes,
    draw_share,
    enough_classes,
    names_of,
    value_names,
)
from counterpoise.data.images import FORGET_NAMES
from counterpoise.data.parts import NO_VALUE, AnyPair, Labelled, Pair, paired
from counterpoise.errors import InputError, first_few, unknown
from counterpoise.ops.checks import check_number

SHOWN = 5  # steps that a note names
FEWEST = 10  # items of a client, as far as there are enough; as in NIID-Bench
TRIES = 10_000  # draws of a division until every client has them
LEAST_SKEW, MOST_SKEW = 1e-3, 1e6  # alphas between which the draws are numbers


def steps(splits: AnyPair, count: float, generator: Generator, first_step: float | None = None) -> tuple[AnyPair, str]:
    """The classes of train come one group after the other, in an order that is drawn: factor "step", from 0.

    Args:
        splits: images of both sides. Those without a class, or of a class that train has not, have step -1.
        count: of steps, 2 or more. Sizes differ by one class at most, the earlier ones being larger.
        generator: of the order.
        first_step: how many classes the first step has; None: as many as the others.

    Raises:
        InputError: for a number out of range, or fewer classes than that needs.
    """
    number = check_whole("count", count, at_least=2)
    check_free(splits, "steps", "step")
    shown = classes_of(splits.train)
    classes = enough_classes(shown[shown >= 0].unique(), "steps", number, "in train")
    sizes = _even_sizes(len(classes), number)
    if first_step is not None:
        first = check_whole("first_step", first_step, at_least=1)
        enough_classes(classes, f"first-step={first}", first + number - 1, f"in train for {number} steps")
        sizes = [first, *_even_sizes(len(classes) - first, number - 1)]
    order = classes[torch.randperm(len(classes), generator=generator)]
    groups = [group.sort().values for group in order.split(sizes)]
    names = [names_of(splits.train, group) for group in groups]
    made = _grouped(splits, [classes_of(part) for part in splits], groups, "step", names)
    return made, f"classes come in {number} steps: {_listed(names)}{_without(made, 'step')}"


def domain_steps(splits: AnyPair, count: float, generator: Generator) -> tuple[AnyPair, str]:
    """The domains of train (factor "domain") come one group after the other, in an order that is drawn."""
    number = check_whole("count", count, at_least=2)
    check_free(splits, "domain-steps", "step")
    if "domain" not in splits.train.factors:
        raise InputError(f"imperfection domain-steps: {_needs(splits, 'domain')}")
    values = splits.train.factors["domain"]
    domains, names = values[values >= 0].unique(), value_names(splits, "domain")
    if len(domains) < number:
        there = first_few([names[domain] for domain in domains.tolist()])
        raise InputError(f"imperfection domain-steps: expected at most {len(domains)} steps, one a domain ({there})")
    order = domains[torch.randperm(len(domains), generator=generator)]
    groups = [group.sort().values for group in order.split(_even_sizes(len(domains), number))]
    named = [first_few([names[domain] for domain in group.tolist()]) for group in groups]
    nowhere = [torch.full((len(part),), NO_VALUE) for part in splits]
    given = [part.factors.get("domain", none) for part, none in zip(splits, nowhere, strict=True)]
    made = _grouped(splits, given, groups, "step", named)
    return made, f"domains come in {number} steps: {_listed(named)}{_without(made, 'step')}"


def clients(
    splits: AnyPair, count: float, generator: Generator, client_skew: float | None = None
) -> tuple[AnyPair, str]:
    """Items lie with clients: factor "client", from 0; a client's test items are of the same mixture as its others.

    Args:
        splits: images of both sides.
        count: of clients, 2 or more.
        generator: of the division.
        client_skew: None: at random, all of one size. A number: the images of each class are divided by shares drawn
            from a symmetric Dirichlet distribution of this concentration, so that a small one gives each client few
            classes, and clients of unlike size (Yurochkin et al., Bayesian Nonparametric Federated Learning, ICML
            2019). Drawn again while a client has fewer than 10 images, or half of its even share.

    Raises:
        InputError: for a number out of range, fewer images than clients, or where no draw gives every client enough.
    """
    number = check_whole("count", count, at_least=2)
    check_free(splits, "clients", "client")
    if len(splits.train) < number:
        needed = f"{number} {splits.train.items} in train"
        raise InputError(f"imperfection clients: needs {needed}, got {len(splits.train)}")
    names = tuple(f"client {place + 1}" for place in range(number))
    if client_skew is None:
        given = [_dealt(len(part), number, generator) for part in splits]
        how = "at random"
    else:
        check_number("client_skew", client_skew, at_least=LEAST_SKEW, at_most=MOST_SKEW)
        given = _skewed(splits, number, client_skew, generator)
        how = f"each class by shares from Dirichlet({client_skew:g})"
    made = paired(splits, (part.with_factor("client", x, names) for part, x in zip(splits, given, strict=True)))
    sizes = torch.bincount(given[0], minlength=number)
    each = f"{int(sizes.min()):,} to {int(sizes.max()):,} {splits.train.items} of train each"
    return made, f"{number} clients, divided {how}: {each}"


def forget(splits: AnyPair, share: float, generator: Generator) -> tuple[AnyPair, str]:
    """A share of train, drawn, is to be forgotten: factor "forget", 1 for these and 0 for all others."""
    check_number("share", share, at_least=0, at_most=1)
    count = len(splits.train)
    asked = torch.zeros(count, dtype=torch.bool)
    asked[draw_share(torch.arange(count), share, generator)] = True
    return _asked(splits, asked, torch.zeros(len(splits.test), dtype=torch.bool), "forget", "")


def forget_classes(
    splits: AnyPair, which: float | Sequence[str], generator: Generator, forget: float | None = None
) -> tuple[AnyPair, str]:
    """Whole classes are to be forgotten, or a share of each of them: factor "forget".

    Args:
        splits: images of both sides. Where a class is forgotten as a whole, its test images are marked, too.
        which: how many classes, which are drawn; or their names.
        generator: of the draw.
        forget: the share of each class that is forgotten, at least one image; None: all.

    Raises:
        InputError: for a number out of range, a name that is no class of train, or where nothing is left to keep.
    """
    share = 1.0 if forget is None else forget
    check_number("forget", share, at_least=0, at_most=1)
    shown = classes_of(splits.train)
    present = shown[shown >= 0].unique()
    if isinstance(which, int | float):
        count = check_whole("which", which, at_least=1)
        enough_classes(present, "forget-class", count + 1, "in train")
        chosen = draw_classes(present, count, generator)
    else:
        chosen = _named(splits.train, present, which)
    asked = torch.zeros(len(shown), dtype=torch.bool)
    for label in chosen.tolist():
        members = (shown == label).nonzero().flatten()
        size = max(round(share * len(members)), int(share > 0))
        asked[members[torch.randperm(len(members), generator=generator)[:size]]] = True
    in_test = torch.isin(splits.test.labels, chosen) & (share == 1)
    return _asked(splits, asked, in_test, "forget-class", f", of {names_of(splits.train, chosen)},")


def _asked(
    splits: AnyPair, train: Bool[Tensor, " train"], test: Bool[Tensor, " test"], spec: str, whose: str
) -> tuple[AnyPair, str]:
    """The factor "forget".

    Raises:
        InputError: where nothing is forgotten, or nothing kept.
    """
    check_free(splits, spec, "forget")
    count, items = int(train.sum()), splits.train.items
    if count in (0, len(train)):
        what = f"one {items.removesuffix('s')} to {'forget' if count == 0 else 'keep'}"
        raise InputError(f"imperfection {spec}: expected at least {what}, got none of {len(train):,}")
    given = zip(splits, (train, test), strict=True)
    made = paired(splits, (part.with_factor("forget", asked.long(), FORGET_NAMES) for part, asked in given))
    return made, f"{count:,} of {len(train):,} {items} of train{whose} are to be forgotten"


def _named(train: Labelled, present: Int64[Tensor, " classes"], names: Sequence[str]) -> Int64[Tensor, " named"]:
    there = {train.classes[label]: label for label in present.tolist()}
    for name in names:
        if name not in there:
            raise unknown("imperfection forget-class: class", name, there)
    return torch.tensor(sorted({there[name] for name in names}))


def _needs(splits: Pair, factor: str) -> str:
    there = ", ".join(name for name in splits.train.factors if name != TRUTH) or "none"
    return f"needs data with a factor or column '{factor}', which this has not (factors: {there})"


def _listed(groups: Sequence[str]) -> str:
    """The first few groups, the names in each being apart by commas."""
    more = f"; and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
    return "; ".join(groups[:SHOWN]) + more


def _even_sizes(count: int, groups: int) -> list[int]:
    """Sizes that differ by one at most, the larger ones first."""
    return [count // groups + (place < count % groups) for place in range(groups)]


def _grouped(
    splits: AnyPair, given: Sequence[Tensor], groups: Sequence[Tensor], factor: str, names: Sequence[str]
) -> AnyPair:
    """A factor that says in which group the value of each item is; -1 where it is in none."""
    most = 1 + max(int(values.max()) for values in (*given, *groups) if len(values))
    place = torch.full((most + 1,), -1)  # the last is that of -1
    for number, group in enumerate(groups):
        place[group] = number
    return paired(
        splits, (x.with_factor(factor, place[values], names) for x, values in zip(splits, given, strict=True))
    )


def _without(splits: Pair, factor: str) -> str:
    """What is said of items that are in no group."""
    counts = {name: int((x.factors[factor] < 0).sum()) for name, x in zip(("train", "test"), splits, strict=True)}
    said = " and ".join(f"{count:,} {splits.train.items} of {name}" for name, count in counts.items() if count)
    return f"; {said} in none of them" if said else ""


def _dealt(count: int, hands: int, generator: Generator) -> Int64[Tensor, " count"]:
    """A hand for each of some things, in turn and at random."""
    hand = torch.empty(count, dtype=torch.int64)
    hand[torch.randperm(count, generator=generator)] = torch.arange(count) % hands
    return hand


def _skewed(splits: Pair, count: int, alpha: float, generator: Generator) -> list[Int64[Tensor, " items"]]:
    """A client for each item of both splits, by the same shares of each class."""
    rng = np.random.default_rng(int(torch.randint(1 << 62, (1,), generator=generator)))  # torch's takes no generator
    classes = len(splits.train.classes) + 1  # the last: items without a class
    labels = [classes_of(part).remainder(classes) for part in splits]
    sizes = torch.bincount(labels[0], minlength=classes).numpy()
    fewest = max(1, min(FEWEST, len(splits.train) // (2 * count)))
    for _ in range(TRIES):
        shares = rng.dirichlet(np.full(count, alpha), classes)
        if _cuts(shares, sizes).sum(0).min() >= fewest:
            return [_dealt_by_class(x, shares, generator) for x in labels]
    raise InputError(
        f"imperfection client-skew={alpha:g}: none of {TRIES:,} draws gave each of {count} clients {fewest} images or "
        "more; expected a larger alpha or fewer clients"
    )


def _cuts(shares: Float[np.ndarray, "classes clients"], sizes: np.ndarray) -> np.ndarray:
    """How many images of each class every client gets: whole numbers that sum to the class's size."""
    ends = np.rint(shares.cumsum(1) * sizes[:, None]).astype(np.int64)
    ends[:, -1] = sizes
    return np.diff(ends, axis=1, prepend=0)


def _dealt_by_class(
    labels: Int64[Tensor, " images"], shares: Float[np.ndarray, "classes clients"], generator: Generator
) -> Int64[Tensor, " images"]:
    counts = torch.from_numpy(_cuts(shares, torch.bincount(labels, minlength=len(shares)).numpy()))
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    client = torch.empty_like(labels)
    client[order] = torch.arange(shares.shape[1]).repeat(len(shares)).repeat_interleave(counts.flatten())
    return client
