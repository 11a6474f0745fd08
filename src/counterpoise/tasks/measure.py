"""The measure task: studies, whose figures are no score of a trained network. It has nothing to train or to compare.

A paper about measuring, or whose claims are not all of a comparison of trained networks, has a module in `studies` with
a function `study(data, seed, …)`, which returns figures by name. A claim of this task states what these must be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from counterpoise.errors import InputError, unknown
from counterpoise.registry import catalogue
from counterpoise.registry.signatures import describe
from counterpoise.tasks.base import NONE_GIVEN, QUIET, Offers, Task, Watch, check_method
from counterpoise.training.run import Run, Scores, Settings


class Measure(Task[None]):
    """The study of a paper. Of its settings only the number of threads matters."""

    name = "measure"
    settings = Settings
    metrics: ClassVar = {}  # each study has its own
    shown: ClassVar = {}
    main = ""
    baseline = ""
    untunable = "which has nothing to train"

    def check(self, run: Run, scored: bool = False) -> None:
        """Refuse to train or compare it: its measure and its study are functions to call.

        Raises:
            InputError: always.
        """
        paper = catalogue.find(run.method)
        if paper.method:
            others = " or ".join(task for task in paper.tasks if task != self.name)
            study = f", or call its study, counterpoise.{paper.study}.study" if paper.study else ""
            raise InputError(
                f"{run.method}: the task measure has nothing to train or compare; compare its method by the task "
                f"{others}{study}"
            )
        raise InputError(
            f"{run.method}: is a measure, with nothing to train or compare; call what counterpoise.{paper.module} "
            f"holds, or its study, counterpoise.{paper.study}.study"
        )

    def check_run(self, run: Run) -> None:
        """Refuse imperfections, which no study takes, and an argument that the study does not have."""
        if run.imperfect:
            raise InputError(f"imperfect: is not for the task {self.name}, whose studies take their data as it is")
        check_method(replace(run, arguments={}))
        known = {argument.name for argument in describe(*catalogue.method_source(run.method, self.name)).arguments}
        for name in run.arguments:
            if name not in known:
                raise unknown(f"argument of {run.method}", name, known)

    def load(self, run: Run) -> None:
        """Nothing: the study loads what it needs."""

    def offers(self, run: Run, parts: None) -> Offers:
        """Nothing: a study draws its own data."""
        return {}

    def make(self, run: Run, parts: None, given: Offers = NONE_GIVEN) -> Any:
        """The study of a run, as a function without arguments."""
        return partial(catalogue.load_class(run.method, self.name), run.data, run.seed, **run.arguments)

    def train(
        self, run: Run, learner: Any, parts: None, folder: Path, watch: Watch = QUIET, rank: int | None = None
    ) -> list[dict[str, float]]:
        """Nothing."""
        return []

    def score(self, run: Run, learner: Any, parts: None, curve: Sequence[Mapping[str, float]]) -> Scores:
        """The figures of the study."""
        return Scores({name: float(value) for name, value in learner().items()})

    def facts(self, parts: None) -> dict[str, Any]:
        """Nothing is known of the study's data."""
        return {"classes": [], "counts": {}, "sizes": {}, "notes": [], "shape": []}

    def kept(self, learner: Any) -> None:
        """Nothing."""

    def keep(self, run: Run, learner: Any, folder: Path, facts: Mapping[str, Any]) -> None:
        """Nothing."""


TASK = Measure()
