"""Which kind of learner a task needs, to score by what learners of that kind alone have."""

from __future__ import annotations

from typing import Any, TypeVar

from counterpoise.errors import InputError
from counterpoise.training.run import Run

Kind = TypeVar("Kind")


def of_kind(learner: Any, kind: type[Kind], run: Run, lacks: str) -> Kind:
    """The learner of a run, if it is of the kind that the run's task needs.

    Args:
        learner: of the run.
        kind: a class.
        run: names the method, for the error.
        lacks: what a method of another class lacks, in words that follow its name.

    Raises:
        InputError: for a learner of another class.

    Examples:
        >>> from torch import nn
        >>> of_kind(object(), nn.Module, Run("dcl", "digits"), "has no logits to classify by")
        Traceback (most recent call last):
        counterpoise.errors.InputError: method 'dcl': has no logits to classify by; expected a Module
    """
    if not isinstance(learner, kind):
        raise InputError(f"method '{run.method}': {lacks}; expected a {kind.__name__}")
    return learner
