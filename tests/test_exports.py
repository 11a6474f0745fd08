"""What `counterpoise` names at its top: seen by type checkers, loaded on first use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import counterpoise

ROOT = Path(counterpoise.__file__)


def imported_for_type_checkers():
    block = next(node for node in ast.parse(ROOT.read_text()).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {alias.name: node.module.removeprefix("counterpoise.") for node in block.body for alias in node.names}


def test_what_a_type_checker_sees_is_what_there_is():
    assert imported_for_type_checkers() == counterpoise.EXPORTS
    assert set(counterpoise.__all__) == {*counterpoise.EXPORTS, "__version__"}
    assert {"compare", "train", "predict", "embed", "export", "Method", "Learner", "Task", "load"} <= {
        *counterpoise.__all__
    }


@pytest.mark.parametrize("name", counterpoise.EXPORTS)
def test_every_name_is_defined_in_its_module(name):
    found = getattr(counterpoise, name)
    assert found.__module__ == f"counterpoise.{counterpoise.EXPORTS[name]}"
    assert found.__doc__
    assert name in dir(counterpoise)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'counterpoise' has no attribute 'compere'"):
        counterpoise.compere  # noqa: B018


def test_importing_it_loads_no_library():
    code = """
import sys
before = {*sys.modules}
import counterpoise
dir(counterpoise)
heavy = {name.partition(".")[0] for name in {*sys.modules} - before} - {*sys.stdlib_module_names}
assert heavy == {"counterpoise"}, heavy
from counterpoise import InputError
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
