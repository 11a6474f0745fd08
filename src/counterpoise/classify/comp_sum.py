"""Comp-sum losses: from the sum-exponential over cross-entropy to the mean absolute error, with their guarantees.

Mao, Mohri, Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML 2023, arXiv 2304.07288.

A comp-sum loss is a concave transform of a sum over the wrong classes of a function of how far the label's score is
ahead of theirs. An H-consistency bound says how far a classifier's error can be above the least of its class of
functions, given how far its loss is above the least, both up to a minimizability gap. The smooth adversarial loss adds
how far an attack can move the differences of the scores.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from scipy.optimize import brentq
from torch import Tensor, nn

from counterpoise.data.parts import Labelled
from counterpoise.errors import InputError, unknown
from counterpoise.learners.attacked import attack, check_pixels
from counterpoise.learners.classifier import Classifier
from counterpoise.learners.method import Index, InputViews, Labels
from counterpoise.nets.features import evaluation
from counterpoise.ops.checks import (
    check_finite,
    check_integers,
    check_logits,
    check_matrix,
    check_number,
    check_same_shape,
    check_values,
)
from counterpoise.ops.processes import labelled_mean
from counterpoise.ops.similarity import at_least_float32

Inner = Literal["exp", "margin"]
ROUNDED = {torch.bfloat16: 0.02, torch.float16: 2e-3}  # by how much probabilities may miss a sum of 1; else by 1e-4


def phi(u: Float[Tensor, "*shape"], tau: float = 1.0) -> Float[Tensor, "*shape"]:
    r"""The outer transform, $\Phi_\tau(u) = ((1 + u)^{1 - \tau} - 1) / (1 - \tau)$, and $\log(1 + u)$ at $\tau = 1$.

    Args:
        u: at least 0.
        tau: $\tau \ge 0$.

    Returns:
        Numbers of at least 0 in float32 at least; for u = 0 they are 0.

    Raises:
        InputError: for numbers out of range, or NaN.

    Examples:
        >>> phi(torch.tensor([0.0, 3.0]), tau=2.0)  # 1 - 1 / (1 + u)
        tensor([0.0000, 0.7500])
    """
    check_number("tau", tau, at_least=0)
    check_values("u", u, at_least=0)
    return _of_log(torch.log1p(at_least_float32(u)), tau)


def comp_sum(
    logits: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    tau: float = 1.0,
    inner: Inner = "exp",
    rho: float = 1.0,
) -> Float[Tensor, " batch"]:
    r"""The comp-sum loss of each row, $\Phi_\tau\big(\sum_{k \ne y} \Psi((h_y - h_k) / \rho)\big)$.

    With $\Psi(v) = e^{-v}$ and p the softmax of $h / \rho$ it is $(p_y^{\tau - 1} - 1) / (1 - \tau)$: the loss
    $1 / p_y - 1$ of a sum of exponentials at $\tau = 0$, cross-entropy at 1, generalised cross-entropy with
    $q = \tau - 1$ between 1 and 2, and $1 - p_y$, half the mean absolute error, at 2. Its gradient is that of
    cross-entropy times $p_y^{\tau - 1}$.

    Args:
        logits: $h$, one score per class, of at least 2; a constant added to a row changes nothing.
        targets: class of each row; -1 where it has none.
        tau: $\tau \ge 0$.
        inner: $\Psi$, "exp", or "margin" for $\min(\max(0, 1 - v), 1)$, whose gradient is 0 beyond the margin.
        rho: $\rho > 0$, by which differences of scores are divided.

    Returns:
        One loss a row, at least 0, in float32 at least; 0 where there is no label. Below $\tau = 1$ it is infinite
        where its precision does not hold it: at $\tau = 0$ in float32 for logits that are wrong by 88.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, numbers out of range, or NaN.

    Examples:
        >>> comp_sum(torch.zeros(2, 4), torch.tensor([0, -1]), tau=2.0)  # 1 - 1/4
        tensor([0.7500, 0.0000])
    """
    targets = _check(logits, targets)
    _check_form(tau, inner, rho)
    logits, place = at_least_float32(logits), targets.clamp(min=0)[:, None]
    if rho != 1:
        logits = logits / rho
        check_finite("logits divided by rho", logits)
    if inner == "exp":
        log_of_all = -logits.log_softmax(1).gather(1, place)[:, 0]
    else:
        ahead = logits.gather(1, place) - logits
        log_of_all = (1 - ahead).clamp(0, 1).sum(1).log()  # the label's own term is the 1 of 1 + u
    return _of_log(torch.where(targets >= 0, log_of_all, 0.0), tau)


def adversarial_comp_sum(
    logits: Float[Tensor, "batch classes"],
    attacked: Float[Tensor, "batch classes"],
    targets: Int[Tensor, " batch"],
    tau: float = 1.0,
    rho: float = 1.0,
    nu: float = 1.0,
) -> Float[Tensor, " batch"]:
    r"""The smooth adversarial comp-sum loss of each row, $\Phi_\tau(\cdot / \rho) + \nu \|\Delta(x') - \Delta(x)\|_2$.

    $\Delta(x)$ are the differences $h_y(x) - h_k(x)$ for all k. The first term is `comp_sum` at x with `rho`, which
    does not divide the second.

    Args:
        logits: scores of the inputs x, for at least 2 classes.
        attacked: scores of x', those within the attack's reach that make the second term large; see `displacement`.
        targets: class of each row; -1 where it has none.
        tau: $\tau \ge 0$.
        rho: $\rho > 0$.
        nu: $\nu \ge 0$; the paper's bound asks for $\nu \ge \sqrt{n - 1} / \rho$ with n classes.

    Returns:
        One loss a row, at least 0; 0 where there is no label. Where x' has the scores of x the second term is 0 with a
        gradient of 0. Below $\tau = 1$ it may be infinite, as `comp_sum`.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, numbers out of range, or NaN.

    Examples:
        >>> clean, attacked = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 4.0]])
        >>> adversarial_comp_sum(clean, attacked, torch.tensor([0]), tau=2.0, nu=0.1)  # 1/2 + 0.1 |-4 - 0|
        tensor([0.9000])
    """
    check_number("nu", nu, at_least=0)
    first = comp_sum(logits, targets, tau, "exp", rho)
    moved = displacement(logits, attacked, targets)
    return first + nu * moved if nu else first


def displacement(
    logits: Float[Tensor, "batch classes"], attacked: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    r"""How far an attack moved the differences of the scores, $\|\Delta(x') - \Delta(x)\|_2$ of each row.

    Args:
        logits: scores of the inputs, for at least 2 classes.
        attacked: scores of the attacked inputs.
        targets: class of each row; -1 where it has none.

    Returns:
        One distance a row; 0 where there is no label.

    Raises:
        InputError: for wrong shapes, one class alone, targets that are no class, or NaN.

    Examples:
        >>> displacement(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([0]))
        tensor([4.])
    """
    targets = _check(logits, targets)
    check_same_shape(logits=logits, attacked=attacked)
    check_finite("attacked", attacked)
    moved = at_least_float32(attacked) - at_least_float32(logits)
    moved = moved.gather(1, targets.clamp(min=0)[:, None]) - moved
    size = moved.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)  # no square overflows
    return torch.where(targets >= 0, size[:, 0] * torch.linalg.vector_norm(moved / size, dim=1), 0.0)


# --- guarantees ---


def conditional_minimum(
    p: Float[Tensor, "*points classes"], tau: float = 1.0, bound: float | None = None
) -> Float[Tensor, "*points"]:
    r"""The least expected loss at each point, over all scores, where the label has the distribution p.

    $\big((\sum_k p_k^{1 / (2 - \tau)})^{2 - \tau} - 1\big) / (1 - \tau)$ below $\tau = 2$, the entropy in nats at 1,
    and $(1 - \max_k p_k) / (\tau - 1)$ from 2 on, where it is approached, not attained.

    Args:
        p: probabilities of the classes, which sum to 1.
        tau: $\tau \ge 0$.
        bound: $\Lambda > 0$, if scores are within $[-\Lambda, \Lambda]$. The minimum is then known for certain labels
            alone, $\Phi_\tau((n - 1) e^{-2 \Lambda})$.

    Raises:
        InputError: for no distributions, one class alone, numbers out of range, or a bound beside labels that are not
            certain.

    Examples:
        >>> conditional_minimum(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), tau=0.0)
        tensor([1., 0.])
    """
    check_number("tau", tau, at_least=0)
    _check_distributions(p)
    exact = p.double() / p.double().sum(-1, keepdim=True)  # near τ = 1 small differences are divided by smaller ones
    return _conditional_minimum(exact, tau, bound).to(torch.promote_types(p.dtype, torch.float32))


def _conditional_minimum(p: Tensor, tau: float, bound: float | None) -> Tensor:
    if bound is not None:
        check_number("bound", bound, above=0)
        if (p.amax(-1) < 1 - 1e-4).any():
            raise InputError(
                "bound: the minimum with bounded scores is known for certain labels alone; expected rows of p "
                f"with a 1, got one with a largest probability of {p.amax(-1).min():.3g}"
            )
        return phi(((p.shape[-1] - 1) * torch.exp(p.new_tensor(-2.0 * bound))).expand(p.shape[:-1]), tau)
    if tau >= 2:
        return (1 - p.amax(-1)).clamp(min=0) / (tau - 1)
    if abs(tau - 1) < 1e-6:
        return -torch.xlogy(p, p).sum(-1)
    # The largest is taken out, so that no power underflows as τ nears 2.
    largest = p.amax(-1, keepdim=True)
    log_sum = largest[..., 0].log() + (2 - tau) * (p / largest).pow(1 / (2 - tau)).sum(-1).log()
    return (torch.expm1(log_sum) / (1 - tau)).clamp(min=0)


def minimizability_gap(
    risk: float, p: Float[Tensor, "points classes"], tau: float = 1.0, bound: float | None = None
) -> float:
    r"""The minimizability gap, the least risk of a class of functions less the mean of the least at each point.

    It is at least 0 for the true risk and distributions, and 0 for a class that can give every point scores of its own.
    A risk on training data is optimistic, and the gap then too small, below 0 even.

    Args:
        risk: the least mean loss within the class, as far as it is known, such as the best that training attained.
        p: distribution of the label at each point, which all weigh alike; one-hot rows for labels without noise.
        tau: $\tau \ge 0$.
        bound: $\Lambda$, if scores are within $[-\Lambda, \Lambda]$; see `conditional_minimum`.

    Raises:
        InputError: as `conditional_minimum`; for a risk below 0.

    Examples:
        >>> round(minimizability_gap(0.7, torch.tensor([[1.0, 0.0], [0.5, 0.5]])), 4)  # 0.7 - log(2) / 2
        0.3534
    """
    check_number("risk", risk, at_least=0)
    check_matrix("p", p)
    return risk - float(conditional_minimum(p.double(), tau, bound).mean())


def gap_bound(risk: float, minimum: float, tau: float = 1.0) -> float:
    r"""The most that the minimizability gap can be where labels have no noise, $\Phi_\tau(R_0) - \Phi_\tau(C_0)$.

    It falls as $\tau$ rises: what is hard to fit costs less.

    Args:
        risk: $R_0$, the least risk of the sum-exponential loss ($\tau = 0$) within the class of functions.
        minimum: $C_0$, the least of that loss at a point, the same at all; at most $R_0$.
        tau: $\tau \ge 0$.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> round(gap_bound(3.0, 0.0, tau=0.0), 4), round(gap_bound(3.0, 0.0), 4), gap_bound(3.0, 0.0, tau=2.0)
        (3.0, 1.3863, 0.75)
    """
    check_number("risk", risk, at_least=0)
    check_number("minimum", minimum, at_least=0, at_most=risk)
    both = phi(torch.tensor([risk, minimum], dtype=torch.float64), tau)
    return float(both[0] - both[1])


def transfer(b: float, tau: float = 1.0, classes: int = 2) -> float:
    r"""$T_\tau(b)$, the least excess of the loss at a point where the zero-one loss has an excess of b.

    Args:
        b: from 0 to 1.
        tau: $\tau \ge 0$.
        classes: $n \ge 2$, which matters above $\tau = 1$ alone.

    Returns:
        $\frac{2^{1 - \tau}}{1 - \tau} (1 - A)$ below $\tau = 1$, where
        $A = \big(\frac{(1 + b)^{1 / (2 - \tau)} + (1 - b)^{1 / (2 - \tau)}}{2}\big)^{2 - \tau}$;
        $\frac12 \big((1 + b) \log(1 + b) + (1 - b) \log(1 - b)\big)$ at 1;
        $(A - 1) / ((\tau - 1) n^{\tau - 1})$ between 1 and 2; and $b / ((\tau - 1) n^{\tau - 1})$ from 2 on.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> round(transfer(0.6, tau=0.0), 4), round(transfer(1.0), 4), transfer(0.5, tau=2.0, classes=10)
        (0.2, 0.6931, 0.05)
    """
    check_number("b", b, at_least=0, at_most=1)
    _check_bound(tau, classes)
    return _transfer(b, tau, classes)


def excess_bound(t: float, tau: float = 1.0, classes: int = 2, simple: bool = False) -> float:
    r"""$\Gamma_\tau(t) = T_\tau^{-1}(t)$: the most that the zero-one loss can be in excess, given the loss's excess t.

    For every function h of a class that is symmetric and complete,
    $R_{01}(h) - R_{01}^* + M_{01} \le \Gamma_\tau(R_\tau(h) - R_\tau^* + M_\tau)$, with the least risks $R^*$ of the
    class and its minimizability gaps $M$. Complete means that scores of every height are there: for bounded ones it
    need not hold.

    Args:
        t: excess of the loss, gap included, at least 0.
        tau: $\tau \ge 0$.
        classes: $n \ge 2$, which matters above $\tau = 1$ alone.
        simple: the upper bound in closed form, $\sqrt{2^\tau (2 - \tau) t}$ below $\tau = 1$,
            $\sqrt{2 n^{\tau - 1} t}$ below 2, and $(\tau - 1) n^{\tau - 1} t$ from there.

    Returns:
        A number from 0 to 1.

    Raises:
        InputError: for numbers out of range.

    Examples:
        >>> round(excess_bound(0.2, tau=0.0), 4), round(excess_bound(0.05, tau=2.0, classes=10), 4)
        (0.6, 0.5)
    """
    check_number("t", t, at_least=0)
    check_number("tau", tau, at_least=0)
    _check_bound(tau, classes)
    if t == 0:
        return 0.0
    if tau >= 2 or simple:
        scale = float(classes) ** (tau - 1)
        most = (tau - 1) * scale * t if tau >= 2 else math.sqrt((2**tau * (2 - tau) if tau < 1 else 2 * scale) * t)
        return min(1.0, most)
    if t >= _transfer(1.0, tau, classes):
        return 1.0
    return float(brentq(lambda b: _transfer(b, tau, classes) - t, 0.0, 1.0, xtol=1e-15))


# --- objectives and method ---


class CompSumLoss(nn.Module):
    """`comp_sum` as a module: `loss(logits, targets)`, the mean over the rows that have a label.

    Args:
        tau: at least 0; 1 is cross-entropy, 1.7 generalised cross-entropy, 2 the mean absolute error.
        inner: of the difference to each wrong class, "exp" or "margin".
        rho: above 0, by which differences of scores are divided.

    Examples:
        >>> CompSumLoss(tau=0.0)(torch.zeros(2, 3), torch.tensor([0, 2]))  # 1 / (1/3) - 1
        tensor(2.)
    """

    def __init__(self, tau: float = 1.0, inner: Inner = "exp", rho: float = 1.0):
        super().__init__()
        _check_form(tau, inner, rho)
        self.tau, self.inner, self.rho = tau, inner, rho

    def forward(self, logits: Float[Tensor, "batch classes"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The loss of a batch; 0, with a gradient of 0, where no row has a label. See `comp_sum`.

        Raises:
            InputError: for wrong shapes, one class alone, targets that are no class, or NaN.
        """
        return labelled_mean(comp_sum(logits, targets, self.tau, self.inner, self.rho), targets)


class AdversarialCompSumLoss(nn.Module):
    """`adversarial_comp_sum` as a module: `loss(logits, attacked, targets)`, the mean over the rows with a label.

    Args:
        tau: at least 0.
        rho: above 0, by which differences of scores are divided in the first term.
        nu: at least 0, weight of how far the attack moved them.

    Examples:
        >>> clean, attacked = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 4.0]])
        >>> AdversarialCompSumLoss(tau=2.0, nu=0.1)(clean, attacked, torch.tensor([0]))
        tensor(0.9000)
    """

    def __init__(self, tau: float = 1.0, rho: float = 1.0, nu: float = 1.0):
        super().__init__()
        _check_form(tau, "exp", rho)
        check_number("nu", nu, at_least=0)
        self.tau, self.rho, self.nu = tau, rho, nu

    def forward(
        self,
        logits: Float[Tensor, "batch classes"],
        attacked: Float[Tensor, "batch classes"],
        targets: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """The loss of a batch; 0, with a gradient of 0, where no row has a label. See `adversarial_comp_sum`.

        Raises:
            InputError: for wrong shapes, one class alone, targets that are no class, or NaN.
        """
        return labelled_mean(adversarial_comp_sum(logits, attacked, targets, self.tau, self.rho, self.nu), targets)


class CompSum(Classifier):
    """Training with a comp-sum loss; with a radius against attacks (ADV-COMP-SUM), with its smooth adversarial form.

    Args:
        encoder: inputs to features.
        classes: how many classes the labels have.
        tau: at least 0; 1 is cross-entropy, 1.7 generalised cross-entropy, 2 the mean absolute error.
        inner: of the difference to each wrong class, "exp" or "margin"; with a radius "exp" alone.
        rho: above 0, by which differences of scores are divided; with a radius in the first term alone.
        radius: at least 0; how far an attack may move each pixel, as a share of the range of pixels; 0 for none.
        nu: at least 0; with a radius, weight of how far the attack moves the differences of scores.
        attack_steps: with a radius, steps of the attack in training, at least 1.
        attack_step: with a radius, length of a step as a share of it, above 0.
        **recipe: arguments of `Classifier`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        tau: float = 1.0,
        inner: Inner = "exp",
        rho: float = 1.0,
        radius: float = 0.0,
        nu: float = 1.0,
        attack_steps: int = 10,
        attack_step: float = 0.25,
        **recipe: Any,
    ):
        super().__init__(encoder, classes, **recipe)
        check_number("radius", radius, at_least=0, at_most=1)
        check_number("attack_steps", attack_steps, at_least=1, whole=True)
        check_number("attack_step", attack_step, above=0)
        self.radius, self.attack_steps, self.attack_step = radius, attack_steps, attack_step
        self.objective: nn.Module = AdversarialCompSumLoss(tau, rho, nu) if radius else CompSumLoss(tau, inner, rho)
        if radius and inner != "exp":
            raise InputError(f"inner: expected 'exp' beside a radius, got '{inner}'")

    def loss(self, images: InputViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of one view, and of what an attack makes of it; images without a label are passed over."""
        if not self.radius:
            return self.objective(self.logits(images[0]), labels)
        both = torch.cat([images[0], self.attacked(images[0], labels)])
        clean, attacked = self.logits(both).chunk(2)  # in one batch, so that normalisation is the same for both
        return self.objective(clean, attacked, labels)

    def attacked(self, images: Float[Tensor, "batch ..."], labels: Int[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """What `pgd` on `displacement` makes of inputs in [-1, 1], the network in evaluation mode."""
        with evaluation(self), torch.no_grad():
            clean = self.logits(images)

        def score(logits: Tensor) -> Tensor:
            return displacement(clean, logits, labels)

        return attack(self, images, score, self.radius, self.attack_steps, self.attack_step)

    def check_data(self, images: Labelled, batch_size: int, shares: int = 1) -> None:
        """As any classifier; with a radius, refuse rows of numbers, whose columns have no range in common."""
        super().check_data(images, batch_size, shares)
        if self.radius:
            check_pixels(self, images)


def _of_log(log: Tensor, tau: float) -> Tensor:
    """The transform by log(1 + u), which holds what u would overflow."""
    return log if tau == 1 else torch.expm1((1 - tau) * log) / (1 - tau)


def _transfer(b: float, tau: float, classes: int) -> float:
    if tau >= 2:
        return b / ((tau - 1) * float(classes) ** (tau - 1))
    if abs(tau - 1) < 1e-9:
        return (_x_log_x(1 + b) + _x_log_x(1 - b)) / 2
    # The larger of the two powers is taken out of their mean, so that none overflows as τ nears 2.
    rest = ((1 - b) / (1 + b)) ** (1 / (2 - tau))
    excess = math.expm1(math.log1p(b) + (2 - tau) * math.log1p((rest - 1) / 2)) / (tau - 1)
    return max(0.0, 2 ** (1 - tau) * excess if tau < 1 else excess / float(classes) ** (tau - 1))


def _x_log_x(x: float) -> float:
    return x * math.log(x) if x > 0 else 0.0


def _check_bound(tau: float, classes: int) -> None:
    check_number("tau", tau, at_least=0)
    check_number("classes", classes, at_least=2, whole=True)
    if tau > 1 and (tau - 1) * math.log(classes) > 700:
        raise InputError(f"tau: expected n^(tau - 1) within float64, got tau {tau:g} with {classes} classes")


def _check_form(tau: float, inner: str, rho: float) -> None:
    check_number("tau", tau, at_least=0)
    if inner not in get_args(Inner):
        raise unknown("inner", inner, get_args(Inner))
    check_number("rho", rho, above=0)


def _check_distributions(p: Tensor) -> None:
    check_values("p", p, at_least=0)
    if not p.ndim or p.shape[-1] < 2:
        raise InputError(f"p: expected probabilities of at least 2 classes, got shape {list(p.shape)}")
    sums = p.double().sum(-1)
    if p.numel() and (sums - 1).abs().max() > ROUNDED.get(p.dtype, 1e-4):
        worst = sums.flatten()[(sums - 1).abs().argmax()]
        raise InputError(f"p: expected probabilities that sum to 1, got a sum of {worst:g}")


def _check(logits: Tensor, targets: Tensor) -> Tensor:
    check_logits("logits", logits)
    return check_integers("targets", targets, rows=len(logits), low=-1, high=logits.shape[1])
