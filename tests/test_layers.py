"""A layer imports only layers below it, and packages of one layer do not import each other."""

import ast
from pathlib import Path

import pytest

import torch_manual_bp

ROOT = Path(torch_manual_bp.__file__).parent
LAYERS = (
    {"equations"},
    {"kernels"},
    {"autograd", "training"},
    {"nn", "functional"},
    {"curvature", "pipeline", "fit"},
    {"memory"},
    {"bench", "graph", "verify"},
    {"derivation"},
    {"cli"},
    {"__main__"},
)
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
# The package's front gathers the public names of the layers: only those who stand above the layers may ask it.
FRONT, ABOVE = "__init__", {"cli", "__main__"}
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def package_of(module):
    """``autograd`` for autograd/door.py, ``functional`` for functional.py."""
    return module.parts[0].removesuffix(".py")


def imported(module):
    """The packages (or top-level modules) of ours that a file imports, by whatever form of import."""
    here = ["torch_manual_bp", *module.parts[:-1]]
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            stem = [*base, *(node.module.split(".") if node.module else [])]
            targets = [stem] if len(stem) > 1 else [[*stem, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "torch_manual_bp":
                yield target[1] if len(target) > 1 and (target[1] in LEVEL) else FRONT


def test_every_package_has_its_layer():
    assert {package_of(module) for module in MODULES} <= {*LEVEL, FRONT}


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m) != FRONT], ids=str)
def test_imports_go_down(module):
    own = package_of(module)
    for other in set(imported(module)) - {own}:
        allowed = own in ABOVE if other == FRONT else LEVEL[other] < LEVEL[own]
        assert allowed, f"{module} ({own}) must not import {other}"


def test_the_check_sees_each_form_of_import(tmp_path, monkeypatch):
    forms = {
        "import torch_manual_bp.nn": "nn",
        "from torch_manual_bp import nn": "nn",
        "from torch_manual_bp.nn.mlp import MLP": "nn",
        "from .. import nn": "nn",
        "from ..nn import MLP": "nn",
        "def f():\n    from ..nn.mlp import MLP": "nn",
        "import torch_manual_bp": FRONT,
        "from . import fused": "autograd",
    }
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "autograd").mkdir()
    for text, package in forms.items():
        (tmp_path / "autograd" / "door.py").write_text(text)
        assert list(imported(Path("autograd/door.py"))) == [package], text
