"""Which module reads which data, by its name."""

import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from counterpoise.data.columns import Choice
from counterpoise.data.sources import FILES
from counterpoise.registry.kinds import KINDS, ROW_OPTIONS, module_of


@pytest.mark.parametrize(
    ("data", "module"),
    [
        ("icons", "data.named"),
        ("emoji:twitter,google:split=vendor", "data.named"),
        ("sklearn:iris", "data.rows"),
        ("rows:all.csv", "data.rows"),
        ("features.NPY", "data.rows"),
        ("features.npy:labels=other.npy", "data.rows"),
        ("t.csv:label=quality:columns=a,b", "data.rows"),
        ("scenes", "data.annotated_sources"),
        (Path("photos/annotations.json"), "data.annotated_sources"),
        ("t.csv", None),
        ("t.csv:domain=sketch", None),
        ("iconset", None),
        ("photos/icons", None),
        ("glyphs:classes=20", None),
        ("torchvision:CIFAR10", None),
        ("", None),
    ],
)
def test_the_name_says_which_module_reads_it(data, module):
    assert module_of(data) == module


def test_every_module_of_the_table_lists_its_files():
    assert set(KINDS.values()) == set(FILES)
    for module, function in FILES.items():
        assert callable(getattr(import_module(f"counterpoise.{module}"), function))


def test_the_options_of_rows_are_those_that_their_loader_takes():
    assert tuple(field.name for field in fields(Choice)) == ROW_OPTIONS


def test_the_table_is_read_without_torch():
    code = "import sys, counterpoise.registry.kinds as k; print(k.module_of('icons'), 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "data.named False\n"
