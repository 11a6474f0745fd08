"""Thousands of generated inputs: whatever comes in, a result or an `InputError` comes out, never a traceback."""

import json
import math
import string
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from conformance.test_objectives import FLOATS, INTEGERS, OBJECTIVES
from counterpoise import cli
from counterpoise.commands.arms import Arm, choose_baseline, parse_arms
from counterpoise.commands.compare import command_line
from counterpoise.data import Images, load
from counterpoise.data.idx import read_idx
from counterpoise.data.imperfect import IMPERFECTIONS, make_imperfect, parse_spec
from counterpoise.engine.given import run_folder
from counterpoise.errors import InputError
from counterpoise.files import read_json
from counterpoise.registry import catalogue
from counterpoise.registry.signatures import describe
from counterpoise.training.run import ImageSettings, Run, make_settings
from worlds import build

# How many inputs of each kind `make faults` generates; `make test` takes a thirtieth of them.
COUNTS = {
    "command lines": 3000,
    "words": 1500,
    "methods": 1000,
    "objectives": 4000,
    "imperfections": 300,
    "files": 1000,
}
PART = {"few": 1 / 30, "many": 1}
scaled = pytest.mark.parametrize("scale", ["few", pytest.param("many", marks=pytest.mark.faults)])


def try_all(kind, scale, strategy, check):
    """Check so many generated inputs, the same in every run."""
    count, seen = max(1, round(COUNTS[kind] * PART[scale])), Counter()

    @settings(
        max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def check_one(drawn):
        seen["inputs"] += 1
        check(drawn)

    check_one()
    assert seen["inputs"] >= count


def test_there_are_ten_thousand():
    assert sum(COUNTS.values()) >= 10_000


def refused(call, *given, **named):
    """What a call returns, or None where it refuses its input in one line."""
    try:
        return call(*given, **named)
    except InputError as error:
        assert str(error).strip()  # noqa: PT017
        return None


# The command line. Words are flags of the command, flags that it does not have, and values of every sort.

NUMBERS = "0 1 2 -1 7 0.5 1e-3 -0.0 1e999 nan inf -inf 1_000 ٣ 0x10 1,2 1,,2".split()  # noqa: SIM905
HUGE = ["9" * 20, "-" + "9" * 40, "9" * 400, "9" * 5000, "1e308"]
ODD = [
    *[",", "=", ":", "--", "-", "-h", "--help", "é漢🙂", "[bold]", "%s", "{}", "~", "~nobody-there/x"],
    "",
    " ",
    "\n",
    "a\nb",
    "\0",
    "caf\udce9",
    "a" * 300,
]
NAMES = """simclr dcl dcl:temperature=0.5 dcl:temperature room:contrast room:act room: simclr,dcl mochi digits
    mnist:full hf: torchvision: torchvision:CIFAR10 hf:x/y glyphs pretrain long-tail=10 train:noise=0.1 label-noise=2
    x.parquet e.npy true cpu 16-mixed ddp""".split()  # noqa: SIM905
values = st.one_of(
    st.sampled_from([*NUMBERS, *HUGE, *ODD, *NAMES]),
    st.text(max_size=8),
    st.text(st.sampled_from(string.ascii_letters + "=:,.-0123456789"), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)


def flags_of(command):
    """All flags of a command, read from its help where that has them."""
    found = ["--debug", "--help", "-h", "--method", "--json", "--done"]
    for module, name in {
        "data": [("commands.data", "show_data")],
        "compare": [("commands.compare", "compare"), ("training.run", "ImageSettings")],
        "train": [("commands.train", "train"), ("training.run", "ImageSettings"), ("contrast.dcl", "DCL")],
        "predict": [("commands.predict", "predict")],
        "embed": [("commands.embed", "embed")],
        "export": [("commands.export", "export")],
        "claim": [("commands.claim", "claim")],
        "scenes": [("commands.scenes", "scenes")],
    }.get(command, []):
        found += [argument.flag for argument in describe(module, name).arguments]
        found += ["--no-" + argument.flag[2:] for argument in describe(module, name).arguments if argument.type is bool]
    return found


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from([*cli.COMMANDS, *cli.COMMANDS, "compre", "", "--version", "-x"]))
    flags = flags_of(command)
    words = [command]
    if command in ("compare", "train", "predict", "embed", "export"):  # so that more than the missing flags is met
        words += {
            "compare": ["--methods", "simclr", "--data", "digits"],
            "train": ["--method", draw(st.sampled_from(["dcl", "isogclr"])), "--data", "digits"],
            "predict": ["--run", "r", "--data", "digits", "--out", "x.csv"],
            "embed": ["--run", "r", "--data", "digits", "--out", "x.npy"],
            "export": ["--run", "r", "--out", "x.onnx"],
        }[command] * draw(st.sampled_from([0, 1, 1, 1]))
    near = st.sampled_from(flags).map(lambda flag: flag[:-1])
    flag = st.one_of(st.sampled_from(flags), near, values.map(lambda value: "--" + value))
    for _ in range(draw(st.integers(0, 5))):
        form = draw(st.sampled_from(["flag", "flag value", "flag=value", "value"]))
        if form == "flag=value":
            words.append(f"{draw(flag)}={draw(values)}")
        else:
            words += [draw(flag if part == "flag" else values) for part in form.split(" ")]
    return words


@pytest.mark.slow
@scaled
def test_command_lines(scale, monkeypatch, capsys):
    """Up to the call; then what the call would do with the words before it loads data: settings, arms, specs, names."""
    given = {}

    def call(module, name, arguments):
        given[name] = arguments
        return {"metrics": {}, "warnings": [], "folder": ""}

    def check(words):
        given.clear()
        with pytest.raises(InputError if "--debug" in words and is_refused(words) else SystemExit) as stop:
            cli.main(words)
        printed = capsys.readouterr().err
        if stop.type is InputError:
            return
        assert stop.value.code in (0, 2)
        assert "Traceback" not in printed
        if stop.value.code == 2:
            assert [line.startswith("counterpoise: ") for line in printed.splitlines()] == [True], printed
        for name, arguments in given.items():
            refused(USES.get(name, lambda **_: None), **arguments)

    monkeypatch.setattr(cli, "call", call)
    monkeypatch.setattr(cli, "_speak_plainly", lambda: None)  # it is for good, and hypothesis warns as well
    try_all("command lines", scale, command_lines(), check)


def is_refused(words):
    """Whether the same words without --debug, which shows tracebacks, are refused."""
    try:
        cli.main([word for word in words if word != "--debug"])
    except SystemExit as stop:
        return stop.code == 2


def use_compare(
    methods, data, imperfect=(), baseline=None, seeds=3, jobs=1, task="", out="", quiet=False, ray=None, **rest
):
    arms = parse_arms(methods)
    settings = make_settings(ImageSettings, rest)
    for spec in imperfect:
        parse_spec(spec)
    line = command_line(
        arms=arms, data=data, task="pretrain", imperfect=imperfect, seeds=seeds, jobs=jobs, folder=Path("x"),
        baseline=choose_baseline(arms, baseline), settings=settings,
        **({"ray": ray} if "ray" in command_line.__annotations__ else {}),
    )  # fmt: skip
    assert line.startswith("counterpoise compare")
    run = Run(arms[0].method, "digits", 0, dict(arms[0].arguments), tuple(imperfect), settings)
    assert json.loads(json.dumps(run.config(), allow_nan=False))
    assert run_folder(run, Path("x")) == run_folder(run, Path("x"))


def use_train(method, data, **options):
    names = ImageSettings.__dataclass_fields__
    ImageSettings(**{name: value for name, value in options.items() if name in names})


USES = {"compare": use_compare, "train": use_train}


@scaled
def test_the_small_languages_inside_words(scale, monkeypatch, tmp_path):
    def check(text):
        refused(Arm.parse, text)
        refused(parse_arms, [text])
        refused(parse_spec, text)
        refused(catalogue.methods_named, text)
        if not text.startswith(("/", "~", ".")):  # folders that are there and hold what no one knows
            refused(load, text)

    monkeypatch.chdir(tmp_path)
    pairs = st.tuples(st.sampled_from(["dcl", "simclr", *IMPERFECTIONS]), st.sampled_from("=:"), values)
    deep = ["(" * 5000, "[" * 300 + "]" * 300, "{[]: 1}", "{1, 2}", "b'x'", "1j", "-" * 3000 + "1", "'\\d'"]
    after = st.sampled_from(["", "dcl:temperature=", "dcl:hidden=", "simclr:", "long-tail="])
    words = st.tuples(after, st.one_of(values, st.sampled_from(deep)))
    try_all("words", scale, st.one_of(pairs.map("".join), words.map("".join)), check)


# Methods and objectives: constructor arguments in and out of their range, from what the flags would let through.

SMALL = [-1, 0, 1, 2, 5]
REALS = [-1.0, 0.0, 1e-12, 0.05, 0.5, 1.0, 2.0, 1e6, 1e30, math.nan, math.inf]


def argument_values(argument):
    if argument.choices:
        return st.sampled_from([*argument.choices, "nonsense"])
    kinds = {int: SMALL, float: REALS, bool: [False, True], str: ["", "nonsense", "sgd"]}
    return st.sampled_from(kinds[argument.type]) if argument.type in kinds else st.none()


def some_arguments(module, name, skip=()):
    """Dictionaries of a few of a class's optional arguments."""
    usable = {
        a.name: argument_values(a)
        for a in describe(module, name).arguments
        if a.type in (int, float, bool, str) and not a.many and not a.required and a.name not in skip
    }
    if not usable:
        return st.just({})
    return st.dictionaries(st.sampled_from(sorted(usable)), st.none(), max_size=3).flatmap(
        lambda chosen: st.fixed_dictionaries({name: usable[name] for name in chosen})
    )


TASKS = ("pretrain", "classify", "retrieve", "few-shot")  # of images
METHODS = {p.slug: t for t in TASKS for p in catalogue.select(done=True, task=t) if p.method}


@scaled
def test_methods(scale, plain_shapes):
    pixels = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    images = Images(pixels, torch.arange(6) % 3, ("a", "b", "c"), "blank")

    def check(drawn):
        slug, arguments = drawn
        refused(build, Run(slug, "blank", 0, arguments, task=METHODS[slug]), images)

    each = st.sampled_from(sorted(METHODS)).flatmap(
        lambda slug: st.tuples(st.just(slug), some_arguments(*catalogue.method_source(slug)))
    )
    try_all("methods", scale, each, check)


MODULES = {
    kind: (paper.module, kind.__name__)
    for paper in catalogue.select(done=True)
    for kind in catalogue.load_objectives(paper.slug)
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SCALES = [1.0, 1.0, 1e-30, 1e-8, 1e4, 1e18]
SPOILS = ["", "", "", "zero rows", "duplicate rows", "mixed", "inf", "nan"]


@st.composite
def objective_calls(draw):
    kind = draw(st.sampled_from(list(OBJECTIVES.values())))
    module, name = MODULES[kind]
    n, dim, m, few = draw(st.integers(1, 9)), draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return {
        "kind": kind,
        "arguments": draw(some_arguments(module, name)),
        "sizes": {6: n, 5: dim, 4: m, 3: few},
        "dtype": draw(st.sampled_from(DTYPES)),
        "scale": draw(st.sampled_from(SCALES)),
        "spoil": draw(st.sampled_from(SPOILS)),
        "labels": draw(st.sampled_from(["valid", "equal", "different", "beyond", "negative", "real", "too few"])),
        "seed": draw(st.integers(0, 1000)),
    }


def floats(shape, call, rng):
    x = torch.randn(shape, generator=rng, dtype=torch.float64) * call["scale"]
    if call["spoil"] == "zero rows":
        x[..., ::2, :] = 0
    if call["spoil"] == "duplicate rows":
        x[...] = x[..., :1, :].clone()
    if call["spoil"] == "mixed":
        x *= 10.0 ** torch.randint(-15, 9, (*shape[:-1], 1), generator=rng).double()
    x = x.to(call["dtype"])
    if call["spoil"] in ("inf", "nan"):
        x.view(-1)[0] = float(call["spoil"])
    return x


def integers(n, call):
    few = call["sizes"][3]
    plain = torch.arange(n)
    return {
        "valid": plain % few,
        "equal": plain * 0,
        "different": plain,
        "beyond": plain + 1000,
        "negative": plain - 1,
        "real": plain.double(),
        "too few": plain[:-1],
    }[call["labels"]]


def inputs_of(call):
    rng = torch.Generator().manual_seed(call["seed"])
    found = {}
    for argument in describe(*MODULES[call["kind"]][:1], MODULES[call["kind"]][1] + ".forward").arguments:
        if argument.name in FLOATS:
            found[argument.name] = floats([call["sizes"][size] for size in FLOATS[argument.name]], call, rng)
        elif argument.name in INTEGERS:
            found[argument.name] = integers(call["sizes"][6], call)
    return found


@pytest.mark.slow
@scaled
def test_objectives(scale, plain_shapes):
    def check(call):
        module, name = MODULES[call["kind"]]
        required = {a.name: call["sizes"][6] if a.name != "classes" else call["sizes"][3]
                    for a in describe(module, name).arguments if a.required}  # fmt: skip
        known = [a.name for part in (name, f"{name}.forward") for a in describe(module, part).arguments]
        given = {
            n: x.requires_grad_() if x.is_floating_point() and n in FLOATS else x for n, x in inputs_of(call).items()
        }
        try:
            value = call["kind"](**required, **call["arguments"])(**given)
        except InputError as error:
            assert any(argument in str(error) for argument in known), error  # noqa: PT017
            return
        assert torch.isfinite(value), value
        if value.requires_grad:
            value.backward()
        for argument, x in given.items():
            assert x.grad is None or (torch.isfinite(x.grad) | beyond(x, argument, call, required)).all(), argument

    try_all("objectives", scale, objective_calls(), check)


def beyond(x, argument, call, required):
    """Where the gradient, formed in double precision, is beyond the numbers of the input's own type."""
    given = {
        n: y.detach().double().requires_grad_() if y.is_floating_point() and n in FLOATS else y
        for n, y in inputs_of(call).items()
    }
    call["kind"](**required, **call["arguments"])(**given).backward()
    return given[argument].grad.abs() > torch.finfo(x.dtype).max


# Data: imperfections of any value on small data, and files of any bytes.


@scaled
def test_imperfections(scale):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 1, 6, 6), generator=rng, dtype=torch.uint8)
    labelled = Images(pixels, torch.arange(12) % 3, ("a", "b", "c"), "small")
    bare = Images(pixels, torch.full((12,), -1), (), "bare")
    splits = type(load("digits"))

    def check(drawn):
        specs, images, seed = drawn
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            made = refused(make_imperfect, splits(images, images), specs, seed)
        if made is not None:
            assert made.train.pixels.dtype == torch.uint8
            assert len(made.train) >= 1

    value = st.one_of(st.sampled_from([*NUMBERS, "1e308", "1e-300"]), st.floats(0, 10).map(str))
    spec = st.tuples(st.sampled_from(["", "train:", "test:"]), st.sampled_from(sorted(IMPERFECTIONS)), value)
    specs = st.lists(spec.map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"), max_size=3)
    drawn = st.tuples(specs, st.sampled_from([labelled, bare]), st.integers(0, 2**32 - 1))
    try_all("imperfections", scale, drawn, check)


def png():
    file = BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "png")
    return file.getvalue()


def parquet():
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.table({"path": ["a.png", "b.png"], "label": [1, 2]}), sink)
    return sink.getvalue().to_pybytes()


WHOLE = {
    "t.csv": b"path,label,split\na.png,x,train\nb.png,y,test\na.png,x,train\nb.png,y,test\n",
    "t.parquet": parquet(),
    "i-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(8),
    "j.json": b'{"a": [1, 2, {"b": null}]}',
    "folder": png(),
}


@st.composite
def files(draw):
    """The bytes of a file: those of a whole one with some changed or cut off, or any."""
    name = draw(st.sampled_from(sorted(WHOLE)))
    content = bytearray(WHOLE[name])
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(content)))
    return name, draw(
        st.sampled_from([bytes(content), bytes(content[:cut]), bytes(content) * 2, draw(st.binary(max_size=60))])
    )


@scaled
def test_files(scale, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")

    def check(drawn):
        name, content = drawn
        path = tmp_path / name
        if name == "folder":
            for label in ("x", "y"):
                (path / label).mkdir(parents=True, exist_ok=True)
                (path / label / "1.png").write_bytes(content)
                Image.new("L", (8, 8)).save(path / label / "2.png")
        else:
            path.write_bytes(content)
        reader = {"j.json": read_json, "i-idx3-ubyte": read_idx}.get(name, load)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            refused(reader, path)

    try_all("files", scale, files(), check)
