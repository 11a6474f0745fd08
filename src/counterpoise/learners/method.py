"""What the methods on images share: views in, loss out, an encoder to keep."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from counterpoise.data.views import Views
from counterpoise.errors import InputError, unknown
from counterpoise.learners.learner import Learner
from counterpoise.nets.heads import mlp
from counterpoise.ops.checks import check_counts

# What `Method.loss` takes: `views` views of each image; class of each, -1 where it has none; its number.
ImageViews = list[Float[Tensor, "batch channel size size"]]
InputViews = list[Float[Tensor, "batch ..."]]  # of images or rows, for methods that take either
Labels = Int[Tensor, " batch"]
Index = Int[Tensor, " batch"]
Batch = tuple[Shaped[Tensor, "batch *shape"], Shaped[Tensor, " batch"], Index]  # of regression: rows, and targets
View = Literal["random", "mild", "plain"]


class Method(Learner):
    """A way to train an encoder: a `LightningModule` whose subclass defines the loss of a batch.

    Args:
        encoder: images [batch, channel, height, width] to features [batch, encoder.features]; what a run keeps.
        augment: uint8 images to one random view each, as float; `None` only scales pixels to [-1, 1].
        optimizer: "adamw", or "sgd" with momentum 0.9.
        lr: peak learning rate; reached after the warm-up, then lowered along a cosine to 0.
        weight_decay: decay of the weights; biases and normalisation parameters are never decayed.
        warmup: share of all steps in which the learning rate rises linearly from 0.

    Attributes:
        views: how many random views of each image the loss takes; or the kind of each, as in ("plain", "random").
    """

    views: int | tuple[View, ...] = 2

    def __init__(self, encoder: nn.Module, *, augment: nn.Module | None = None, **recipe: Any):
        super().__init__(**recipe)
        if not isinstance(getattr(encoder, "features", None), int):
            raise InputError(
                "encoder: expected a module with an attribute `features`, the length of its feature vectors"
            )
        self.encoder = encoder
        self.features: int = encoder.features  # type: ignore[assignment]
        self.augment = augment

    @staticmethod
    def of(objective: nn.Module | type[nn.Module], *, hidden: int = 256, dim: int = 64) -> type[ObjectiveMethod]:
        """A method around an objective that compares two views: the encoder, a projection head, and the objective.

        Args:
            objective: a class of modules that are called with the projections of two views, `objective(z1, z2)`, both
                [batch, dim] and not normalised, and return the loss as a scalar. It is made anew for each run: the
                arguments of its constructor are arguments of the method, and its parameters learn. Or such a module
                itself, of which every run gets a copy.
            hidden: width of the projection head's hidden layer, unless a run is given another.
            dim: width of the projections, unless a run is given another.

        Returns:
            A class of methods.

        Raises:
            InputError: for an objective that cannot be called with two views, or whose constructor has an argument that
                the method has, too.

        Examples:
            >>> class Apart(nn.Module):
            ...     def __init__(self, weight: float = 1.0):
            ...         super().__init__()
            ...         self.weight = weight
            ...     def forward(self, z1, z2):
            ...         return self.weight * (z1 - z2).square().sum(1).mean()
            >>> Mine = Method.of(Apart, dim=32)
            >>> list(inspect.signature(Mine).parameters)
            ['encoder', 'weight', 'hidden', 'dim', 'others']
        """
        check_counts(hidden=hidden, dim=dim)
        _check_objective(objective if isinstance(objective, type) else type(objective))
        return _method_around(objective, hidden, dim)

    @property
    def net(self) -> nn.Module:  # type: ignore[override]
        """The encoder, which is what a run keeps."""
        return self.encoder

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The loss of one batch.

        Args:
            images: `self.views` views of the same images.
            labels: class of each image, -1 where it has none; self-supervised methods ignore them.
            index: which training image each row is, for methods that keep a state per image.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(images, labels, index)")

    def diagnostics(self, train: Any, probe: Any, test: Any) -> dict[str, float]:
        """Figures that the method alone knows after training, by name; nothing by default.

        Args:
            train: the training images, in the order of their index.
            probe: labelled images that were held out, to fit a probe on; none where there are no labels.
            test: unseen images, to judge it by.
        """
        return {}

    def batch_loss(self, batch: Batch) -> Float[Tensor, ""]:
        """`loss` of the views of a batch."""
        pixels, labels, index = batch
        return self.loss(self.views_of(pixels, labels, index), labels, index)

    def views_of(
        self, pixels: Shaped[Tensor, "batch *shape"], labels: Shaped[Tensor, " batch"], index: Index
    ) -> list[Float[Tensor, "batch ..."]]:
        """What `loss` gets of a batch: by default the `views` of each image."""
        kinds: Iterable[View] = ["random"] * self.views if isinstance(self.views, int) else self.views
        return [self.view(pixels, kind).to(self.dtype) for kind in kinds]  # a method may be trained in float64

    def view(self, pixels: Shaped[Tensor, "batch *shape"], kind: View = "random") -> Float[Tensor, "batch ..."]:
        """One view of each image.

        Args:
            pixels: uint8 images.
            kind: "random", by `augment`; "mild", a crop of at least 0.8 of the area, and a flip if `augment` has one;
                "plain", the pixels as they are, in [-1, 1].
        """
        if kind not in get_args(View):
            raise unknown("kind of view", kind, get_args(View))
        if kind == "mild" and isinstance(self.augment, Views):
            return self.augment.mild()(pixels)
        if kind == "plain" or self.augment is None:
            return pixels.to(torch.get_default_dtype()) / 127.5 - 1 if pixels.dtype == torch.uint8 else pixels
        return self.augment(pixels)


class ObjectiveMethod(Method):
    """What `Method.of` makes: two views of an image, projected by a head that is not kept, and compared.

    Args:
        encoder: images to features; what a run keeps.
        hidden: width of the projection head's hidden layer.
        dim: width of the projections.
        **others: arguments of the objective, and of `Method`.
    """

    make_objective: ClassVar[Callable[..., nn.Module]]
    of_objective: ClassVar[frozenset[str]]

    def __init__(self, encoder: nn.Module, hidden: int = 256, dim: int = 64, **others: Any):
        own = {name: others.pop(name) for name in self.of_objective & others.keys()}
        super().__init__(encoder, **others)
        self.head = mlp(self.features, hidden, dim)
        self.objective = type(self).make_objective(**own)

    def loss(self, images: ImageViews, labels: Labels, index: Index) -> Float[Tensor, ""]:
        """The objective of the projections of both views."""
        loss = self.objective(*(self.head(self.encoder(view)) for view in images))
        if not isinstance(loss, Tensor) or loss.ndim:
            got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"{type(self.objective).__name__}: expected the loss as a scalar tensor, got {got}")
        return loss


def _check_objective(kind: type) -> None:
    """Refuse a class whose instances cannot be called with two views."""
    if not issubclass(kind, nn.Module) or kind.forward is nn.Module.forward:
        raise InputError(f"objective: expected an nn.Module with a `forward`, or a class of such, got {kind.__name__}")
    if issubclass(kind, Learner):
        raise InputError(f"objective: expected an objective of two views, got {kind.__name__}, which is a method")
    signature = inspect.signature(kind.forward)
    try:
        signature.bind("self", "z1", "z2")
    except TypeError as error:
        raise InputError(
            f"{kind.__name__}: expected an objective of two views, forward(self, z1, z2), got forward{signature}"
        ) from error


def _method_around(objective: Any, hidden: int, dim: int) -> type[ObjectiveMethod]:
    """A class whose constructor has the objective's arguments beside the method's."""
    parameter, default_hidden, default_dim = inspect.Parameter, hidden, dim
    first, *others = [
        parameter("encoder", parameter.POSITIONAL_OR_KEYWORD),
        parameter("hidden", parameter.KEYWORD_ONLY, default=hidden, annotation="int"),
        parameter("dim", parameter.KEYWORD_ONLY, default=dim, annotation="int"),
        parameter("others", parameter.VAR_KEYWORD),
    ]
    own = []
    if isinstance(objective, type):
        found = inspect.signature(objective).parameters.values()
        own = [p.replace(kind=p.KEYWORD_ONLY) for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    names = frozenset(p.name for p in own)
    if taken := sorted(names & (_own_arguments(ObjectiveMethod) | _own_arguments(Method) | _own_arguments(Learner))):
        raise InputError(f"{objective.__name__}: the method has an argument '{taken[0]}' of its own; call it otherwise")

    def __init__(self: Any, encoder: nn.Module, hidden: int = default_hidden, dim: int = default_dim, **others: Any):
        ObjectiveMethod.__init__(self, encoder, hidden, dim, **others)

    kind = objective if isinstance(objective, type) else type(objective)
    content = {
        "__init__": __init__,
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__signature__": inspect.Signature([first, *own, *others]),
        "make_objective": staticmethod(objective if isinstance(objective, type) else lambda: copy.deepcopy(objective)),
        "of_objective": names,
    }
    return type(f"{kind.__name__}Method", (ObjectiveMethod,), content)


def _own_arguments(kind: type) -> set[str]:
    return {p.name for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD}
