"""A random forest for survival: trees whose splits part long lifetimes from short ones, by scikit-survival.

Ishwaran, Kogalur, Blackstone, Lauer, "Random Survival Forests", Annals of Applied Statistics 2(3), 2008, arXiv
0811.1645.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from counterpoise.data.survival import Outcomes, Survival, scikit_survival
from counterpoise.learners.hazard import HazardLearner
from counterpoise.nets.growing import growing
from counterpoise.nets.rows import SameRows
from counterpoise.ops.checks import check_counts


class Trees(nn.Module):
    """Binary trees as tensors: rows to the mean curve of the leaves that they fall into.

    Attributes:
        feature: the column that each node of each tree compares; -1 in a leaf.
        threshold: at most so much goes to the left.
        branches: the nodes to the left and to the right.
        times: at which the curves are known.
        curves: survival at these times in each node.
        hazards: the sum over all times of the cumulative hazard in each node, by which rows are ranked.

    Examples:
        >>> Trees()(torch.zeros(2, 5)).shape  # one tree of one leaf, without a time
        torch.Size([2, 1])
    """

    feature: Tensor
    threshold: Tensor
    branches: Tensor
    times: Tensor
    curves: Tensor
    hazards: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("feature", torch.full((1, 1), -1))
        self.register_buffer("threshold", torch.zeros(1, 1))
        self.register_buffer("branches", torch.zeros(1, 1, 2, dtype=torch.int64))
        self.register_buffer("times", torch.zeros(0))
        self.register_buffer("curves", torch.zeros(1, 1, 0))
        self.register_buffer("hazards", torch.zeros(1, 1))
        growing(self, "feature", "threshold", "branches", "times", "curves", "hazards")

    def forward(self, rows: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns_out"]:
        """A risk of each row, and its survival at each of `times`."""
        found = rows.new_zeros(len(rows), 1 + len(self.times))
        for tree in range(len(self.feature)):
            leaves = self._leaves(tree, rows)
            found += torch.cat([self.hazards[tree, leaves][:, None], self.curves[tree, leaves]], 1)
        return found / len(self.feature)

    def _leaves(self, tree: int, rows: Tensor) -> Tensor:
        """The node of a tree that each row ends in."""
        node = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        while True:
            feature = self.feature[tree, node]
            if (feature < 0).all():
                return node
            value = rows.gather(1, feature.clamp(min=0)[:, None])[:, 0]
            right = (value > self.threshold[tree, node]).long()
            node = torch.where(feature < 0, node, self.branches[tree, node, right])


class SurvivalForest(HazardLearner):
    """A random survival forest on the columns as they are.

    Args:
        encoder: not used: trees compare columns.
        shape: of one input: (columns,).
        trees: how many.
        leaf: the fewest training items of a leaf.
        steps: times are rounded up to so many quantiles of the times of events, if there are more of these: memory and
            time grow with the number of different ones.
        **recipe: arguments of `HazardLearner`.
    """

    trains = False

    def __init__(
        self,
        encoder: nn.Module,
        shape: Sequence[int],
        trees: int = 100,
        leaf: int = 15,
        steps: int = 100,
        **recipe: Any,
    ):
        super().__init__(SameRows(shape[0]), **recipe)
        check_counts(trees=trees, leaf=leaf, steps=steps)
        self.trees, self.leaf, self.steps = trees, leaf, steps
        self.forest = Trees()

    @property
    def net(self) -> Trees:  # type: ignore[override]
        """The trees."""
        return self.forest

    def check_data(self, data: Survival, batch_size: int, shares: int = 1) -> None:
        """Refuse training without scikit-survival, or without any event."""
        super().check_data(data, batch_size, shares)
        scikit_survival("ensemble")

    def start_epoch(self, data: Survival, epoch: int) -> None:
        """Grow it on all training items, with random numbers of the run's seed."""
        seed = int(torch.randint(2**31 - 1, (1,)))
        forest = scikit_survival("ensemble").RandomSurvivalForest(
            self.trees, min_samples_leaf=self.leaf, max_features="sqrt", random_state=seed, n_jobs=1
        )
        outcomes = Outcomes(_rounded(data, self.steps), data.events).structured()
        _keep(self.forest, forest.fit(data.inputs.float().numpy(), outcomes))

    def survival(
        self, inputs: Float[Tensor, "batch columns"], times: Float[Tensor, " times"]
    ) -> Float[Tensor, "batch times"]:
        """The mean curve of an item's leaves."""
        place = torch.searchsorted(self.forest.times, times.to(self.forest.times), right=True)
        found = self.forest(inputs)
        found[:, 0] = 1  # the survival before the first time, in the place of the risk
        return found[:, place].clamp(0, 1)

    def risk(self, inputs: Float[Tensor, "batch columns"]) -> Float[Tensor, " batch"]:
        """The sum over all times of the cumulative hazard, the mean over the trees."""
        return self.forest(inputs)[:, 0]


def _rounded(data: Survival, steps: int) -> Float64[Tensor, " n"]:
    """Times, rounded up to quantiles of the times of events where these are more than `steps`."""
    observed = data.times[data.events].unique()
    if len(observed) <= steps:
        return data.times
    edges = observed.quantile(torch.arange(1, steps + 1).double() / steps, interpolation="higher").unique()
    place = torch.searchsorted(edges, data.times)
    return torch.where(place < len(edges), edges[place.clamp(max=len(edges) - 1)], data.times)


def _keep(into: Trees, grown: Any) -> None:
    """Take the trees of scikit-survival as tensors, all with as many nodes as the largest."""
    trees = [one.tree_ for one in grown.estimators_]
    most, kept = max(tree.node_count for tree in trees), np.asarray(grown.is_event_time_, bool)
    feature = np.full((len(trees), most), -1, np.int64)
    threshold, hazards = np.zeros((len(trees), most)), np.zeros((len(trees), most))
    branches = np.zeros((len(trees), most, 2), np.int64)
    curves = np.zeros((len(trees), most, int(kept.sum())))
    for i, tree in enumerate(trees):
        some = slice(tree.node_count)
        feature[i, some] = np.where(tree.children_left >= 0, tree.feature, -1)
        threshold[i, some] = tree.threshold
        branches[i, some] = np.stack([tree.children_left, tree.children_right], 1).clip(min=0)
        hazards[i, some] = tree.value[:, kept, 0].sum(1)
        curves[i, some] = tree.value[:, kept, 1]
    found = {"feature": feature, "threshold": threshold, "branches": branches, "hazards": hazards, "curves": curves}
    for name, value in {**found, "times": grown.unique_times_[kept]}.items():
        setattr(into, name, torch.from_numpy(value).to(into.get_buffer(name)))
