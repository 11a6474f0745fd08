"""Labels of new images or rows from what a run has learnt, as a table that other programs read.

A network that gives logits of classes is asked itself. Of a run that keeps an encoder alone, the images vote whose
features are nearest, among those that it has learnt from.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from counterpoise import nets, tasks
from counterpoise.commands.embed import escaped, read_images
from counterpoise.commands.predicted_maps import gives_maps, write_maps
from counterpoise.data.folders import counted
from counterpoise.data.images import Images
from counterpoise.data.rows import Rows, load_all_rows, row_files
from counterpoise.data.sources import source_files
from counterpoise.data.state import changed_files, data_state, state_key
from counterpoise.data.views import to_float, to_input
from counterpoise.errors import InputError
from counterpoise.files import check_output, output, read_json
from counterpoise.measure.probes import knn_votes
from counterpoise.ops.checks import check_number
from counterpoise.ops.neighbours import nearest, ranked_in_parts
from counterpoise.tasks import load_image_net, load_net
from counterpoise.training.run import LearnerSettings, Run, other_state

TOP = 3  # labels, and nearest images, that are written of each image
TEMPERATURE = 0.07  # of the votes, as of the kNN accuracy that a run is scored by


class Prediction(NamedTuple):
    """What is predicted of one image.

    Attributes:
        path: its file, relative to the data, or its name.
        labels: up to three classes, the most likely first; none where the image cannot be read.
        confidences: the share of each, from 0 to 1.
        nearest: the files of the nearest labelled images, if these voted.
        map: of a network that gives every pixel a class, the PNG with the classes, relative to the table's folder.
    """

    path: str
    labels: tuple[str, ...] = ()
    confidences: tuple[float, ...] = ()
    nearest: tuple[str, ...] = ()
    map: str | None = None

    @property
    def label(self) -> str | None:
        """The most likely class; `None` where the image cannot be read."""
        return self.labels[0] if self.labels else None


class Items(NamedTuple):
    """All that labels are asked of.

    Attributes:
        items: the images that can be read, or the rows that hold numbers.
        kept: where they are among all.
        names: of all.
    """

    items: Images | Rows
    kept: Int64[Tensor, " kept"]
    names: tuple[str, ...]


class Shares(NamedTuple):
    """Of some images the share of each class, and the nearest labelled images where these have voted."""

    classes: tuple[str, ...]
    shares: Float[Tensor, "images classes"]
    nearest: list[tuple[str, ...]] | None = None


class Known(NamedTuple):
    """The labelled images that a run has learnt from, or that its probes held out."""

    features: Float[Tensor, "known dim"]
    labels: Int64[Tensor, " known"]
    classes: tuple[str, ...]
    paths: tuple[str, ...]


def predict(
    run: str | Path, data: str | Path, out: str | Path, *, k: int = 20, data_dir: str | None = None
) -> list[Prediction]:
    """Write the label of every item of a data set, as far as a run can know it: nothing is divided or left out.

    A run whose network gives logits of classes decides itself. Otherwise the nearest images vote in its features: those
    that the run has learnt from or held out for its probes, each by the label that the run saw. For this its data is
    loaded again, and must be as it was.

    Args:
        run: folder of a finished run on images or rows, from `train` or below `runs/` of a comparison.
        data: an image, a folder of images, a CSV or Parquet file with or without labels, or a known set. For a run on
            rows: a table or a `.npy` file with the same columns, with or without labels.
        out: a `.csv` file: path; label and its confidence from 0 to 1; label_2, confidence_2, label_3 and confidence_3,
            the next likely ones; where images voted, nearest, nearest_2 and nearest_3, their files (or the part of the
            run's data and a number, where there is no file). A row whose image cannot be read has empty cells, and is
            named in a warning. Of a network that gives every pixel a class, the columns are path and map, a PNG of the
            classes' indices in a folder beside the file, of its name without the ending; `classes.csv` there has their
            names. The file may not be there, unless this command wrote it.
        k: how many of the nearest labelled images vote; all where there are fewer.
        data_dir: where full data sets lie.

    Returns:
        One prediction for each image or row, in the order of the data: of a table its rows, of a folder its paths.

    Raises:
        InputError: for a folder without a run, one without classes, or whose images have no labels or were changed
            since; for data that cannot be read, another file ending, or a file that would be replaced.
    """
    target, folder = Path(out), Path(run)
    if target.suffix != ".csv":
        raise InputError(f"out: expected a name that ends in .csv, got '{out}'")
    check_number("k", k, at_least=1, whole=True)
    net, config = load_labelling_net(folder)
    inputs = row_files(data) if "columns" in config else source_files(data, data_dir)
    check_output(target, inputs)
    classes = classes_of(net, config)
    whole = read_items(data, config, data_dir)
    if classes is not None and isinstance(whole.items, Images) and gives_maps(net, whole.items):
        return _predict_maps(net, whole, classes, target, inputs)
    known = known_images(folder, config, net) if classes is None else None
    outputs = nets.embed(net, whole.items, to_input)
    found = by_neighbours(outputs, known, k) if known else by_classifier(outputs, classes or ())
    rows = predictions(whole, found)
    _warn_of_lost(whole)
    with output(target, inputs) as aside:
        pyarrow.csv.write_csv(_table(rows, found.nearest is not None), aside)
    return rows


def _predict_maps(
    net: nn.Module, whole: Items, classes: tuple[str, ...], target: Path, inputs: list[Path]
) -> list[Prediction]:
    """The map of every image as a PNG in a folder beside the table, which names it."""
    folder = target.with_suffix("")
    names = [whole.names[row] for row in whole.kept.tolist()]
    assert isinstance(whole.items, Images)
    paths = write_maps(net, whole.items, names, classes, folder)
    maps = dict(zip(whole.kept.tolist(), (str(path.relative_to(target.parent)) for path in paths), strict=True))
    rows = [Prediction(name, map=maps.get(row)) for row, name in enumerate(whole.names)]
    _warn_of_lost(whole)
    files = [None if row.map is None else escaped(row.map) for row in rows]
    columns = {"path": [escaped(row.path) for row in rows], "map": files}
    with output(target, inputs) as aside:
        pyarrow.csv.write_csv(pa.table({name: pa.array(some, pa.string()) for name, some in columns.items()}), aside)
    return rows


def load_labelling_net(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a run on images, or on rows with a class each; see `tasks.load_net`.

    Raises:
        InputError: as there; for a run on anything else.
    """
    result = folder / "result.json"
    if result.exists() and "columns" in read_json(result):
        return load_net(folder)
    return load_image_net(folder)


def read_items(data: str | Path, config: Mapping[str, Any], data_dir: str | None) -> Items:
    """Every image, or every row, of a data set as a run's network takes it.

    Raises:
        InputError: for data that cannot be read, or is of another kind than the run's.
    """
    if "columns" not in config:
        whole = read_images(data, config, data_dir)
        return Items(whole.images, whole.kept, whole.names)
    found = load_all_rows(data, config["data"], config["columns"])
    return Items(found.rows, found.kept, found.names)


def classes_of(net: nn.Module, config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes that a network gives logits of; `None` of an encoder.

    Args:
        net: of a run; an attribute `classes`, their number or their names, says that it gives logits.
        config: of the run, with the names of its `classes`.

    Raises:
        InputError: if there are not as many names as logits.
    """
    classes = getattr(net, "classes", None)
    if classes is None:
        return None
    names = tuple(config["classes"]) if isinstance(classes, int) else tuple(classes)
    if isinstance(classes, int) and len(names) != classes:
        raise InputError(f"run: its network has {classes} classes, its data {len(names)}")
    return names


def by_classifier(logits: Float[Tensor, "images classes"], classes: tuple[str, ...]) -> Shares:
    """The softmax of a network's logits.

    Raises:
        InputError: for logits of another number of classes, or that are no numbers.
    """
    if logits.shape[1] != len(classes):
        raise InputError(f"run: expected logits of its {len(classes)} classes from its network, got {logits.shape[1]}")
    if not logits.isfinite().all():
        raise InputError("run: its network gives logits that are NaN or infinite")
    return Shares(classes, logits.double().softmax(1))


def by_neighbours(features: Float[Tensor, "images dim"], known: Known, k: int) -> Shares:
    """The share of each class in the votes of the nearest labelled images; see `measure.knn_predict`."""
    votes = torch.zeros(len(features), len(known.classes), dtype=torch.float64)
    for found in ranked_in_parts(features, known.features, min(k, len(known.labels))):
        votes[found.rows] = knn_votes(found, known.labels, len(known.classes), TEMPERATURE)
    _, index = nearest(features, known.features, min(TOP, len(known.labels)))
    near = [tuple(known.paths[i] for i in row) for row in index.tolist()]
    return Shares(known.classes, votes / votes.sum(1, keepdim=True), near)


def known_images(folder: Path, config: Mapping[str, Any], net: nn.Module) -> Known:
    """The labelled images of a run, loaded again, and their features.

    Raises:
        InputError: if they have no labels, or their files are not as they were.
    """
    task = tasks.find(config["task"])
    run = tasks.run_of(config)
    _check_state(folder, run)
    parts = task.parts(_without_weights(run))
    labelled = {name: part for name in ("train", "probe") if (part := _labelled(parts, name)) is not None}
    if not labelled:
        raise InputError(
            f"{folder}: the images of this run have no labels to predict; `embed` gives features of others"
        )
    classes = tuple(dict.fromkeys(name for part in labelled.values() for name in part.classes))
    return Known(
        torch.cat([nets.embed(net, part.with_channels(config["shape"][0]), to_float) for part in labelled.values()]),
        torch.tensor([classes.index(part.classes[i]) for part in labelled.values() for i in part.labels.tolist()]),
        classes,
        tuple(path for part in labelled.values() for path in part.paths or ()),
    )


def _labelled(parts: Any, name: str) -> Images | None:
    """The labelled images of a part of a task's data, if there are any, each with a path or else its number."""
    part = parts.get(name) if isinstance(parts, Mapping) else getattr(parts, name, None)
    if not isinstance(part, Images) or not part.counts().any():
        return None
    named = replace(part, paths=part.paths or tuple(f"{name} {i}" for i in range(len(part))))
    return named.subset((part.labels >= 0).nonzero().flatten())


def _without_weights(run: Run) -> Run:
    """A run as far as its data goes; the weights that it started from may have changed since, or be gone."""
    if not isinstance(run.settings, LearnerSettings):
        return run
    return replace(run, settings=replace(run.settings, init=None, freeze=False, given=None), files=None)


def _check_state(folder: Path, run: Run) -> None:
    """Refuse images that are not those that the run has learnt from."""
    now = data_state(run.data, run.settings.data_dir)
    target = getattr(run.settings, "target", None)
    if target and state_key(other_state(run.settings)) != run.files:
        raise InputError(f"{target}: is not as it was when the run in {folder} learnt from it; train again")
    if state_key(now) == run.state:
        return
    if not now:
        raise InputError(
            f"{run.data}: is not there, and its labelled images are needed that the run in {folder} has learnt from; "
            "start the command in the folder in which the run was started"
        )
    before = folder / "data.json"
    change = changed_files(read_json(before), now) if before.exists() else ""
    raise InputError(
        f"{run.data}: is not as it was when the run in {folder} learnt from it{f' ({change})' if change else ''}; "
        "train again"
    )


def predictions(whole: Items, found: Shares) -> list[Prediction]:
    """A prediction for every item of a data set.

    Args:
        whole: the data set.
        found: of those that could be read.
    """
    rows = [Prediction(name) for name in whole.names]
    shares, order = found.shares.sort(dim=1, descending=True, stable=True)  # of equal ones the first class comes first
    for i, row in enumerate(whole.kept.tolist()):
        ranked = zip(shares[i, :TOP].tolist(), order[i, :TOP].tolist(), strict=True)
        some = [(found.classes[c], share) for share, c in ranked if share > 0]
        rows[row] = Prediction(
            whole.names[row],
            tuple(name for name, _ in some),
            tuple(share for _, share in some),
            found.nearest[i] if found.nearest else (),
        )
    return rows


def _warn_of_lost(whole: Items) -> None:
    """Name the items that have no label in the file, since they could not be read."""
    kept = set(whole.kept.tolist())
    if lost := [name for row, name in enumerate(whole.names) if row not in kept]:
        why = "their images being unreadable" if isinstance(whole.items, Images) else "since they hold no number"
        warnings.warn(counted(f"{whole.items.name}: rows without a label, {why}", lost))


def _table(rows: Sequence[Prediction], nearest: bool) -> pa.Table:
    """The predictions as columns: what a row has less of than others is null."""
    columns = {"path": pa.array([escaped(row.path) for row in rows], pa.string())}
    for i in range(TOP):
        end = f"_{i + 1}" if i else ""
        columns[f"label{end}"] = _column([row.labels for row in rows], i)
        shares = [round(row.confidences[i], 4) if i < len(row.confidences) else None for row in rows]
        columns[f"confidence{end}"] = pa.array(shares, pa.float64())
    for i in range(TOP if nearest else 0):
        columns[f"nearest{f'_{i + 1}' if i else ''}"] = _column([row.nearest for row in rows], i)
    return pa.table(columns)


def _column(texts: Sequence[tuple[str, ...]], i: int) -> pa.Array:
    return pa.array([escaped(row[i]) if i < len(row) else None for row in texts], pa.string())
