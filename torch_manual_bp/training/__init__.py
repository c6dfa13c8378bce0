"""Lean and fast: gradient and update of a training step as functions of tensors, a tile of rows at a time, no graph."""
