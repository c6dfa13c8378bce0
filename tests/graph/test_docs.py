"""The README's picture is what is drawn."""

from pathlib import Path

import torch_manual_bp as tmb

ROOT = Path(__file__).parents[2]


def test_the_picture_in_the_readme_is_what_is_drawn():
    mlp = tmb.MLP(784, 256, 10, "relu", device="meta")
    drawn = tmb.graph.draw(tmb.Objective(mlp, "cross_entropy", 1e-4), 128).svg
    command = "python -m torch_manual_bp graph -B 128 -d 784 -h 256 -q 10 --out docs/graph.svg"
    assert (ROOT / "docs" / "graph.svg").read_text(encoding="utf-8") == drawn, command
