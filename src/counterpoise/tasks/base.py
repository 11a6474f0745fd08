"""What a task is: the data, what a method is offered of it, how it trains, and how what it learnt is scored.

`engine.execute` runs every task by the same steps: `load`, `make`, `train`, `score`, `keep`. A task overrides those
that differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from counterpoise.data.images import shape_of
from counterpoise.errors import InputError, unknown
from counterpoise.files import read_json
from counterpoise.learners.learner import Learner
from counterpoise.nets.backbones import backbone, is_backbone
from counterpoise.nets.frozen import Frozen
from counterpoise.nets.rows import row_backbone
from counterpoise.nets.weights import load_weights
from counterpoise.registry import catalogue
from counterpoise.registry.arguments import given_values
from counterpoise.registry.signatures import describe
from counterpoise.tasks.weights import NET, save_net
from counterpoise.training.run import LearnerSettings, Metric, Run, Scores, Settings
from counterpoise.training.trainer import check_sizes, fit

Parts = TypeVar("Parts")
Offers = Mapping[str, Callable[[], Any]]
"""What a method's constructor may ask for, by the name of its parameter; made only where it asks."""


class Watch(NamedTuple):
    """What watches a run while it trains.

    Attributes:
        loggers: where the learning curve goes besides `curve.csv`.
        progress: whether a progress bar is shown.
        callbacks: further Lightning callbacks.
    """

    loggers: tuple[str, ...] = ()
    progress: bool = False
    callbacks: tuple[Callback, ...] = ()


QUIET = Watch()
NONE_GIVEN: Offers = {}


class Given(NamedTuple):
    """A model that a run stands on, for a role such as teacher or start.

    Attributes:
        role: the parameter by which a method's constructor asks for it.
        run: what trains it, once for all runs that need it; `None` for one of the user's, or none at all.
        source: the user's: the folder of a run, or BACKBONE@FILE; "pretrained" as a file takes the library's weights.
    """

    role: str
    run: Run | None = None
    source: str | None = None

    @property
    def backbone(self) -> str | None:
        """The name of its backbone; `None` where there is no model."""
        if self.run is not None:
            return getattr(self.run.settings, "backbone", None)
        if self.source is None or "@" in self.source:
            return self.source and self.source.partition("@")[0]
        return read_json(Path(self.source).expanduser() / "config.json")["settings"].get("backbone")


class Task(Generic[Parts]):
    """What makes methods comparable.

    Attributes:
        name: of the task, as `--task` takes it.
        settings: the class of its settings, which are the flags that it takes.
        metrics: what a run is scored by, by name.
        shown: the columns of a comparison's table: a heading for each of some metrics.
        main: the metric that methods are judged by.
        curve: what the online probe measures, by name; the first of them is shown while a run trains.
        per_class: the metric of which `Scores.per_class` holds one value a class.
        pictures: the files of pictures that each run keeps, of "gallery" and "strips".
        items: what the data consists of, in the plural.
        roles: the models that methods of this task may stand on: for each role, what it is unless the user says.
        recipes: for a role, the words that name a way to train it.
        baseline: what the others are measured against, unless the user chooses another.
        references: what costs no training, to measure methods by: slugs of `catalogue.REFERENCES` by their names there
            and in claims, "raw", "untrained" and "start".
        imperfections: whether the data can be made imperfect.
        distributed: whether several processes can train one run.
        trains_on_all: whether all data can be trained on, with none left to score by.
        front: two metrics of which a method may be better in one and worse in the other, if the task has such.
        untunable: why arguments of its methods cannot be tuned, in words that follow the task's name; `None` where they
            can: then it has `tuning_parts`.
    """

    name: ClassVar[str]
    settings: ClassVar[type[Settings]] = LearnerSettings
    metrics: ClassVar[Mapping[str, Metric]]
    shown: ClassVar[Mapping[str, str]]
    main: ClassVar[str]
    curve: ClassVar[Mapping[str, Metric]] = {}
    per_class: ClassVar[str | None] = None
    pictures: ClassVar[tuple[str, ...]] = ()
    items: ClassVar[str] = "images"
    roles: ClassVar[Mapping[str, str]] = {}
    recipes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    baseline: ClassVar[str]
    references: ClassVar[Mapping[str, str]] = {}
    imperfections: ClassVar[bool] = False
    distributed: ClassVar[bool] = False
    trains_on_all: ClassVar[bool] = False
    front: ClassVar[tuple[str, str] | None] = None
    untunable: ClassVar[str | None] = None

    def declared(self, settings: Settings) -> dict[str, Any]:
        """What the results of a comparison say of the task; see `report.declarations`.

        Args:
            settings: of the comparison.
        """
        group = getattr(settings, "group", None)
        heading = f"Who gains: by {group}, and by the training {self.items} of a class"
        meaning = f"Groups named {group} are of the test {self.items} with that value; the others are of classes."
        return {
            "groups": {"metric": self.main, "heading": heading, "meaning": meaning} if group else None,
            "task": self.name,
            "main": self.main,
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "shown": dict(self.shown),
            "curve": {name: asdict(metric) for name, metric in self.curve.items()},
            "per_class": self.per_class,
            "pictures": list(self.pictures),
            "front": None if self.front is None else list(self.front),
        }

    def load(self, run: Run) -> Parts:
        """The data of a run: to train on, to score by, and whatever the task needs besides."""
        raise NotImplementedError

    def parts(self, run: Run) -> Parts:
        """What a run trains on and is scored by: its data, or of a run of tuning, a division of what it trains on."""
        parts = self.load(run)
        return self.tuning_parts(run, parts) if run.tuning else parts

    def tuning_parts(self, run: Run, parts: Parts) -> Parts:
        """The data of a run of tuning: what is trained on, divided again into what is trained on and what chooses.

        Nothing of it may depend on what scores. The labels that choose are those that were given for training, with
        their imperfections, since a user has no others.

        Args:
            run: for its seed, which draws what is held out.
            parts: the data of a run that is scored.

        Raises:
            InputError: for data of which too little can be held out.
        """
        raise NotImplementedError

    def training_data(self, parts: Parts) -> Any:
        """Of the data, what is trained on."""
        return parts.train  # type: ignore[attr-defined]

    def sample(self, run: Run, parts: Parts, most: int) -> Parts:
        """Some of each part of the data, on which a few steps are quick; by default all of it.

        Args:
            run: whose data it is.
            parts: from `load`.
            most: items of each part.
        """
        return parts

    def check(self, run: Run, scored: bool = False) -> Parts:
        """Refuse a run that cannot work, before anything is written: its data is loaded and its method built.

        Args:
            run: what is to be run.
            scored: whether it needs labels to be scored by.

        Returns:
            The run's data.

        Raises:
            InputError: for whatever is at fault.
        """
        self.check_run(run)
        parts = self.parts(run)
        self.check_parts(run, parts, scored)
        data, settings = self.training_data(parts), run.settings
        learner = self.make(run, parts, self.blank_models(run, shape_of(data)) if self.roles else NONE_GIVEN)
        if isinstance(learner, Learner) and isinstance(settings, LearnerSettings):
            group = settings.process_group()
            if learner.trains:
                check_sizes(len(data), settings.batch_size, group)
            learner.check_training(settings.accumulate, settings.precision, group.size)
            shares = group.size if getattr(settings, "exchange", "gather") == "none" else 1
            learner.check_data(data, min(settings.batch_size, len(data)), shares)
        return parts

    def check_run(self, run: Run) -> None:
        """Refuse what the task cannot do, whatever the data."""
        self._check_settings(run.settings)
        if run.imperfect and not self.imperfections:
            raise InputError(f"imperfect: is not for the task {self.name}, whose data stays as it is")
        if run.train_on_all and not self.trains_on_all:
            raise InputError(f"all: is not for the task {self.name}, which is scored by what it holds out")
        if run.tuning:
            self.check_tunable()
        if run.tuning and run.train_on_all:
            raise InputError("all: trains on every item; expected some to hold out for tuning")
        if run.settings.process_group().size > 1 and not self.distributed:
            raise InputError(f"devices: expected 1; the task {self.name} trains in one process")

    def check_tunable(self) -> None:
        """Refuse to tune where nothing can be held out to choose by."""
        if self.untunable:
            raise InputError(f"tune: is not for the task {self.name}, {self.untunable}")

    def _check_settings(self, settings: Settings) -> None:
        """Refuse settings that the task does not have, by name, instead of passing them over."""
        if not isinstance(settings, self.settings):
            raise InputError(
                f"settings: expected {self.settings.__name__} for the task {self.name}, got {type(settings).__name__}"
            )
        known = [f.name for f in fields(self.settings)]
        for f in fields(settings):
            if f.name not in known and getattr(settings, f.name) != f.default:
                raise InputError(f"{f.name}: is no setting of the task {self.name}, which takes {', '.join(known)}")

    def check_parts(self, run: Run, parts: Parts, scored: bool) -> None:
        """Refuse data that the task cannot learn from or score by."""

    def summary(self, run: Run, parts: Parts) -> str | None:
        """What is trained on and what is held out, in one line, if there is anything to say."""
        return None

    def offers(self, run: Run, parts: Parts) -> Offers:
        """What the constructor of a method may ask for besides its own arguments."""
        return {"samples": lambda: len(self.training_data(parts))}

    def given(self, run: Run) -> list[Given]:
        """The models that a run's method asks for, one for each role that its constructor names.

        Raises:
            InputError: for a role that the task does not have, or a value that it cannot make a model of.
        """
        chosen = given_values(getattr(run.settings, "given", None))
        for role in chosen:
            if role not in self.roles:
                raise unknown(f"given: role of the task {self.name}", role, self.roles)
        asked = inspect.signature(catalogue.load_class(run.method)).parameters
        return [self.resolve(run, role, chosen.get(role, usual)) for role, usual in self.roles.items() if role in asked]

    def resolve(self, run: Run, role: str, value: str) -> Given:
        """What the value of a role stands for: a recipe, a backbone, the user's weights, or none.

        Raises:
            InputError: for anything else, naming what there is.
        """
        if value == "none":
            return Given(role)
        if value in self.recipes.get(role, ()):
            return Given(role, run=self.given_run(run, role, value))
        name, _, file = value.partition("@")
        if is_run(value):
            return Given(role, source=value)
        if file and is_backbone(name):
            if file != "pretrained" and not Path(file).expanduser().exists():
                raise InputError(f"given: {role}: '{file}' does not exist")
            return Given(role, source=value)
        if not file and is_backbone(value):
            return Given(role, run=self.given_run(run, role, value))
        recipes = "".join(f"{recipe}, " for recipe in self.recipes.get(role, ()))
        raise InputError(
            f"given: {role}: expected {recipes}a backbone, BACKBONE@FILE, the folder of a run, or none, got '{value}'"
        )

    def given_run(self, run: Run, role: str, value: str) -> Run:
        """The run that trains the model of a role.

        Args:
            run: what needs it: its data, imperfections and seed are those of the model, too.
            role: of `roles`.
            value: a recipe of that role, or a backbone.
        """
        raise NotImplementedError

    def reference_run(self, run: Run, name: str) -> Run | None:
        """The run of a reference on the data and seed of another run; `None` where there is no such reference.

        Args:
            run: what is measured by it.
            name: of `references`; a start is there only where the settings have weights to start from.

        Raises:
            InputError: for a name that the task does not have.
        """
        if name not in self.references:
            raise unknown(f"reference of the task {self.name}", name, self.references)
        settings = run.settings
        changes: dict[str, Any] = {"epochs": 1}  # whatever the methods have: the run is then found again
        if isinstance(settings, LearnerSettings):
            if name == "start" and not settings.init:
                return None
            init = settings.init if name == "start" else None
            changes |= {"init": init, "freeze": False, "given": None, **PLAINLY}
        own = replace(settings, **changes)
        return replace(run, method=self.references[name], arguments={}, settings=own, files=None)

    def given_net(self, run: Run, role: str, name: str, shape: Sequence[int], pretrained: bool = False) -> nn.Module:
        """A network for the model of a role, before its weights: by default a backbone for the task's inputs.

        Args:
            run: what needs it.
            role: of `roles`.
            name: of the backbone.
            shape: of one input.
            pretrained: whether it starts from the library's own weights.
        """
        return encoder_of(name, shape, pretrained)

    def blank_models(self, run: Run, shape: Sequence[int]) -> Offers:
        """Networks like the models that a run stands on, with random weights, to build its method with.

        Args:
            run: what needs them.
            shape: of one input.
        """
        return {
            given.role: partial(self.given_net, run, given.role, given.backbone, shape) if given.backbone else _nothing
            for given in self.given(run)
        }

    def given_model(self, role: str, net: nn.Module) -> nn.Module:
        """What a role gets of a network that another run kept: by default all of it."""
        return net

    def inputs(self, run: Run, shape: Sequence[int], data: Any = None) -> dict[str, Any]:
        """What the constructor of every method gets first, by name: a fresh encoder, drawn from the run's seed.

        Args:
            run: for its settings.
            shape: of one input.
            data: what is trained on, of which an encoder may take what it does not learn, such as the scale of rows;
                `None` where it gets trained weights afterwards.
        """
        raise NotImplementedError

    def make(self, run: Run, parts: Parts, given: Offers = NONE_GIVEN) -> Any:
        """The learner of a run, with fresh weights that are drawn from the run's seed.

        Args:
            run: names the method and its arguments.
            parts: the run's data.
            given: the models that it stands on, by role; without them, a method that asks for one gets `None`.

        Raises:
            InputError: for an unknown method or argument, or one out of range.
        """
        data = self.training_data(parts)
        offers = {**dict.fromkeys(self.roles, _nothing), **self.offers(run, parts), **given}
        return make(run, offers, lambda: self.inputs(run, shape_of(data), data))

    def train(
        self, run: Run, learner: Any, parts: Parts, folder: Path, watch: Watch = QUIET, rank: int | None = None
    ) -> list[dict[str, float]]:
        """Train a run's learner in its folder, going on where an earlier call was stopped.

        Args:
            run: for its settings and seed.
            learner: to train.
            parts: the run's data.
            folder: of the run.
            watch: what watches it.
            rank: of this process among those that train together; `None` for a process by itself, which also goes on
                from what several have trained.

        Returns:
            The learning curve, one dictionary an epoch; see `trainer.fit`.
        """
        settings = run.settings
        assert isinstance(settings, LearnerSettings)
        if settings.minutes is not None:
            raise InputError("minutes: expected steps by now; `engine.budget.settled_budget` turns minutes into them")
        return fit(
            learner,
            self.training_data(parts),
            epochs=settings.epochs,
            steps=settings.steps,
            batch_size=settings.batch_size,
            seed=run.seed,
            folder=folder,
            probe=self.probe(run, parts),
            precision=settings.precision,
            compile=settings.compile,
            accumulate=settings.accumulate,
            loggers=watch.loggers,
            device=settings.device,
            process_group=None if rank is None else settings.process_group(rank),
            progress=watch.progress,
            callbacks=watch.callbacks,
        )

    def probe(self, run: Run, parts: Parts) -> Any:
        """What is measured of the learner after every epoch, if anything is; see `trainer.Probe`."""
        return None

    def score(self, run: Run, learner: Any, parts: Parts, curve: Sequence[Mapping[str, float]]) -> Scores:
        """All that is found of a trained learner."""
        raise NotImplementedError

    def facts(self, parts: Parts) -> dict[str, Any]:
        """What a result says of its data: classes, counts, sizes, notes and shape."""
        raise NotImplementedError

    def kept(self, learner: Any) -> nn.Module | None:
        """What a run keeps of its learner."""
        return learner.net

    def keep(self, run: Run, learner: Any, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write what the run keeps of its learner into its folder: `net.safetensors`."""
        if (net := self.kept(learner)) is not None:
            save_net(folder / NET, net, run.config(), facts)


PLAINLY: Mapping[str, Any] = {"steps": None, "minutes": None, "precision": "32", "compile": False, "accumulate": 1}
"""Settings of a run whose way of training is of no account."""


def encoder_of(name: str, shape: Sequence[int], pretrained: bool = False) -> nn.Module:
    """An encoder by the name of its backbone.

    Args:
        name: of a backbone of images, or of rows.
        shape: of one input: (channels, height, width), or (columns,).
        pretrained: whether it starts from the library's own weights.

    Raises:
        InputError: for an unknown name; for rows, of which no library has weights.

    Examples:
        >>> encoder_of("small", (1, 28, 28)).features, encoder_of("identity", (13,)).features
        (320, 13)
    """
    if len(shape) > 1:
        channels, height, _ = shape
        return backbone(name, channels, height, pretrained=pretrained)
    if pretrained:
        raise InputError("init: pretrained weights are for encoders of images, got rows of numbers")
    return row_backbone(name, shape[0])


def blank_encoder(settings: LearnerSettings, shape: Sequence[int]) -> nn.Module:
    """The encoder that the settings name, with random weights, or with those of its library; see `encoder_of`."""
    if len(shape) == 1 and settings.augmentations is not None:
        raise InputError(f"augmentations: are views of images, got rows of {shape[0]} numbers")
    return encoder_of(settings.backbone, shape, settings.init == "pretrained")


def start_encoder(settings: LearnerSettings, encoder: nn.Module) -> nn.Module:
    """A run's encoder: with the weights that the settings' `init` names, if they do, and frozen if they say so.

    What of a file does not fit is a warning that names and counts it.

    Args:
        settings: of the run.
        encoder: from `blank_encoder`; it is changed.

    Raises:
        InputError: for weights that cannot be loaded, or of which too few fit.
    """
    init = settings.init
    if init and init != "pretrained":
        load_weights(encoder, init)
    return Frozen(encoder, stored=True) if settings.freeze else encoder


def is_run(value: str) -> bool:
    """Whether a value names the folder of a run."""
    return (Path(value).expanduser() / "config.json").exists()


def _nothing() -> None:
    """What is given where there is nothing."""


def make(run: Run, offers: Offers, first: Callable[[], Mapping[str, Any]]) -> Any:
    """A run's method: its class called with fresh inputs, with those offers that it asks for, and with its arguments.

    Args:
        run: names the method, its arguments and the seed.
        offers: made only where a parameter of the method's constructor has that name; they may draw random numbers.
        first: made next, with the random numbers of the run's seed, which the method itself goes on with.

    Raises:
        InputError: for a method that does not serve the run's task, or an unknown argument.
    """
    check_method(run, offers)
    kind = catalogue.load_class(run.method)
    given = offered(run, offers)
    torch.manual_seed(run.seed)
    own = {**first(), **given, **run.arguments}
    for name, parameter in inspect.signature(kind).parameters.items():
        plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if plain and parameter.default is parameter.empty and name not in own:
            raise InputError(f"{name}: {run.method} asks for it, and neither the task {run.task} nor you give it")
    return kind(**own)


def offered(run: Run, offers: Offers) -> dict[str, Any]:
    """Those offers that the constructor of a run's method asks for, made."""
    wanted = inspect.signature(catalogue.load_class(run.method)).parameters
    return {name: offer() for name, offer in offers.items() if name in wanted}


def check_method(run: Run, taken: Iterable[str] = ()) -> None:
    """Refuse a run whose method does not serve its task, or does not have its arguments.

    Args:
        run: names them.
        taken: parameters that are not the user's to give.
    """
    source, tasks = catalogue.method_source(run.method), catalogue.find(run.method).tasks
    if run.task not in tasks:
        raise InputError(f"method '{run.method}' does not serve the task {run.task}; it serves: {', '.join(tasks)}")
    known = {argument.name for argument in describe(*source).arguments} - {*taken}
    for name in run.arguments:
        if name not in known:
            raise unknown(f"argument of {run.method}", name, known)
