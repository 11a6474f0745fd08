"""Methods in a user's own file: read without running it, named by its content, imported only while that is the same."""

import multiprocessing
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from counterpoise.commands.arms import Arm, parse_arms
from counterpoise.errors import InputError
from counterpoise.learners.method import Method
from counterpoise.registry import catalogue, user_files
from counterpoise.registry.fingerprint import fingerprint
from counterpoise.registry.signatures import describe

MINE = '''
"""My methods."""
from torch import nn

from counterpoise import Method
from counterpoise.contrast.simclr import NTXentLoss, SimCLR
from counterpoise.contrast.supcon import SupCon


class Weighted(SimCLR):
    """SimCLR, weighted.

    Args:
        weight: of the loss, above 0.
        **recipe: arguments of `SimCLR`.
    """

    def __init__(self, encoder, weight: float = 1.0, **recipe):
        super().__init__(encoder, temperature=0.2, **recipe)
        self.weight = weight

    def loss(self, images, labels, index):
        return self.weight * super().loss(images, labels, index)


class Apart(nn.Module):
    """How far two views are apart.

    Args:
        power: of the distance.
    """

    def __init__(self, power: int = 2):
        super().__init__()
        self.power = power

    def forward(self, z1, z2):
        return (z1 - z2).abs().pow(self.power).mean()


class Labelled(SupCon):
    pass


class Retrieves(Method):
    tasks = ("retrieve",)
    labels = True


class Three(nn.Module):
    def forward(self, z1, z2, z3):
        return z1.sum()


class Plain:
    pass


Made = Method.of(NTXentLoss, dim=32)
NUMBER = 3
'''
ENCODER = {"optimizer", "lr", "weight_decay", "warmup", "augment", "encoder"}


class Encoder(nn.Sequential):
    features = 6

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(4, 6))


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def names(slug):
    return {argument.name: argument for argument in describe(*catalogue.method_source(slug)).arguments}


def write(path, text):
    """What the file of a slug holds from now on."""
    path.write_text(text)
    return f"{path}:M"


METHOD = "from counterpoise import Method\nclass M(Method):\n    def loss(self, images, labels, index):\n"


def test_a_row_is_made_from_the_source(mine):
    row = catalogue.find(f"{mine}:Weighted")
    assert (row.title, row.room, row.labels, row.done) == ("SimCLR, weighted.", "", False, True)
    assert row.tasks == catalogue.find("simclr").tasks
    assert catalogue.find(f"{mine}:Apart").tasks == ("pretrain", "retrieve", "few-shot")
    assert catalogue.find(f"{mine}:Labelled").labels is True  # as SupCon
    assert catalogue.find(f"{mine}:Labelled").title == "Labelled"
    found = catalogue.find(f"{mine}:Retrieves")
    assert (found.tasks, found.labels) == (("retrieve",), True)
    assert catalogue.task_of(f"{mine}:Retrieves") == "retrieve"
    assert catalogue.load_objectives(f"{mine}:Weighted") == ()


def test_reading_runs_nothing(tmp_path):
    slug = write(tmp_path / "loud.py", f"{METHOD}        return self.x\nraise ValueError('was run')")
    assert catalogue.find(slug).method == "M"
    assert "lr" in names(slug)


def test_arguments_are_those_of_the_class_and_of_its_base(mine):
    found = names(f"{mine}:Weighted")
    assert set(found) == ENCODER | {"weight", "views", "hidden", "dim"}
    assert found["weight"].help == "of the loss, above 0."
    assert found["weight"].default == 1.0


def test_arguments_of_an_objective_are_its_own_and_those_of_the_method_around_it(mine):
    found = names(f"{mine}:Apart")
    assert set(found) == ENCODER | {"power", "hidden", "dim"}
    assert (found["power"].default, found["dim"].default) == (2, 64)
    made = names(f"{mine}:Made")
    assert set(made) == ENCODER | {"temperature", "hidden", "dim"}
    assert (made["temperature"].default, made["dim"].default) == (0.1, 32)


@pytest.mark.parametrize(
    ("imported", "base"),
    [
        ("from counterpoise import Method", "Method"),
        ("from counterpoise import Method as Base", "Base"),
        ("from counterpoise.learners.method import Method", "Method"),
        ("import counterpoise", "counterpoise.Method"),
        ("import counterpoise as cp", "cp.Method"),
        ("from counterpoise.learners import method", "method.Method"),
        ("import counterpoise.learners.method", "counterpoise.learners.method.Method"),
        ("import counterpoise.learners.method as m", "m.Method"),
        ("from beside import Own", "Own"),
        ("from below import Own", "Own"),
        ("from below.deep import Own", "Own"),
        ("import below.deep", "below.deep.Own"),
    ],
)
def test_the_base_class_is_found_however_it_is_imported(tmp_path, imported, base):
    own = "from counterpoise import Method\nclass Own(Method):\n    pass\n"
    (tmp_path / "beside.py").write_text(own)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "__init__.py").write_text("from .deep import Own\n")
    (tmp_path / "below" / "deep.py").write_text(own)
    text = f"{imported}\nclass M({base}):\n    def __init__(self, encoder, x: int = 1, **recipe):\n"
    slug = write(tmp_path / "m.py", f"{text}        super().__init__(encoder, **recipe)\n")
    assert set(names(slug)) == ENCODER | {"x"}
    code = fingerprint([catalogue.method_source(slug)[0]])
    assert code == fingerprint([catalogue.method_source(slug)[0], "learners.method"])  # it stands on it


@pytest.mark.parametrize(
    ("text", "slug", "pairs"),
    [
        ("./a.py:M", "./a.py:M", []),
        ("./a.py:M:x=1:y=a:b", "./a.py:M", ["x=1", "y=a", "b"]),
        ("c:/b.py/a.py:M:x=1", "c:/b.py/a.py:M", ["x=1"]),
        ("./a.py", "./a.py", []),
        ("./a.py:x=1", "./a.py", ["x=1"]),
        ("dcl:temperature=0.5", "dcl", ["temperature=0.5"]),
    ],
)
def test_arguments_stand_behind_the_class(text, slug, pairs):
    assert user_files.split_arguments(text) == (slug, pairs)


def test_an_arm_of_a_comparison(mine, monkeypatch):
    monkeypatch.chdir(mine.parent)
    arm = Arm.parse("./mine.py:Weighted:weight=2:weight-decay=0")
    assert arm.label == "./mine.py:Weighted:weight=2:weight-decay=0"
    assert re.fullmatch(re.escape(f"{mine}:Weighted@") + "[0-9a-f]{12}", arm.method)
    assert arm.arguments == (("weight", 2.0), ("weight_decay", 0.0))
    assert catalogue.pinned(arm.method) == arm.method
    assert catalogue.short_slug(arm.method) == "mine-Weighted"
    with pytest.raises(InputError, match=r"'wieght' is not known; did you mean 'weight'"):
        Arm.parse("./mine.py:Weighted:wieght=2")
    assert [a.method for a in parse_arms("dcl,mine.py:Weighted")] == ["dcl", arm.method]
    with pytest.raises(InputError, match=r"'mine\.py:Weighted' is the same as '\./mine\.py:Weighted'"):
        parse_arms(["./mine.py:Weighted", "mine.py:Weighted"])


def test_the_hash_is_of_what_is_computed_wherever_the_file_lies(tmp_path):
    def hashed(text, folder="a"):
        (tmp_path / folder).mkdir(exist_ok=True)
        return catalogue.pinned(write(tmp_path / folder / "m.py", text)).rpartition("@")[2]

    plain = hashed(f"{METHOD}        return 1")
    assert hashed(f'"""Words."""\n# more words\n{METHOD}\n        return (1)', "b") == plain
    assert hashed(f"{METHOD}        return 2") != plain


def test_what_the_file_imports_from_beside_belongs_to_it_and_no_compiled_form_is_left_there(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    slug = write(
        tmp_path / "m.py", "from helper import VALUE\nfrom counterpoise import Method\nclass M(Method):\n    x = VALUE"
    )
    found = set()
    for value in (1, 2):
        (tmp_path / "helper.py").write_text(f"VALUE = {value}")
        found.add(
            (catalogue.pinned(slug), fingerprint([catalogue.method_source(slug)[0]]), catalogue.load_class(slug).x)
        )
    assert {x for *_, x in found} == {1, 2}
    assert len({code for _, code, _ in found}) == len({pin for pin, *_ in found}) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["helper.py", "m.py"]
    assert sys.dont_write_bytecode is False


def test_files_of_two_folders_import_each_its_own(tmp_path):
    for name in "abab":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "helper.py").write_text(f"VALUE = '{name}'")
        slug = write(tmp_path / name / "m.py", f"import helper\n{METHOD}        return 1\nM.x = helper.VALUE")
        assert catalogue.load_class(slug).x == name


def test_a_run_s_file_is_imported_only_while_it_is_the_same(tmp_path):
    slug = write(tmp_path / "m.py", f"{METHOD}        return 1")
    pin = catalogue.pinned(slug)
    first = catalogue.load_class(pin)
    write(tmp_path / "m.py", f"{METHOD}        return 2")
    assert catalogue.load_class(pin) is first  # this process has read it
    assert catalogue.load_class(slug) is not first
    assert catalogue.find(pin).method == "M"
    with pytest.raises(InputError, match=r"m\.py: has been changed since: its content is \w{12}, the run's was \w{12}"):
        catalogue.check_source(slug, pin.rpartition("@")[2])
    user_files._kept.clear()  # as another process begins
    with pytest.raises(InputError, match=r"m\.py: has been changed since"):
        catalogue.load_class(pin)
    write(tmp_path / "m.py", f"{METHOD}        return 1  # again")
    catalogue.check_source(slug, pin.rpartition("@")[2])
    assert catalogue.load_class(pin).__name__ == "M"
    catalogue.check_source("dcl", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nraise ValueError('no\\nluck')", r"m\.py, line 2: ValueError: no luck"),
        ("import nowhere_at_all", r"m\.py, line 1: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("\nimport sys\nsys.exit(3)", r"m\.py, line 3: SystemExit: 3"),
        ("def f():\n    assert False\nf()", r"m\.py, line 2: AssertionError$"),
        ("import broken", r"broken\.py, line 2: ZeroDivisionError: division by zero"),
        ("from counterpoise import Methot", r"m\.py, line 1: ImportError: cannot import name 'Methot'"),
        (
            "from counterpoise.ops.checks import check_number\ncheck_number('x', 2, at_most=1)",
            r"m\.py, line 2: InputError",
        ),
    ],
)
def test_an_error_of_the_file_itself_is_shown_with_its_line(tmp_path, text, message):
    (tmp_path / "broken.py").write_text("\n1 / 0")
    slug, before = write(tmp_path / "m.py", f"{text}\nclass M:\n    pass\n"), {*sys.modules}
    with pytest.raises(InputError, match=message) as refused:
        catalogue.load_class(slug)
    assert "\n" not in str(refused.value)
    assert not [name for name in {*sys.modules} - before if name.startswith("user_file_")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x = 1\ndef f(:\n", r"m\.py, line 2: SyntaxError: invalid syntax"),
        (b"x = 1\nreturn x\n", r"m\.py, line 2: SyntaxError: 'return' outside function"),
        (b"x = 'caf\xe9'\n", r"m\.py.*(SyntaxError|is no Python)"),
        (b"x = \0", r"m\.py.*(null byte|is no Python)"),
    ],
)
def test_what_is_no_python_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "m.py").write_bytes(content)
    with pytest.raises(InputError, match=message):
        catalogue.find(f"{tmp_path}/m.py:M")


@pytest.mark.parametrize(
    ("slug", "message"),
    [
        ("mine.py", r"'mine\.py': expected PATH\.py:CLASS; the file has the classes: Weighted, Apart, Labelled, Ret"),
        ("mine.py:", r"'mine\.py:': expected PATH\.py:CLASS, as in \./mine\.py:MyMethod"),
        ("mine.py:a b", r"expected PATH\.py:CLASS"),
        ("mine.py:Weigthed", r"mine\.py: has no class 'Weigthed'; its classes: Weighted, Apart, .*Plain, Made$"),
        ("mine.py:NUMBER", r"mine\.py: has no class 'NUMBER'"),
        ("none.py:M", r"none\.py: no such file"),
        ("folder.py:M", r"folder\.py: cannot be read \(Is a directory\)"),
    ],
)
def test_what_cannot_be_found_is_named(mine, monkeypatch, slug, message):
    monkeypatch.chdir(mine.parent)
    (mine.parent / "folder.py").mkdir()
    with pytest.raises(InputError, match=message):
        catalogue.find(slug)


@pytest.mark.usefixtures("plain_shapes")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Plain", r"mine\.py: Plain: expected a Method, or an objective of two views.*got Plain"),
        ("Three", r"mine\.py: Three: expected a Method, or .*got forward\(self, z1, z2, z3\)"),
    ],
)
def test_what_is_no_method_is_refused_by_name(mine, name, message):
    with pytest.raises(InputError, match=message):
        catalogue.load_class(f"{mine}:{name}")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("tasks = ('pretrian',)", r"m\.py: M: task 'pretrian' is not known; did you mean 'pretrain'"),
        ("tasks = ()", r"m\.py: M: tasks: expected names of tasks, got \(\)"),
        ("labels = 'no'", r"m\.py: M: labels: expected True or False, got 'no'"),
    ],
)
def test_attributes_that_make_no_sense_are_refused(tmp_path, attributes, message):
    slug = write(tmp_path / "m.py", f"from counterpoise import Method\nclass M(Method):\n    {attributes}\n")
    with pytest.raises(InputError, match=message):
        catalogue.find(slug)


def test_a_learner_of_other_data_must_say_what_it_serves(tmp_path):
    text = "from counterpoise import Learner\nclass M(Learner):\n    x = 1\n"
    with pytest.raises(
        InputError, match=r"m\.py: M: is a Learner, but no Method on images; expected an attribute `tasks`"
    ):
        catalogue.find(write(tmp_path / "m.py", text))
    assert catalogue.find(write(tmp_path / "m.py", f"{text}    tasks = 'regress'\n")).tasks == ("regress",)


def test_a_file_that_python_would_not_import_is_refused(tmp_path):
    (tmp_path / "json.py").write_text("x = 1")
    with pytest.raises(InputError, match=r"json\.py: Python finds 'json' in .*; call this file otherwise"):
        catalogue.load_class(write(tmp_path / "m.py", f"import json\n{METHOD}        return 1"))


@pytest.mark.parametrize("name", ["Weighted", "Apart", "Made"])
def test_methods_and_objectives_are_built_and_pickled(mine, name):
    kind = catalogue.load_class(f"{mine}:{name}")
    assert kind is catalogue.load_class(f"{mine}:{name}")
    assert issubclass(kind, Method)
    learner = kind(encoder=Encoder(), lr=0.5)
    x = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    loss = learner.loss([x, x + 0.1], torch.zeros(8, dtype=torch.int64), torch.arange(8))
    assert loss.ndim == 0
    assert pickle.loads(pickle.dumps(kind)) is kind
    again = pickle.loads(pickle.dumps(learner))
    assert again.lr == 0.5
    assert kind.__module__ in sys.modules


@pytest.mark.slow
def test_another_process_imports_it_by_the_same_name(mine):
    slug = catalogue.pinned(f"{mine}:Weighted")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        name, weight = pool.apply(in_another_process, (slug,))
    assert name == catalogue.load_class(slug).__module__
    assert weight == 3.0


def in_another_process(slug):
    kind = catalogue.load_class(slug)
    return kind.__module__, kind(encoder=Encoder(), weight=3.0).weight


def test_an_error_of_a_method_is_blamed_on_its_line(tmp_path):
    kind = catalogue.load_class(write(tmp_path / "m.py", f"{METHOD}        return images.nothing"))
    with pytest.raises(AttributeError) as failed:
        kind(encoder=Encoder()).loss([], None, None)
    assert re.fullmatch(r".*m\.py, line 4: AttributeError: 'list' object .*", user_files.blamed(failed.value))
    assert user_files.blamed(ValueError("ours")) is None


def test_paths_are_shown_as_they_would_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert user_files.shown(str(tmp_path / "a" / "b.py")) == os.path.join("a", "b.py")
    assert user_files.shown(str(Path("/elsewhere/b.py"))) == "/elsewhere/b.py"
