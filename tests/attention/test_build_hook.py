"""Installing octavo_kernels where its library cannot be compiled: it goes on, and says what is missing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

HOOK = Path(__file__).parents[2] / "kernels" / "hatch_build.py"


@pytest.fixture
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", HOOK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_compiler_nothing_is_built(hook, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert hook.build(HOOK.parent / "native", tmp_path) == []
    assert "no C++ compiler" in capsys.readouterr().err


def test_what_does_not_compile_is_left_out_with_the_compilers_words(hook, tmp_path, capsys):
    sources, built = tmp_path / "sources", tmp_path / "built"
    sources.mkdir()
    (sources / "one.cpp").write_text("int two(;\n")
    assert hook.build(sources, built) == []
    assert "one.cpp" in capsys.readouterr().err
    assert list(built.iterdir()) == []
