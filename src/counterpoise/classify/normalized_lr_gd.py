r"""Logistic regression by gradient descent with very large steps, normalised so that it separates fast.

Tyurin, "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes", AAAI
2025, arXiv 2412.08424. As the step grows, gradient descent on the logistic loss tends to a perceptron on the whole
batch. The claim's experiments are in `counterpoise.studies.normalized_lr_gd`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Float64, Int, Integer
from scipy.optimize import nnls
from torch import Tensor, nn

from counterpoise.errors import InputError, unknown
from counterpoise.learners.readers import FeatureReader, linear_layer
from counterpoise.ops.checks import check_finite, check_integers, check_matrix, check_number
from counterpoise.ops.processes import gather
from counterpoise.ops.similarity import at_least_float32

Rule = Literal["normalized", "logistic", "batch-perceptron", "normalized-perceptron", "perceptron"]
EPSILON, TINY = torch.finfo(torch.float64).eps, torch.finfo(torch.float64).tiny
FEW = 16  # rows that count are few where they are one in so many
PATIENCE = 16  # updates in which all rows are computed, once many have counted twice
RENEW = 64  # updates after which scores that were only changed are computed from the weights again


def direction(margins: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
    r"""Weights of the rows in a step of normalised gradient descent: $w_i / \sum_j w_j$ with $w_i = 1 / (1 + e^{m_i})$.

    The gradient of the logistic loss is $-\frac1n \sum_i w_i y_i a_i$; divided by the mean of the weights it is a
    weighted mean of the rows. Found from $\log w_i = -\log(1 + e^{m_i})$, so that it stays finite where all margins are
    large: then it tends to the rows of least margin.

    Args:
        margins: $m_i = y_i \, a_i^\top \theta$, of at least one row.

    Returns:
        At least 0, of sum 1.

    Raises:
        InputError: for another shape, no row, NaN or infinity.

    Examples:
        >>> direction(torch.tensor([0.0, 0.0, 1000.0])).tolist()
        [0.5, 0.5, 0.0]
        >>> direction(torch.tensor([1e6, 1e6 + 1]))  # w itself is 0 in any float
        tensor([0.7311, 0.2689], dtype=torch.float64)
    """
    if margins.ndim != 1 or not len(margins):
        raise InputError(f"margins: expected a vector of at least 1 number, got shape {list(margins.shape)}")
    check_finite("margins", margins)
    return _log_weights(margins.double())[0].softmax(0)


class Separation(NamedTuple):
    """What `separate` found, and how.

    Attributes:
        theta: the weights of the plane; the side of a row is the sign of its product with them.
        updates: how many changed them.
        solved: whether all rows are on their own side, none of them on the plane.
        losses: the mean logistic loss before each update, and at the end.
        accuracies: the share of rows on their own side, likewise.
        norms: of each update, the length of what the step size multiplies: of "logistic" the gradient, of "normalized"
            the weighted mean of the rows, of perceptrons the whole update.
    """

    theta: Float64[Tensor, " d"]
    updates: int
    solved: bool
    losses: Float64[Tensor, " steps"]
    accuracies: Float64[Tensor, " steps"]
    norms: Float64[Tensor, " updates"]


def separate(
    a: Float[Tensor, "n d"],
    y: Integer[Tensor, " n"],
    gamma: float = 1.0,
    rule: Rule = "normalized",
    most: int = 10_000,
    gram: bool | None = None,
) -> Separation:
    r"""Find a plane through the origin with all rows on their own side, from $\theta = 0$ and on the whole batch.

    With margins $m_i = y_i \, a_i^\top \theta$ and $w_i = 1 / (1 + e^{m_i})$, an update is

    - "normalized": $\theta \leftarrow \theta + \gamma \sum_i w_i y_i a_i / \sum_i w_i$ (Algorithm 2)
    - "logistic": $\theta \leftarrow \theta + \frac{\gamma}{n} \sum_i w_i y_i a_i$, gradient descent on the mean
      logistic loss
    - "batch-perceptron", its limit for large $\gamma$ (divided by $\gamma$): $\frac{1}{2n} \sum_i y_i a_i$ first, then
      $\frac1n \sum_{i \in S} y_i a_i$ over the rows $S$ with $m_i \le 0$
    - "normalized-perceptron", the limit of "normalized": the mean of $y_i a_i$ over $S$
    - "perceptron": $y_j a_j$ of the next row of $S$, in turn.

    It ends with the first $\theta$ for which every margin is above 0. Computed in float64.

    Args:
        a: one row an example; append a column of ones for a plane that need not pass through the origin. Used as it is.
        y: 1 or -1 for each row.
        gamma: the step size, above 0; perceptrons have none.
        rule: what an update is.
        most: updates after which it gives up, at least 1.
        gram: whether to work on the products of all pairs of rows instead of the rows, which is faster for fewer rows
            than columns; `None` decides by that. The result is the same but for rounding.

    Returns:
        Weights, number of updates and what was seen on the way. A warning is given where the rows are not separated.

    Raises:
        InputError: for other shapes, a row of zeros, which no plane has on either side, y other than ±1, NaN, or a
            number out of range.

    Examples:
        >>> a, y = torch.tensor([[1.0, -1.0], [-1.0, -4.0]]), torch.tensor([1, -1])
        >>> found = separate(a, y, gamma=10.0)
        >>> found.updates, found.solved, found.theta.tolist()
        (2, True, [20.0, 5.0])
        >>> separate(a, y, gamma=10.0, rule="logistic").losses.max() > math.log(2)  # it rises before the plane is found
        tensor(True)
    """
    check_number("gamma", gamma, above=0)
    check_number("most", most, at_least=1, whole=True)
    a, signs = _rows(a, y)
    found = _solve(a, signs[None], gamma, rule, most, gram)
    if not found.solved:
        left = round((1 - float(found.accuracies[-1])) * len(y))
        warnings.warn(f"separate: {left} of {len(y)} rows are not on their side after {most} updates")
    return Separation(
        found.theta[0],
        int(found.updates),
        bool(found.solved),
        found.losses[:, 0],
        found.accuracies[:, 0],
        found.norms[:, 0],
    )


class Bounds(NamedTuple):
    """What is known of the number of updates on separable rows; each holds from weights of 0.

    Attributes:
        radius: R, the length of the longest row.
        margin: the largest distance from a plane through the origin that all rows can have on their own side.
        rows: n.
    """

    radius: float
    margin: float
    rows: int

    @property
    def perceptron(self) -> float:
        r"""$R^2 / \mu^2$: of "perceptron" and "normalized-perceptron"."""
        return (self.radius / self.margin) ** 2

    @property
    def batch_perceptron(self) -> float:
        r"""$n R^2 / \mu^2$: of "batch-perceptron"."""
        return self.rows * self.perceptron

    def normalized(self, gamma: float) -> float:
        r"""$R^2 / \mu^2 + 2 \log(2 n - 1) / (\gamma \mu^2)$: of "normalized".

        Args:
            gamma: the step size, above 0.
        """
        check_number("gamma", gamma, above=0)
        return self.perceptron + 2 * math.log(2 * self.rows - 1) / (gamma * self.margin**2)


def bounds(a: Float[Tensor, "n d"], y: Integer[Tensor, " n"]) -> Bounds:
    r"""How many updates suffice, by the length of the rows and the largest margin.

    The plane of largest margin solves a least-squares problem with non-negative unknowns (Lawson, Hanson, "Solving
    Least Squares Problems", 1974, chapter 23); that of a support-vector machine without bias is the same.

    Args:
        a: one row an example, as `separate` takes it.
        y: 1 or -1 for each row.

    Raises:
        InputError: as `separate`; for rows that no plane separates.

    Examples:
        >>> found = bounds(torch.tensor([[3.0, 4.0], [-4.0, 3.0]]), torch.tensor([1, 1]))
        >>> found.radius, round(found.margin, 4), round(found.perceptron, 4)
        (5.0, 3.5355, 2.0)
    """
    a, signs = _rows(a, y)
    z = a * signs[:, None]
    radius = float(torch.linalg.vector_norm(z, dim=1).max())
    z = z / radius
    system = torch.cat([z.T, z.new_ones(1, len(z))]).cpu().numpy()
    goal = [0.0] * z.shape[1] + [1.0]
    rest = torch.from_numpy(system @ nnls(system, goal)[0] - goal)
    plane = -rest[:-1] / rest[-1]
    least = float((z.cpu() @ plane).min() / torch.linalg.vector_norm(plane)) if float(rest[-1]) else 0.0
    if not least > 1e-7:
        raise InputError("a: expected rows that a plane through the origin separates by y; none does")
    return Bounds(radius, least * radius, len(a))


def normalized_logistic(logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    r"""What gradient descent follows as normalised: of each class against all others, minus the weighted mean margin.

    For class k the margin of a row is its logit, times -1 where its label is another. The weights are `direction`'s,
    and are not differentiated: so the gradient is that of the logistic loss, divided by the mean weight of its class.
    Its value is no loss that could be compared; it is the sum over classes of $-\sum_i w_i m_i / \sum_i w_i$.

    Args:
        logits: one for each class; or a single column, of class 1 against class 0.
        targets: class of each row; -1 where it has none.

    Returns:
        0, with a gradient of 0, where no row has a label.

    Raises:
        InputError: for other shapes, targets that are no class, NaN or infinity.

    Examples:
        >>> logits = torch.tensor([[2.0], [0.0]], requires_grad=True)
        >>> normalized_logistic(logits, torch.tensor([1, 0])).backward()
        >>> logits.grad.flatten()  # with weights of 0.1192 and 0.5
        tensor([-0.1925,  0.8075])
    """
    check_matrix("logits", logits)
    classes = max(2, logits.shape[1])
    targets = check_integers("targets", targets, len(logits), low=-1, high=classes)
    logits = gather(at_least_float32(logits))
    targets = gather(targets)
    kept = targets >= 0
    if not kept.any():
        return (logits * 0).sum()
    signs = _against_others(targets[kept], classes)[:, -logits.shape[1] :]
    margins = signs.to(logits) * logits[kept]
    return -(_log_weights(margins.detach())[0].softmax(0) * margins).sum()


class NormalizedLogisticLoss(nn.Module):
    """`normalized_logistic` as a module: `loss(logits, targets)`.

    The gradient of a full batch, followed with a constant step and without momentum or decay, is the method of the
    paper: a mini-batch changes what the large steps tend to. Its value is not the integral of its gradient.

    Examples:
        >>> NormalizedLogisticLoss()(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]))
        tensor(-0.)
    """

    surrogate = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The objective of a batch; see `normalized_logistic`."""
        return normalized_logistic(logits, targets)


class NormalizedLogistic(FeatureReader):
    """Planes that separate each class from all others, by normalised gradient descent with large steps on all items.

    Its scores order classes; they are no logarithms of probabilities, since they grow with the step size.

    Args:
        encoder: inputs to features; frozen.
        classes: how many there are.
        shape: of one input; needed unless an encoder is read, and given by the task.
        gamma: the step size, above 0.
        rule: what an update is, see `separate`.
        most: updates after which a class that is not separated is left as it is, at least 1.
        bias: whether the planes need not pass through the origin: a constant feature of 1 is added.
        gram: whether to work on the products of all pairs of items, see `separate`.
        **recipe: arguments of `FeatureReader`.

    Attributes:
        updates: of each class, how many there were.
        solved: of each class, 1 where its training items are separated from all others.
    """

    updates: Tensor
    solved: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        shape: Sequence[int] | None = None,
        gamma: float = 10.0,
        rule: Rule = "normalized",
        most: int = 1000,
        bias: bool = True,
        gram: bool | None = None,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, shape, **recipe)
        check_number("gamma", gamma, above=0)
        check_number("most", most, at_least=1, whole=True)
        if rule not in get_args(Rule):
            raise unknown("rule", rule, get_args(Rule))
        self.gamma, self.rule, self.most, self.bias, self.gram = gamma, rule, most, bias, gram
        self.register_buffer("updates", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("solved", torch.zeros(classes, dtype=torch.int64))

    def fit(self, data: Any) -> nn.Linear:
        """The planes of all classes that have labels, found together on all features."""
        parts = list(self.labelled_features(data))
        x, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        if self.bias:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        signs = _against_others(labels, self.classes)
        present = (signs > 0).any(0)
        found = _solve(_no_zeros(x), signs.T[present].contiguous(), self.gamma, self.rule, self.most, self.gram)
        self.updates[present] = found.updates.to(self.updates)
        self.solved[present] = found.solved.to(self.solved)
        if not found.solved.all():
            left, known = int((~found.solved).sum()), int(present.sum())
            warnings.warn(f"{left} of {known} classes are not separated from the others after {self.most} updates")
        weight = x.new_zeros(self.classes, x.shape[1]).index_copy(0, present.nonzero().flatten(), found.theta)
        bias = weight[:, -1] if self.bias else weight.new_zeros(self.classes)
        return linear_layer(weight[:, : self.features], bias, present)

    def diagnostics(self, *parts: Any) -> dict[str, float]:
        """The share of the classes that are separated, and the mean number of updates."""
        return {"separated": float(self.solved.double().mean()), "updates": float(self.updates.double().mean())}


# --- the iterations, for several labellings of the same rows at once ---


class _Solution(NamedTuple):
    """As `Separation`, with a row for each labelling; what is recorded is [steps, labellings]."""

    theta: Tensor
    updates: Tensor
    solved: Tensor
    losses: Tensor
    accuracies: Tensor
    norms: Tensor


def _solve(a: Tensor, signs: Tensor, gamma: float, rule: Rule, most: int, gram: bool | None) -> _Solution:
    """Update until all margins of a labelling are above 0, or `most` times.

    Args:
        a: float64, [n, d].
        signs: 1 or -1, [k, n].
        gamma: the step size.
        rule: what an update is.
        most: updates.
        gram: as of `separate`.
    """
    if rule not in get_args(Rule):
        raise unknown("rule", rule, get_args(Rule))
    gram = a.shape[0] < a.shape[1] if gram is None else gram
    planes: _Pairs | _Planes = _Pairs(a, signs) if gram else _Planes(a, signs)
    updates = torch.full(signs.shape[:1], -1, device=a.device)
    losses, accuracies, norms = [], [], []
    last = torch.full_like(updates, -1)
    for update in range(most + 1):
        rows, margins = planes.margins()
        wrong = margins <= 0
        if planes.rounded and bool((~wrong.any(1) & (updates < 0)).any()):
            rows, margins = planes.exact_margins()
            wrong = margins <= 0
        updates = updates.masked_fill(~wrong.any(1) & (updates < 0), update)
        log_weights, each_loss = _log_weights(margins)
        losses.append(each_loss.sum(1) / len(a))
        accuracies.append(1 - wrong.sum(1) / len(a))
        if update == most or bool((updates >= 0).all()):
            break
        if rule == "normalized":
            steps = gamma * log_weights.softmax(1)
        elif rule == "logistic":
            steps = gamma / len(a) * log_weights.exp()
        elif rule == "perceptron":
            steps, last = _next_wrong(wrong, rows, last, len(a))
        else:
            steps = wrong / (wrong.sum(1, keepdim=True).clamp(min=1) if rule == "normalized-perceptron" else len(a))
            steps = steps / (2 if rule == "batch-perceptron" and update == 0 else 1)
        norms.append(planes.add(rows, steps * (updates < 0)[:, None]))
    solved, found = updates >= 0, torch.stack(norms) if norms else losses[0].new_zeros(0, len(signs))
    if rule in ("normalized", "logistic"):
        found = found / gamma
    updates = updates.masked_fill(~solved, most)
    return _Solution(planes.theta(), updates, solved, torch.stack(losses), torch.stack(accuracies).to(found), found)


def _log_weights(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Of each margin the logarithm of its weight, and its logistic loss; of one logarithm."""
    rest = margins.abs().neg_().exp_().log1p_()
    return -(margins.clamp(min=0) + rest), (-margins).clamp(min=0) + rest


def _next_wrong(wrong: Tensor, rows: Tensor | None, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """1 for the next wrong row after the last one that was taken, and which row that is."""
    rows = torch.arange(count, device=wrong.device) if rows is None else rows
    turn = (rows - last[:, None] - 1) % count  # 0 for the row after the last one
    place = turn.masked_fill(~wrong, count).argmin(1)
    return torch.zeros_like(wrong, dtype=torch.float64).scatter_(1, place[:, None], 1.0), rows[place]


class _Planes:
    """Weights of planes, and the margins of the rows.

    With large steps nearly all margins are so large that their weights are less than a rounding error of all, since
    some margin is at most 0 until the end. Which rows may have smaller ones is found in float32, with a bound on its
    errors, and for all weights within some distance of those it is found for: only these rows are then computed, in
    float64, until the weights have gone further.

    Attributes:
        rounded: whether exact margins may differ from those that were given last, by rounding errors that have added
            up.
    """

    rounded = False

    def __init__(self, a: Tensor, signs: Tensor):
        self.a, self.columns, self.signs = a, a.T.contiguous(), signs  # some rows are read from one, all from the other
        self.weights = a.new_zeros(len(signs), a.shape[1])
        self.lengths = torch.linalg.vector_norm(a, dim=1)
        self.short = (self.columns / self.lengths).float()  # rows of length 1
        self.beyond = math.log(2 * len(a) / EPSILON) + 2  # margins from which a row does not count
        self.rows: Tensor | None = None  # that count while the weights are within reach of the anchor
        self.some, self.anchor, self.reach = a, self.weights.clone(), -1.0
        self.many = 0  # how often in succession more rows counted than pays

    def margins(self) -> tuple[Tensor | None, Tensor]:
        """The rows that count, or `None` for all, and their margins."""
        if self.many > 1 and self.many % PATIENCE:
            self.many += 1
            return self.exact_margins()
        if self.rows is None or float(torch.linalg.vector_norm(self.weights - self.anchor, dim=1).max()) > self.reach:
            self._choose()
        if self.rows is None:
            self.many += 1
            return self.exact_margins()
        self.many = 0
        return self.rows, self.signs[:, self.rows] * _scores(self.some.T, self.weights)

    def _choose(self) -> None:
        """Find the rows that count here and as far around as they are few; none where they are many already."""
        long = torch.linalg.vector_norm(self.weights, dim=1, keepdim=True)
        about = self.signs * _scores(self.short, (self.weights / long.clamp(min=TINY)).float())
        error = (len(self.short) + 8) * 2.0**-24  # of a product of vectors of length 1
        far = (long * (about - error) - self.beyond / self.lengths).amin(0)  # where a row may begin to count
        few = len(far) // FEW
        self.reach = max(0.0, float(far.kthvalue(few).values)) if few else 0.0
        rows = (far <= self.reach).nonzero().flatten()
        self.rows = rows if len(rows) < 2 * few else None
        if self.rows is not None:
            self.some, self.anchor = self.a[rows], self.weights.clone()

    def exact_margins(self) -> tuple[None, Tensor]:
        """Of all rows, in float64."""
        self.rows = None
        return None, self.signs * _scores(self.columns, self.weights)

    def add(self, rows: Tensor | None, steps: Tensor) -> Tensor:
        """Update the weights by shares of some rows, times their signs; returns the length of the change."""
        if rows is None:
            change = _combined(self.columns, self.signs * steps)
        else:
            change = _combined(self.some.T, self.signs[:, rows] * steps)
        self.weights += change
        return torch.linalg.vector_norm(change, dim=1)

    def theta(self) -> Tensor:
        """The weights."""
        return self.weights


class _Pairs:
    """The same by the shares of the rows in the weights, and the products of all pairs of rows."""

    def __init__(self, a: Tensor, signs: Tensor):
        self.a, self.signs, self.products = a, signs, a @ a.T
        self.shares = torch.zeros_like(signs)
        self.scores, self.added = torch.zeros_like(signs), 0

    @property
    def rounded(self) -> bool:
        return self.added > 0

    def margins(self) -> tuple[None, Tensor]:
        """Of all rows, as they have become by adding up."""
        return None, self.signs * self.scores

    def exact_margins(self) -> tuple[None, Tensor]:
        """From the shares."""
        self.scores, self.added = _scores(self.products, self.shares), 0
        return self.margins()

    def add(self, rows: Tensor | None, steps: Tensor) -> Tensor:
        """Update the shares; returns the length of the change of the weights."""
        steps = self.signs * steps
        self.shares += steps
        change = _scores(self.products, steps)
        self.scores += change
        self.added += 1
        if self.added == RENEW:
            self.exact_margins()
        return (steps * change).sum(1).clamp(min=0).sqrt()

    def theta(self) -> Tensor:
        """The weights that the shares stand for."""
        return self.shares @ self.a


def _scores(columns: Tensor, weights: Tensor) -> Tensor:
    """Products of weights with all rows, [k, n]; of a single plane as those with a vector, which are twice as fast."""
    return (columns.T @ weights[0])[None] if len(weights) == 1 else weights @ columns


def _combined(columns: Tensor, shares: Tensor) -> Tensor:
    """The sums of the rows with shares, [k, d]."""
    return (columns @ shares[0])[None] if len(shares) == 1 else (columns @ shares.T).T


def _rows(a: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, after checking them."""
    check_matrix("a", a)
    y = check_integers("y", y, len(a), low=-1, high=2)
    if (y == 0).any():
        raise InputError(f"y: expected 1 or -1 for each row, got 0 for {int((y == 0).sum())} of them")
    return _no_zeros(a.detach().double()), y.to(a.device).double()


def _no_zeros(a: Tensor) -> Tensor:
    zero = (~a.any(1)).nonzero().flatten()
    if len(zero):
        raise InputError(
            f"a: expected no row of zeros, which no plane through the origin has on either side, got {len(zero)}, the "
            f"first of them row {int(zero[0])}; append a column of ones"
        )
    return a


def _against_others(labels: Tensor, classes: int) -> Float64[Tensor, "n classes"]:
    """1 in the column of each row's class, -1 in all others."""
    return 2.0 * nn.functional.one_hot(labels, classes).double() - 1
