"""The derivation as a page: every equation with its shape, its cost and the lines of code that compute it."""

from .page import html, markdown

__all__ = ["html", "markdown"]
