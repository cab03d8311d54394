"""Traps that a layout like this one sets: `operator` is a module of the standard library."""

from __future__ import annotations

import operator
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_operator_is_still_the_standard_librarys() -> None:
    assert Path(operator.__file__).is_relative_to(sysconfig.get_path("stdlib"))


@pytest.mark.parametrize("folder", ["operator", "runtime", "kernels"])
def test_no_member_folder_is_a_package(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_test_folder_is_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
