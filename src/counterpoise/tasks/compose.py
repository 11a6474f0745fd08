"""The compose task: which method finds the image that an image and a wish in words ask for?

Every method trains on images each of which asks, with a text, for an image of another character: "the same letter,
capital, with a grave accent". What it is scored by are queries of unseen images, each of which seeks among all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from counterpoise.data import load, make_imperfect
from counterpoise.data.composed import Composed, check_answers, compose
from counterpoise.errors import InputError
from counterpoise.measure import effective_rank, uniformity
from counterpoise.ops.checks import check_integers, check_matrix, check_number
from counterpoise.ops.neighbours import nearest_in_parts
from counterpoise.tasks.images import ImageTask, Prepared, hold_out
from counterpoise.tasks.items import identity_of
from counterpoise.training.run import EFFECTIVE_RANK, UNIFORMITY, Metric, Run, Scores

KS = (1, 10, 50)


class Compose(ImageTask):
    """Queries of an image and words, each of which seeks the image that it asks for."""

    name = "compose"
    augmentations = "crop=0.8"  # a flip would make another character of some
    curve: ClassVar = {"effective_rank": EFFECTIVE_RANK, "uniformity": UNIFORMITY}
    distributed = False
    trains_on_all = False
    metrics: ClassVar = {
        **{
            f"recall_{k}": Metric(
                f"Recall@{k}", meaning="the share of queries with an image of the answer's class among the k nearest"
            )
            for k in KS
        },
        **{f"instance_{k}": Metric(f"Recall@{k} of the one image that is said to be the answer") for k in KS},
        "uniformity": UNIFORMITY,
        "effective_rank": EFFECTIVE_RANK,
    }
    shown: ClassVar = {"recall_1": "R@1 %", "recall_10": "R@10 %", "instance_50": "R@50 of one %"}
    main = "recall_1"
    baseline = "composed-retrieval:uncertain=false"

    def prepare(self) -> Callable[..., Prepared]:
        return prepare

    def sample(self, run: Run, parts: Prepared, most: int) -> Prepared:
        """Images of the first classes, with queries of their own: answers are characters of similar names."""
        train, _, test = (part.subset(part.labels.argsort(stable=True)[:most]) for part in parts.images.values())
        asked = compose(train, run.seed)
        return Prepared(asked, asked.subset(torch.arange(0)), compose(test, run.seed, asked.words))

    def tuning_parts(self, run: Run, parts: Prepared) -> Prepared:
        """Of the training images of every class, some to choose by; each side has queries of its own."""
        rest, chosen_by = hold_out(run, parts.train)
        train = compose(rest, run.seed)
        return Prepared(train, train.subset(torch.arange(0)), compose(chosen_by, run.seed, train.words))

    def check_parts(self, run: Run, parts: Prepared, scored: bool) -> None:
        super().check_parts(run, parts, scored=False)  # it needs no labelled images for probes

    def check_classes(self, run: Run, parts: Prepared, scored: bool) -> None:
        """Any classes will do: a query names its answer."""

    def score_features(self, learner: Any, parts: Prepared, features: Tensor) -> Scores:
        """All metrics of the queries of the test images.

        Args:
            learner: for its embeddings of queries.
            parts: the images.
            features: of the test images, [test, dim].
        """
        test = parts.test
        assert isinstance(test, Composed)
        rows = torch.arange(len(test))
        each = search_each(learner.ask(test, test.texts), features, rows, test.answers, test.labels)
        found = _shares(each, len(test))
        metrics = {
            **{f"recall_{k}": found.recall[k] for k in KS},
            **{f"instance_{k}": found.instance[k] for k in KS},
            "uniformity": float(uniformity(features)),
            "effective_rank": float(effective_rank(features)),
        }
        recall = {f"recall_{k}": right.float() for k, right in each.recall.items()}
        instance = {f"instance_{k}": right.float() for k, right in each.instance.items()}
        return Scores(metrics, items={**recall, **instance}, identity=identity_of([test], rows))


def prepare(
    data: str,
    imperfect: tuple[str, ...],
    seed: int,
    division: int,
    size: int | None,
    data_dir: str | None,
    download: bool,
) -> Prepared:
    """Training and test images that have a query, and no others for probes.

    Raises:
        InputError: as `load`; for data whose classes are no characters, or too few of which make a query.
    """
    splits = load(data, size=size, data_dir=data_dir, download=download, seed=division)
    train, test = make_imperfect(splits, imperfect, seed)
    asked = compose(train, seed)
    return Prepared(asked, asked.subset(torch.arange(0)), compose(test, seed, asked.words))


class Found(NamedTuple):
    """How well queries find what they seek.

    Args:
        recall: for each k, the share of queries with an image of the answer's class among the k nearest.
        instance: the share with the answer itself among them.
    """

    recall: dict[int, float]
    instance: dict[int, float]


class FoundEach(NamedTuple):
    """As `Found`, of each query.

    Args:
        recall: for each k, whether an image of the answer's class is among the k nearest.
        instance: whether the answer itself is.
    """

    recall: dict[int, Bool[Tensor, " queries"]]
    instance: dict[int, Bool[Tensor, " queries"]]


def search(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "items dim"],
    references: Int[Tensor, " queries"],
    answers: Int[Tensor, " queries"],
    labels: Int[Tensor, " items"],
    ks: Sequence[int] = KS,
) -> Found:
    """Recall@k by cosine, among all items but a query's own image. Nothing of the size queries × items is formed.

    Items that are equally near come in a random order, the same at every call: by row number, embeddings that are all
    the same would find more than chance where rows come class by class.

    Args:
        queries: one row per query.
        gallery: one row per item.
        references: of each query, the number of its own image in the gallery.
        answers: of each query, the number of the image that answers it.
        labels: class of each item, of any integer type; one with -1 is like no other.
        ks: numbers of neighbours, each at least 1.

    Raises:
        InputError: for shapes that do not go together, labels below -1, NaN, numbers out of range, an empty gallery, or
            a query whose answer is not in it.

    Examples:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> search(gallery[:1], gallery, torch.tensor([0]), torch.tensor([2]), torch.tensor([0, 0, 1, 1]), ks=(1, 2, 3))
        Found(recall={1: 0.0, 2: 1.0, 3: 1.0}, instance={1: 0.0, 2: 0.0, 3: 1.0})
    """
    return _shares(search_each(queries, gallery, references, answers, labels, ks), len(queries))


def _shares(found: FoundEach, queries: int) -> Found:
    """The shares of the queries."""
    return Found(*({k: int(right.sum()) / queries for k, right in part.items()} for part in found))


def search_each(
    queries: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "items dim"],
    references: Int[Tensor, " queries"],
    answers: Int[Tensor, " queries"],
    labels: Int[Tensor, " items"],
    ks: Sequence[int] = KS,
) -> FoundEach:
    """As `search`, of each query by itself.

    Args:
        queries: one row per query.
        gallery: one row per item.
        references: as in `search`; so are the others.
        answers: of each query, the number of the image that answers it.
        labels: class of each item.
        ks: numbers of neighbours.

    Raises:
        InputError: as in `search`.

    Examples:
        >>> gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> given = torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([0, 0, 1, 1])
        >>> search_each(gallery[:2], gallery, *given, ks=(1,)).recall[1]
        tensor([False,  True])
    """
    if not ks:
        raise InputError("ks: expected at least one number of neighbours, got none")
    for k in ks:
        check_number("ks", k, at_least=1, whole=True)
    check_matrix("queries", queries)
    references = check_integers("references", references, rows=len(queries), low=0, high=max(1, len(gallery)))
    answers = check_integers("answers", answers, rows=len(queries))
    check_answers(answers, references, len(gallery))
    labels = check_integers("labels", labels, rows=len(gallery), low=-1)
    labels = labels.cpu().where(labels.cpu() >= 0, -1 - torch.arange(len(labels)))
    order = torch.randperm(len(gallery), generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    gallery, labels = gallery[order.to(gallery.device)], labels[order]
    references, answers = place[references.cpu()], place[answers.cpu()]
    most = min(max(ks), len(gallery) - 1)
    right, very = ({k: torch.zeros(len(queries), dtype=torch.bool) for k in ks} for _ in range(2))
    for rows, index in nearest_in_parts(queries, gallery, most + 1):
        itself = index == references[rows, None]
        index = index.gather(1, itself.int().argsort(dim=1, stable=True))[:, :most]
        for k in ks:
            right[k][rows] = (labels[index[:, :k]] == labels[answers[rows, None]]).any(1)
            very[k][rows] = (index[:, :k] == answers[rows, None]).any(1)
    return FoundEach(right, very)


TASK = Compose()
