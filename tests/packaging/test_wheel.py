"""The wheel as an operator gets it: what is in it, and that these tests run against it and not against the checkout."""

import importlib
import subprocess
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("chatcore", "chatcore_ext", "chatcore_server")


@pytest.fixture(scope="module")
def wheel() -> zipfile.ZipFile:
    built = subprocess.run([ROOT / "tools/build-wheel"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return zipfile.ZipFile(built.split()[-1] if Path(built.split()[-1]).is_absolute() else ROOT / built.split()[-1])


def test_exactly_three_packages(wheel: zipfile.ZipFile) -> None:
    roots = {name.partition("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PACKAGES)


def test_no_sources_of_compiled_modules(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith((".c", ".pyx", ".pxd", ".h"))] == []


def test_every_module_is_compiled(wheel: zipfile.ZipFile) -> None:
    compiled = {Path(name).name.partition(".")[0] for name in wheel.namelist() if name.endswith(".so")}
    assert compiled == {path.stem for path in (ROOT / "_ext/chatcore_ext").glob("*.pyx")}


def test_types_command_and_licence_are_there(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "chatcore = chatcore_server.cli:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_tested_is_what_is_installed(package: str) -> None:
    where = Path(importlib.import_module(package).__file__ or "")
    assert where.is_relative_to(Path(sys.prefix)), f"{package} came from {where}"


def test_the_data_plane_is_compiled() -> None:
    for path in (ROOT / "_ext/chatcore_ext").glob("*.pyx"):
        module = importlib.import_module(f"chatcore_ext.{path.stem}")
        assert (module.__file__ or "").endswith(tuple(EXTENSION_SUFFIXES)), module
