r"""Generalization difficulty: the bits of inductive bias that a task demands beyond its training data.

Boopathy, Liu, Hwang, Ge, Mohammedsaleh, Fiete, "Model-agnostic Measure of Generalization Difficulty", ICML 2023,
arXiv 2305.01034.

The measure is a bound on the surprise, $-\log_2 P$, of a hypothesis with a test error of at most $\varepsilon$ among
all hypotheses that fit the training data. The bound is the volume of a ball around the true hypothesis: the test error
there is at most $L_f W$ times the distance of hypotheses, with $L_f$ their Lipschitz constant and $W$ the Wasserstein
distance between the training set and its distribution. Hypotheses are the functions on an m-sphere below a cut-off
frequency.

All sizes are logarithms, since spaces may have more than $10^{300}$ dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Integer
from scipy.special import betaln, gammaln
from torch import Tensor

from counterpoise.errors import InputError, unknown
from counterpoise.measure.accuracy import known_classes
from counterpoise.ops.checks import check_matrix, check_number, check_seed
from counterpoise.ops.neighbours import TILE, nearest

ESTIMATES = ("sample", "evt")


@dataclass(frozen=True)
class HypothesisSpace:
    r"""The space of band-limited functions that contains a task's solution.

    The model of the data's manifold is `combinations` spheres of `dimension` m and `radius` R. On each sphere, each of
    the `outputs` of a function is a sum of eigenfunctions of the Laplace-Beltrami operator up to the frequency
    $M = 2 \pi R / \delta$, the highest frequency that a task of spatial resolution $\delta$ can need.

    Args:
        dimension: intrinsic dimension m of the data, at least 1.
        radius: largest norm R of a data point, above 0.
        resolution: smallest distance $\delta$ between points of different classes, above 0.
        combinations: number d of combinations of the discrete inputs, at least 1; in classification the number of
            classes.
        outputs: number D of outputs, at least 1; in classification one less than the number of classes.
        bound: largest absolute value B of an output, above 0.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> circle = HypothesisSpace(dimension=1, radius=1.0, resolution=math.pi, combinations=2, outputs=1)
        >>> circle.frequency, circle.degree, round(math.exp(circle.log_eigenfunctions), 6)  # 1, cos x, … sin 2x
        (2.0, 2.0, 5.0)
    """

    dimension: float
    radius: float
    resolution: float
    combinations: float
    outputs: float
    bound: float = 1.0

    def __post_init__(self) -> None:
        for name in ("dimension", "combinations", "outputs"):
            check_number(name, getattr(self, name), at_least=1)
        for name in ("radius", "resolution", "bound"):
            check_number(name, getattr(self, name), above=0)
        check_number("radius / resolution", self.radius / self.resolution, at_least=1e-100, at_most=1e100)

    @property
    def frequency(self) -> float:
        r"""$M = 2 \pi R / \delta$."""
        return 2 * math.pi * self.radius / self.resolution

    @property
    def degree(self) -> float:
        """The largest degree of an eigenfunction: the real number K with $K (K + m - 1) = M^2$."""
        m, frequency = self.dimension, self.frequency
        # The root of the quadratic equation in a form without a difference of nearly equal numbers.
        return 2 * frequency * (frequency / (math.hypot(m - 1, 2 * frequency) + m - 1))

    @property
    def log_eigenfunctions(self) -> float:
        r"""$\ln E$, with $E = \binom{m+K}{m} + \binom{m+K-1}{m}$ eigenfunctions of degree up to K."""
        m, degree = self.dimension, self.degree
        # ln C(a, m) by the beta function, which avoids a difference of two large log-gammas.
        low, high = (-math.log(m + k) - float(betaln(k, m + 1)) for k in (degree, degree + 1))
        return high + math.log1p(math.exp(low - high))

    @property
    def log_size(self) -> float:
        r"""$\ln(2 D d E)$, the dimension of the space."""
        return math.log(2) + math.log(self.outputs) + math.log(self.combinations) + self.log_eigenfunctions

    @property
    def log_lipschitz(self) -> float:
        r"""$\ln L_f$ of the Lipschitz constant of a hypothesis in its coefficients and input, $L_f = K \sqrt D / R$."""
        return math.log(self.degree) + math.log(self.outputs) / 2 - math.log(self.radius)

    def log_distance(self, samples: float) -> float:
        r"""$\ln W$, the Wasserstein distance between `samples` training points and their distribution.

        $W = \sqrt{m/6} \, \big( 2 \pi^{(m+1)/2} d / \Gamma(\frac{m+1}{2}) \big)^{1/m} R \, n^{-1/m}$.
        """
        m = self.dimension
        area = math.log(2) + (m + 1) / 2 * math.log(math.pi) - float(gammaln((m + 1) / 2))
        volume = area + math.log(self.combinations) - math.log(samples)
        return math.log(m / 6) / 2 + volume / m + math.log(self.radius)


@dataclass(frozen=True)
class Difficulty:
    """The inductive bias that a task demands.

    Attributes:
        bits: the demand; infinite from about 1e308 on.
        log10_bits: decimal logarithm of the demand; finite for any demand above 0, and minus infinity for 0.
        log10_free: decimal logarithm of the number of dimensions that the data leave free; minus infinity for none.
        bits_each: bits for each free dimension; negative where every hypothesis has at most the error wanted.
        clamped: the reason for a demand of 0 where the formula is negative: "data" (there are more training points than
            dimensions) or "error" (the bound holds for all hypotheses); "" otherwise.
    """

    bits: float
    log10_bits: float
    log10_free: float
    bits_each: float
    clamped: str


def difficulty(space: HypothesisSpace, samples: float, error: float) -> Difficulty:
    r"""Bits of inductive bias that a task demands beyond its training points for a test error of at most `error`.

    $I = (2 D d E - n D) \log_2 \big( B \sqrt{D d} \, L_f W / \varepsilon \big)$ (Boopathy et al., ICML 2023), and 0
    where a factor is negative. At the error that a model reaches, I is the inductive bias of that model.

    Args:
        space: the task's hypotheses.
        samples: number n of training points, at least 1.
        error: the error $\varepsilon$ wanted, above 0, divided by the Lipschitz constant of the loss.

    Returns:
        The difficulty. It grows exponentially with the dimension m only while m is below the frequency M. For m far
        above M the degree is about M²/m, and the space shrinks.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> mnist = HypothesisSpace(14, radius=17.179045827, resolution=2.3987084824, combinations=10, outputs=9)
        >>> print(f"{difficulty(mnist, samples=60_000, error=0.001).bits:.4g}")
        1.485e+16
        >>> difficulty(mnist, samples=1e20, error=0.001).clamped
        'data'
    """
    check_number("error", error, above=0)
    bits_each = _log_bound(space, samples) / math.log(2) - math.log2(error)
    return _demand(_log_free(space.log_size, samples, space.outputs), bits_each)


def error_bound(space: HypothesisSpace, samples: float, bits: float) -> float:
    r"""The test error that a number of bits of inductive bias guarantees: `difficulty` solved for its error.

    Args:
        space: the task's hypotheses.
        samples: number n of training points, at least 1.
        bits: bits I of inductive bias, at least 0.

    Returns:
        The error divided by the Lipschitz constant of the loss: $B \sqrt{D d} \, L_f W \, 2^{-I / (2 D d E - n D)}$.
        With 0 bits it holds for all hypotheses. It is 0 where the data leave no dimension free.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> circle = HypothesisSpace(dimension=1, radius=1.0, resolution=0.3, combinations=2, outputs=1)
        >>> round(error_bound(circle, samples=20, bits=difficulty(circle, samples=20, error=0.07).bits), 12)
        0.07
    """
    check_number("bits", bits, at_least=0)
    log_bound, log_free = _log_bound(space, samples), _log_free(space.log_size, samples, space.outputs)
    if log_free == -math.inf:
        return 0.0
    halvings = _exp(math.log(bits) - log_free) if bits else 0.0
    return _exp(log_bound - halvings * math.log(2))


def classification_space(
    points: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    dimension: float | None = None,
    resolution: float | str = "sample",
    seed: int = 0,
    above: float = 0.0,
) -> HypothesisSpace:
    """The hypothesis space of a labelled data set.

    Args:
        points: flattened inputs in meaningful units, such as pixels from 0 to 1. The function does not centre them, and
            a shift changes the radius.
        labels: class of each row, with at least two classes; -1 leaves a row out.
        dimension: intrinsic dimension; `None` rounds `intrinsic_dimension`.
        resolution: smallest distance between classes, or its estimate: "sample" (`class_distance`), or "evt"
            (`extreme_class_distance`), the authors' default, which depends less on a single mislabelled point.
        seed: of the rows and pairs that the estimates draw.
        above: distances up to this one do not count in the estimate of the resolution, at least 0. The authors leave
            out those below 1 from "sample", and none from "evt".

    Raises:
        InputError: for a single class, coinciding points, NaN, wrong shapes, numbers out of range, or if no distance is
            above `above`.

    Examples:
        >>> points = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 3.0]])
        >>> classification_space(points, torch.tensor([0, 0, 1]), dimension=2)
        HypothesisSpace(dimension=2, radius=5.0, resolution=4.0, combinations=2, outputs=1, bound=1.0)
    """
    check_number("above", above, at_least=0)
    points, labels = _classes(points, labels)
    if dimension is None:
        dimension = max(1, round(intrinsic_dimension(points, seed=seed)))
    if isinstance(resolution, str):
        if resolution not in ESTIMATES:
            raise unknown("resolution", resolution, ESTIMATES)
        estimate = class_distance if resolution == "sample" else extreme_class_distance
        resolution = estimate(points, labels, above=above, seed=seed)
    radius = float(torch.linalg.vector_norm(points, dim=1).amax())
    classes = len(labels.unique())
    return HypothesisSpace(dimension, radius, resolution, classes, classes - 1)


def union(first: HypothesisSpace, second: HypothesisSpace) -> HypothesisSpace:
    """The space of two classification tasks in one, whose inputs are pairs of inputs.

    As in the paper's code, the resolution is that of the first task, with one output for each class of the first task.
    The joint task has the product of both numbers of training points.

    Args:
        first: the space of the first task.
        second: the space of the second task.

    Examples:
        >>> task = HypothesisSpace(2, radius=3.0, resolution=1.0, combinations=10, outputs=9)
        >>> union(task, HypothesisSpace(3, radius=4.0, resolution=0.5, combinations=2, outputs=1))
        HypothesisSpace(dimension=5, radius=5.0, resolution=1.0, combinations=20, outputs=10, bound=1.0)
    """
    return replace(
        first,
        dimension=first.dimension + second.dimension,
        radius=math.hypot(first.radius, second.radius),
        combinations=first.combinations * second.combinations,
        outputs=first.combinations,
    )


def meta_learning_space(
    within: float, across: float, radius: float, resolution: float, ways: int = 20
) -> HypothesisSpace:
    r"""The space of few-shot tasks, which map one example of each of `ways` classes to a classifier.

    An input is a tuple of images of one family (in Omniglot an alphabet). An output is a classifier, so that there are
    $2 w (w - 1) E$ outputs, with E the number of eigenfunctions of single images.

    Args:
        within: intrinsic dimension of the images of one family, at least 1.
        across: intrinsic dimension of the images of all families, at least 1.
        radius: largest norm of an image, above 0.
        resolution: smallest distance between images of different classes, above 0.
        ways: number w of classes of a task, at least 2.

    Raises:
        InputError: for a number out of range, or if the number of outputs exceeds about 1e304.

    Examples:
        >>> space = meta_learning_space(22, 29, radius=49.4064773081425, resolution=5.477225575051661)
        >>> print(f"{space.dimension:g} {space.outputs:.3g} {difficulty(space, 1e30, error=0.01).bits:.3g}")
        447 7.94e+20 1.79e+145
    """
    check_number("ways", ways, at_least=2, whole=True)
    check_number("within", within, at_least=1)
    check_number("across", across, at_least=1)
    single = HypothesisSpace(within, radius, resolution, 1, 2 * ways * (ways - 1))
    if single.log_size > 700:
        raise InputError(f"within: expected at most about 1e304 outputs, got exp({single.log_size:.0f})")
    outputs = single.outputs * math.exp(single.log_eigenfunctions)
    dimension, bound = across + (ways - 1) * within, math.sqrt(ways * (ways - 1))
    return HypothesisSpace(dimension, radius * math.sqrt(ways), resolution, 1, outputs, bound)


def control_difficulty(
    observations: int, actions: int = 1, samples: float = 1e6, resolution: float = 1e-3, error: float = 1e-3
) -> Difficulty:
    r"""Bits of inductive bias that a control task demands of its policy.

    $I = D \big( 2 (2\pi/\delta)^m \frac{\pi^{m/2}}{\Gamma(m/2+1)} - n \big) \log_2 \big( \frac{4\pi^2}{\sqrt6}
    \frac{D \sqrt m}{\delta \varepsilon \, n^{1/m}} \big)$ (Boopathy et al., ICML 2023): observations lie in a cube,
    whose eigenfunctions are waves. A task of T observations of 2 numbers each, as the paper's cartpole, has m = 2T.

    Args:
        observations: number m of inputs of the policy, at least 1.
        actions: number D of outputs of the policy, at least 1.
        samples: number n of time steps seen, at least 1.
        resolution: spatial resolution $\delta$ of the observations in a cube of side 1, above 0.
        error: the distance $\varepsilon$ to the best action wanted, above 0.

    Raises:
        InputError: for a number out of range.

    Examples:
        >>> print(f"{control_difficulty(2, samples=1e4).bits:.4e} {control_difficulty(6, actions=2).bits:.1e}")
        4.4147e+09 2.9e+25
    """
    check_number("observations", observations, at_least=1, whole=True)
    check_number("actions", actions, at_least=1, whole=True)
    check_number("samples", samples, at_least=1)
    check_number("resolution", resolution, above=0)
    check_number("error", error, above=0)
    m = observations
    waves = m * math.log(2 * math.pi / resolution) + m / 2 * math.log(math.pi) - float(gammaln(m / 2 + 1))
    bits_each = (
        math.log2(4 * math.pi**2 / math.sqrt(6) * actions * math.sqrt(m))
        - math.log2(resolution)
        - math.log2(error)
        - math.log2(samples) / m
    )
    return _demand(_log_free(math.log(2 * actions) + waves, samples, actions), bits_each)


def intrinsic_dimension(
    points: Float[Tensor, "n dim"], neighbours: int = 5, queries: int = 10_000, seed: int = 0
) -> float:
    r"""Maximum-likelihood estimate of the dimension of the manifold on which points lie.

    The inverse of the mean of $\ln(T_k / T_j)$ over query points and j = 1 … k-1, with $T_j$ the distance to the j-th
    neighbour (Levina & Bickel, NeurIPS 2004, averaged as MacKay and Ghahramani propose).

    Args:
        points: one row for each point; of equal rows one is kept.
        neighbours: number k of neighbours, at least 2.
        queries: number of query points, drawn from all points.
        seed: of the query points.

    Raises:
        InputError: for k different points or fewer, if all neighbours are equally near, for NaN, and for wrong shapes.

    Examples:
        >>> round(intrinsic_dimension(torch.rand(500, 2) @ torch.randn(2, 10)))
        2
    """
    check_number("neighbours", neighbours, at_least=2, whole=True)
    check_number("queries", queries, at_least=1, whole=True)
    check_seed(seed)
    check_matrix("points", points)
    points = points.detach().unique(dim=0)
    if len(points) <= neighbours:
        raise InputError(f"points: expected more than {neighbours} different rows, got {len(points)}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(points), generator=generator)[:queries].to(points.device)
    distances, _ = nearest(points[drawn], points, neighbours + 1, "euclidean")
    logs = distances[:, 1:].double().log()  # the nearest is the point itself
    mean = float((logs[:, -1:] - logs[:, :-1]).mean())
    if not 0 < mean < math.inf:
        raise InputError("points: all neighbours are equally near, or too near to differ, so there is no dimension")
    return 1 / mean


def class_distance(
    points: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    above: float = 0.0,
    most: int = 30_000,
    seed: int = 0,
) -> float:
    """Smallest distance between points of different classes.

    Args:
        points: one row for each point.
        labels: class of each row, with at least two classes; -1 leaves a row out.
        above: distances up to this one are ignored, as those of the same point under two labels; at least 0.
        most: largest number of points compared, drawn from all points if there are more.
        seed: of the points drawn.

    Raises:
        InputError: if no distance is left, for NaN, wrong shapes, or numbers out of range.

    Examples:
        >>> points, labels = torch.tensor([[0.0], [0.0], [0.25], [1.0]]), torch.tensor([0, 1, 0, 1])
        >>> class_distance(points, labels), class_distance(points, labels, above=0.5)
        (0.25, 0.75)
    """
    check_number("above", above, at_least=0)
    check_number("most", most, at_least=2, whole=True)
    check_seed(seed)
    points, labels = _classes(points, labels)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(points), generator=generator)[:most].to(points.device)
    points, labels = points[drawn], labels[drawn]
    classes = labels.unique()
    smallest = min(_smallest_above(above, points[labels == one], points[labels > one]) for one in classes)
    if smallest == math.inf:
        raise InputError(f"points: no distance between classes is above {above:g}")
    return smallest


def extreme_class_distance(
    points: Float[Tensor, "n dim"],
    labels: Integer[Tensor, " n"],
    above: float = 0.0,
    pairs: int = 4_000_000,
    extremes: int = 2000,
    seed: int = 0,
) -> float:
    r"""Smallest distance between points of different classes, extrapolated from random pairs by extreme value theory.

    From the largest inverse distances $u$ among N pairs, the moments $M_1, M_2$ of $\ln(u/u_{(k)})$ give the index
    $\gamma = M_1 + 1 - \frac12 (1 - M_1^2/M_2)^{-1}$ (Dekkers, Einmahl & de Haan, 1989). The index gives the largest of
    all $P = n^2 (1 - 1/d)$ pairs: $1/\delta = u_{(k)} \big( 1 + M_1 \frac{(kP/N)^\gamma - 1}{\gamma} \big)$. The scale
    $u_{(k)} M_1$ is that of the paper's code, which holds for $\gamma \ge 0$.

    Args:
        points: one row for each point.
        labels: class of each row, with at least two classes; -1 leaves a row out.
        above: as in `class_distance`.
        pairs: number N of pairs, drawn with replacement.
        extremes: number k of the nearest pairs that are used, above 1 and below N.
        seed: of the pairs.

    Returns:
        The estimate, which is at most the smallest distance drawn.

    Raises:
        InputError: as in `class_distance`.

    Examples:
        >>> points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
        >>> labels = torch.arange(200) % 2
        >>> bool(extreme_class_distance(points, labels, pairs=2000, extremes=50) < 0.05)
        True
    """
    check_number("above", above, at_least=0)
    check_number("extremes", extremes, at_least=2, whole=True)
    check_number("pairs", pairs, above=extremes, whole=True)
    check_seed(seed)
    points, labels = _classes(points, labels)
    n, classes = len(points), len(labels.unique())
    distances = _random_distances(points, labels, pairs, seed)
    distances = distances[distances > above]
    if len(distances) <= extremes:
        raise InputError(f"points: expected more than {extremes} distances above {above:g}, got {len(distances)}")
    smallest = distances.topk(extremes + 1, largest=False).values
    logs = smallest[-1].log() - smallest[:-1].log()  # of inverse distances, over the next largest of them
    first, second = float(logs.mean()), float(logs.square().mean())
    observed, growth = float(smallest[0]), math.log(extremes / pairs * n**2 * (1 - 1 / classes))
    spread = second - first**2
    if spread <= 1e-12 * second or growth <= 0:  # equal distances, or no more pairs than were drawn
        return observed
    index = first + 1 - second / spread / 2
    times = math.expm1(index * growth) / index if index else growth
    return min(observed, float(smallest[-1]) / (1 + first * times))


def _log_bound(space: HypothesisSpace, samples: float) -> float:
    r"""$\ln (B \sqrt{D d} \, L_f W)$, a bound on the test error of all hypotheses that fit the training data."""
    check_number("samples", samples, at_least=1)
    size = math.log(space.bound) + (math.log(space.outputs) + math.log(space.combinations)) / 2
    return size + space.log_lipschitz + space.log_distance(samples)


def _log_free(log_size: float, samples: float, outputs: float) -> float:
    """ln of the dimensions left free if each sample fixes one for each output; minus infinity for none."""
    fixed = math.log(samples) + math.log(outputs) - log_size
    return log_size + math.log(-math.expm1(fixed)) if fixed < 0 else -math.inf


def _demand(log_free: float, bits_each: float) -> Difficulty:
    log10_free = log_free / math.log(10)
    if log_free == -math.inf or bits_each <= 0:
        clamped = "data" if log_free == -math.inf else "error"
        return Difficulty(0.0, -math.inf, log10_free, bits_each, clamped)
    log_bits = log_free + math.log(bits_each)
    return Difficulty(_exp(log_bits), log_bits / math.log(10), log10_free, bits_each, "")


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _classes(points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_matrix("points", points)
    labels = known_classes("labels", labels, len(points))
    kept = labels >= 0
    points, labels = points.detach().to(torch.promote_types(points.dtype, torch.float32))[kept], labels[kept]
    classes = len(labels.unique())
    if classes < 2:
        raise InputError(f"labels: expected at least 2 classes, got {classes}")
    return points, labels


def _smallest_above(above: float, queries: Tensor, keys: Tensor) -> float:
    """The smallest distance above a number; queries with no neighbour above it get more neighbours."""
    smallest, k = math.inf, 1
    while len(queries) and k <= len(keys):
        distances, _ = nearest(queries, keys, k, "euclidean")
        smallest = min(smallest, float(distances.where(distances > above, math.inf).amin()))
        queries = queries[distances[:, -1] <= above]
        k = min(8 * k, len(keys)) if k < len(keys) else k + 1
    return smallest


def _random_distances(points: Tensor, labels: Tensor, pairs: int, seed: int) -> Tensor:
    """Distances of random pairs of different classes."""
    n, generator = len(points), torch.Generator().manual_seed(seed)
    points, (_, counts) = points[labels.argsort()], labels.unique(return_counts=True)
    counts, starts = counts.cpu(), counts.cpu().cumsum(0) - counts.cpu()
    distances = []
    for size in torch.arange(pairs).split(max(1, TILE // max(1, points.shape[1]))):
        own = torch.multinomial((counts * (n - counts)).double(), len(size), replacement=True, generator=generator)
        first, second = torch.rand(2, len(size), generator=generator, dtype=torch.float64)
        i = starts[own] + (first * counts[own]).long()
        j = (starts[own] + counts[own] + (second * (n - counts[own])).long()) % n
        distances.append(torch.linalg.vector_norm(points[i.to(points.device)] - points[j.to(points.device)], dim=1))
    return torch.cat(distances).double()
