"""The direction of imports: a stage knows the contracts, never another stage."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagemerge

PACKAGE = Path(pagemerge.__file__).parent
STAGES = ("find", "decide", "merge", "watch")
ARRAYS = ("NDArray", "U64", "U32", "I64", "Bools")
CONTRACTS = {"model", "errors", "linux", "_core"}


def imported(file: Path) -> Iterator[str]:
    """The first name below ``pagemerge`` of every import in ``file``, those in functions too."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "pagemerge":
                yield rest.partition(".")[0]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_contracts_and_itself_only(stage: str) -> None:
    files = sorted((PACKAGE / stage).rglob("*.py"))
    assert files
    for file in files:
        foreign = set(imported(file)) - CONTRACTS - {stage}
        assert not foreign, f"{file.relative_to(PACKAGE)} imports pagemerge.{foreign}"


@pytest.mark.parametrize("contract", ["model", "errors"])
def test_contracts_import_contracts_only(contract: str) -> None:
    assert set(imported(PACKAGE / f"{contract}.py")) <= CONTRACTS - {"linux"}


def test_the_layer_for_linux_imports_contracts_only() -> None:
    files = sorted((PACKAGE / "linux").rglob("*.py"))
    assert files
    for file in files:
        assert set(imported(file)) <= CONTRACTS, file


def test_model_and_decide_do_no_io() -> None:
    doors = {"os", "io", "socket", "subprocess", "pathlib", "mmap", "threading", "time"}
    files = [PACKAGE / "model.py", *(PACKAGE / "decide").rglob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                opened = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                opened = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not opened & doors, f"{file.relative_to(PACKAGE)} imports {opened & doors}"


def test_what_holds_arrays_is_compared_by_identity() -> None:
    """``list.remove`` and ``in`` compare; arrays of two lengths cannot be compared, and raise."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if not isinstance(node, ast.ClassDef):
                continue
            how = " ".join(map(ast.unparse, node.decorator_list))
            fields = [
                ast.unparse(it.annotation) for it in node.body if isinstance(it, ast.AnnAssign)
            ]
            holds = any(name in field for field in fields for name in ARRAYS)
            if "dataclass" in how and holds:
                found.append(node.name)
                assert "eq=False" in how, f"{file.relative_to(PACKAGE)}: {node.name}"
    assert "Filling" in found
