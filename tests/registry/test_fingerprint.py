"""Fingerprints: what changes them, and what does not."""

import json

import pytest

from counterpoise.registry.fingerprint import fingerprint


def test_the_fingerprint_sees_code_and_not_comments(tmp_path, monkeypatch):
    import counterpoise.registry.fingerprint as module

    (tmp_path / "a.py").write_text("from counterpoise.b import f\n")
    (tmp_path / "b.py").write_text("def f():\n    return 1\n")
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def now():
        module._parsed.cache_clear()
        return fingerprint(["a"])

    first = now()
    (tmp_path / "b.py").write_text('"""Docs."""\n\ndef f():\n    """Docs."""\n    # why\n    return 1\n')
    assert now() == first
    (tmp_path / "b.py").write_text("def f():\n    return 2\n")
    assert now() != first
    module._parsed.cache_clear()


def test_the_fingerprint_is_the_same_on_every_python(tmp_path, monkeypatch):
    """Pythons differ in what is empty in a syntax tree: 3.12 added `type_params` and ends a nested format with ""."""
    import counterpoise.registry.fingerprint as module

    code = "def f(x: int = 0, *, y=None) -> str:\n    return f'{x!r:>{y}} {[]}'\n"
    (tmp_path / "a.py").write_text(code)
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    module._parsed.cache_clear()
    assert fingerprint(["a"]) == "d4f9b8aea207c7b9"
    module._parsed.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, "no JSON", "[1, 2]"])
def test_a_fingerprint_needs_no_whole_cache_of_sources(content, tmp_path, monkeypatch):
    import counterpoise.registry.fingerprint as module

    expected = fingerprint(["contrast.dcl"])
    place = tmp_path / "cache" / "modules.json"
    if content is not None:
        place.parent.mkdir()
        place.write_text(content)
    for _ in range(2):  # the second time from what the first has written
        monkeypatch.setattr(module, "KNOWN", place)
        module._known.cache_clear()
        module._parsed.cache_clear()
        assert fingerprint(["contrast.dcl"]) == expected
        assert len(json.loads(place.read_text())) > 10
    monkeypatch.setattr(module, "KNOWN", tmp_path / "cache" / "modules.json" / "no folder")
    module._known.cache_clear()
    module._parsed.cache_clear()
    assert fingerprint(["contrast.dcl"]) == expected
    module._known.cache_clear()
    module._parsed.cache_clear()


def test_the_fingerprint_follows_the_real_imports():
    dcl = fingerprint(["contrast.dcl"])
    assert dcl == fingerprint(["contrast.dcl", "learners.method", "ops.similarity", "nets.heads"])
    assert dcl != fingerprint(["contrast.dcl", "tasks.pretrain"])
