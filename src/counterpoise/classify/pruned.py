"""Pruned: a baseline that leaves out the labels which cross-validated networks find unlikely, and learns the rest.

Confident learning (Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 2021, arXiv 1911.00068), by its authors' library cleanlab.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int64, Integer
from torch import Tensor, nn

from counterpoise.data.views import to_input
from counterpoise.errors import InputError, MissingExtra, first_few, unknown
from counterpoise.learners.classifier import Classifier, cross_entropy
from counterpoise.learners.learner import warmup_cosine
from counterpoise.learners.pools import batches_of
from counterpoise.nets import embed
from counterpoise.nets.minimize import minimize
from counterpoise.ops.checks import check_counts, check_integers, check_logits, check_number, check_values

Filter = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]


def label_issues(
    probabilities: Float[Tensor, "n classes"], labels: Integer[Tensor, " n"], rule: Filter = "prune_by_noise_rate"
) -> Bool[Tensor, " n"]:
    """Which labels are probably wrong, by cleanlab's `find_label_issues`.

    Args:
        probabilities: of each class, from 0 to 1, by a model that was not trained on the row.
        labels: class of each row; -1 where it has none.
        rule: `filter_by` of cleanlab: by default of each pair of classes as many as are estimated to be confused.

    Returns:
        True for these; never for a row without a label.

    Raises:
        InputError: for other shapes, NaN, numbers out of range, labels that are no class, or an unknown rule.
        MissingExtra: without cleanlab.

    Examples:
        >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])
        >>> label_issues(p, torch.tensor([0, 0, 1, 1, 1]))
        tensor([False, False,  True, False, False])
    """
    check_logits("probabilities", probabilities)
    check_values("probabilities", probabilities, at_least=0, at_most=1)
    labels = check_integers("labels", labels, len(probabilities), low=-1, high=probabilities.shape[1]).cpu()
    if rule not in get_args(Filter):
        raise unknown("rule", rule, get_args(Filter))
    find, issues = _cleanlab(), torch.zeros(len(labels), dtype=torch.bool)
    rows = (labels >= 0).nonzero().flatten()
    present, own = labels[rows].unique(return_inverse=True)
    if len(present) < 2:  # nothing could be confused
        return issues.to(probabilities.device)
    p = probabilities.detach().cpu().double()[rows][:, present]
    total = p.sum(1, keepdim=True)  # of the classes that a model could learn
    p = torch.where(total > 0, p / total.where(total > 0, 1), 1 / len(present))
    with np.errstate(all="ignore"):  # it divides by counts that may be 0, and replaces what comes out
        found = find(own.numpy(), p.numpy(), filter_by=rule, n_jobs=1)
    issues[rows] = torch.from_numpy(np.asarray(found))
    return issues.to(probabilities.device)


def folds_of(labels: Integer[Tensor, " n"], folds: int, order: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """The fold of each row, of about as many rows of each class as any other fold; -1 for rows without a label.

    Args:
        labels: class of each row; -1 where it has none.
        folds: how many, at least 2.
        order: a permutation of the rows, which decides what is left open.

    Raises:
        InputError: for other shapes, labels below -1, fewer than 2 folds, or what is no permutation.

    Examples:
        >>> folds_of(torch.tensor([0, 0, 0, 0, 1, -1, 1]), folds=2, order=torch.arange(7))
        tensor([ 0,  1,  0,  1,  0, -1,  1])
    """
    labels = check_integers("labels", labels, labels.numel(), low=-1)
    check_number("folds", folds, at_least=2, whole=True)
    order = check_integers("order", order, len(labels), low=0, high=max(1, len(labels)))
    if len(order.unique()) < len(order):
        raise InputError("order: expected each row once, got some twice")
    by_class = order[labels[order].argsort(stable=True)]
    by_class = by_class[labels[by_class] >= 0]
    return torch.full_like(labels, -1).index_copy(0, by_class, torch.arange(len(by_class)).to(labels) % folds)


class Pruned(Classifier):
    """Cross-entropy on the labels that are left when the network itself, cross-validated, has found the unlikely ones.

    Before training, a network of the same kind and beginnings is trained for each fold on the others, with the
    optimiser and schedule of the run. By its probabilities of what it has not seen, cleanlab finds issues. These items
    are left out, the batches of an epoch being as many as before: those that are left come again instead. Where nothing
    is found, it is cross-entropy to the last bit.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        samples: how many training items there are.
        batch_size: items a step of the networks of the folds.
        folds: at least 2.
        length: steps of each fold's network as a share of the run's own, above 0.
        rule: how cleanlab chooses, see `label_issues`.
        **recipe: arguments of `Classifier`.

    Attributes:
        kept: which training items are trained on.
    """

    kept: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        samples: int,
        batch_size: int = 128,
        folds: int = 3,
        length: float = 1.0,
        rule: Filter = "prune_by_noise_rate",
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_counts(samples=samples, batch_size=batch_size)
        check_number("folds", folds, at_least=2, whole=True)
        check_number("length", length, above=0)
        if rule not in get_args(Filter):
            raise unknown("rule", rule, get_args(Filter))
        self.batch_size, self.folds, self.length, self.rule = batch_size, folds, length, rule
        self.register_buffer("kept", torch.ones(samples, dtype=torch.bool))

    def check_data(self, images: Any, batch_size: int, shares: int = 1) -> None:
        """As of any classifier; refuse what no fold could be trained on, and a missing cleanlab."""
        super().check_data(images, batch_size, shares)
        _cleanlab()
        labelled = int((images.labels >= 0).sum())
        if labelled < 2 * self.folds:
            raise InputError(
                f"labels: expected at least {2 * self.folds} for {self.folds} folds, got {labelled}; see folds"
            )

    def start_epoch(self, data: Any, epoch: int) -> None:
        """Before the first epoch, cross-validate and prune; random numbers of the epoch itself stay the same."""
        super().start_epoch(data, epoch)
        if epoch:
            return
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            issues = label_issues(self.out_of_sample(data), data.labels, self.rule)
        self.kept.copy_(~issues)
        given = data.labels.where(~issues, -1)
        before, left = (x[x >= 0].bincount(minlength=self.classes) for x in (data.labels, given))
        if (gone := (before > 0) & (left == 0)).any():
            names = first_few([str(label) for label in gone.nonzero().flatten().tolist()])
            warnings.warn(f"Pruned: all training {data.items} of class {names} are left out")
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.kept, 0)  # an accelerator's sums may differ in the last bits

    def out_of_sample(self, data: Any) -> Float[Tensor, "samples classes"]:
        """Probabilities of each labelled item by a network that has not seen it; uniform of those without a label.

        Args:
            data: the training data.
        """
        found = torch.full((len(data), self.classes), 1 / self.classes)
        fold = folds_of(data.labels, self.folds, torch.randperm(len(data)))
        for one in range(self.folds):
            unseen = (fold == one).nonzero().flatten()
            net = self._trained(data, ((fold >= 0) & (fold != one)).nonzero().flatten())
            found[unseen] = embed(net, data.subset(unseen), to_input).softmax(1)
        return found

    def _trained(self, data: Any, rows: Int64[Tensor, " rows"]) -> nn.Module:
        """A network like the method's own, trained on some items."""
        net = copy.deepcopy(self.net).train()
        size = min(self.batch_size, len(rows))
        own = self.training_steps() if self._trainer else len(data) // size
        steps = max(1, round(self.length * own))
        optimizer = self.make_optimizer(self.groups_of([p for p in net.parameters() if p.requires_grad]))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, steps, self.warmup))
        minimize(self._loss_of(net, data), _batches(rows, size, steps), optimizer, schedule)
        return net

    def _loss_of(self, net: nn.Module, data: Any) -> Callable[[Tensor], Float[Tensor, ""]]:
        def loss(rows: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
            pixels, labels, index = (x.to(self.device) for x in data.__getitems__(rows.tolist()))
            value = cross_entropy(net(self.views_of(pixels, labels, index)[0]), labels)
            self.check_loss(value)
            return value

        return loss

    def batches(self, order: Int[Tensor, " samples"], batch_size: int) -> list[list[int]]:
        """As many as of all items, of the labelled ones that are kept; these come again, in the same order."""
        kept = self.kept.cpu()
        return batches_of(kept if self.has_label is None else kept & self.has_label, order, batch_size)

    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """`pruned`: how many training items are left out; `pruned_share`: of those that have a label."""
        pruned = float((~self.kept).sum())
        return {"pruned": pruned, "pruned_share": pruned / int((train.labels >= 0).sum())}


def _batches(rows: Int64[Tensor, " rows"], size: int, steps: int) -> Iterator[Tensor]:
    """Batches of the rows in random order, pass after pass, without a last smaller one."""
    while steps > 0:
        for batch in rows[torch.randperm(len(rows))][: len(rows) // size * size].split(size)[:steps]:
            steps -= 1
            yield batch


def _cleanlab() -> Callable[..., Any]:
    """cleanlab's function, imported where it is used."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise MissingExtra("cleanlab", "clean") from error
    return find_label_issues
