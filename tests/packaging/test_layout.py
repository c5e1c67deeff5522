"""The tree's own rules: imports point inwards, every module says what it is for, every compiled module is whole."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = {
    "chatcore_ext": ROOT / "_ext/chatcore_ext",
    "chatcore": ROOT / "chatcore",
    "chatcore_server": ROOT / "server/chatcore_server",
}
MAY_IMPORT = {
    "chatcore_ext": {"chatcore_ext"},
    "chatcore": {"chatcore_ext", "chatcore"},
    "chatcore_server": {"chatcore_ext", "chatcore", "chatcore_server"},
}
NOT_IN_THE_DATA_PLANE = {"asyncio", "uvloop", "confluent_kafka", "redis", "hiredis", "gremlin_python", "aiohttp"}


def imported_modules(path: Path) -> Iterator[str]:
    if path.suffix in (".pyx", ".pxd"):
        yield from re.findall(r"^\s*(?:from|c?import) +([\w.]+)", path.read_text(), re.MULTILINE)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide their direction"
            yield node.module or ""


def sources(package: str) -> list[Path]:
    found = [path for path in PACKAGES[package].rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pyi")]
    assert found
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_inwards(package: str) -> None:
    for path in sources(package):
        roots = {name.partition(".")[0] for name in imported_modules(path)}
        assert roots & set(PACKAGES) <= MAY_IMPORT[package], path
        if package == "chatcore_ext":
            assert not roots & NOT_IN_THE_DATA_PLANE, path


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_opens_with_its_purpose(package: str) -> None:
    for path in sources(package):
        text = path.read_text()
        if path.suffix in (".py", ".pyx") and text:
            assert text.lstrip().startswith('"""'), path


def test_every_compiled_module_is_a_triple() -> None:
    for path in PACKAGES["chatcore_ext"].glob("*.pyx"):
        assert path.with_suffix(".pyi").exists(), path
        assert path.with_suffix(".pxd").exists() or path.stem in PYTHON_ONLY, path


PYTHON_ONLY = {"log_placing", "transport_link"}
"""Compiled modules that no other compiled module uses."""


def test_no_path_of_one_machine_is_tracked() -> None:
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split("\n")
    pattern = re.compile(r"(^|[^\w.])/(work|root|home/\w+|farm)/")
    for name in filter(None, listed):
        if not (ROOT / name).exists():
            continue
        text = (ROOT / name).read_text(errors="replace")
        assert name == "tests/packaging/test_layout.py" or not pattern.search(text), name
