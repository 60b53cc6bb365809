"""The stub names exactly what the native module has."""

from __future__ import annotations

import ast
import pathlib

from muster import _muster, errors


def names_in_stub(body: list[ast.stmt]) -> set[str]:
    found = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    found = {name for name in found if not name.startswith("__")}
    return found | {node.target.id for node in body if isinstance(node, ast.AnnAssign)}


def names_in(value: object) -> set[str]:
    return {name for name in vars(value) if not name.startswith("__") or name == "__version__"}


def test_the_stub_agrees_with_the_module():
    stub = ast.parse((pathlib.Path(_muster.__file__).parent / "_muster.pyi").read_text())
    assert names_in_stub(stub.body) == names_in(_muster)
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            assert names_in_stub(node.body) == names_in(getattr(_muster, node.name)), node.name


def test_every_code_has_its_error():
    for code in _muster.codes:
        assert errors.by_code(code).code == code
