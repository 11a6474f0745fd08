import json

import pytest

from counterpoise.errors import InputError
from counterpoise.files import make_folder, read_json, write_json, written
from counterpoise.fingerprint import fingerprint


def test_an_error_leaves_nothing_and_keeps_what_was_there(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"x": 1})

    def broken():
        with written(target) as aside:
            aside.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert json.loads(target.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_malformed_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": 1,\n oops}')
    with pytest.raises(InputError, match=r"a\.json: malformed JSON, line 2"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        make_folder(tmp_path / "f")


def test_the_fingerprint_sees_code_and_not_comments(tmp_path, monkeypatch):
    import counterpoise.fingerprint as module

    (tmp_path / "a.py").write_text("from counterpoise.b import f\n")
    (tmp_path / "b.py").write_text("def f():\n    return 1\n")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def now():
        module._parsed.cache_clear()
        return fingerprint(["a"])

    first = now()
    (tmp_path / "b.py").write_text('"""Told."""\n\ndef f():\n    """Told."""\n    # why\n    return 1\n')
    assert now() == first
    (tmp_path / "b.py").write_text("def f():\n    return 2\n")
    assert now() != first
    module._parsed.cache_clear()


def test_the_fingerprint_is_the_same_on_every_python(tmp_path, monkeypatch):
    """Pythons differ in what is empty in a syntax tree: 3.12 added `type_params` and ends a nested format with ""."""
    import counterpoise.fingerprint as module

    code = "def f(x: int = 0, *, y=None) -> str:\n    return f'{x!r:>{y}} {[]}'\n"
    (tmp_path / "a.py").write_text(code)
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    module._parsed.cache_clear()
    assert fingerprint(["a"]) == "0d338aa5992be118"
    module._parsed.cache_clear()


def test_the_fingerprint_follows_the_real_imports():
    dcl = fingerprint(["contrast.dcl"])
    assert dcl == fingerprint(["contrast.dcl", "method", "ops.similarity", "nets.heads"])
    assert dcl != fingerprint(["contrast.dcl", "tasks.pretrain"])
