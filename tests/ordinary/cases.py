"""Cells of the table that once were wrong: each run of the tests has all of them."""

from typing import Final

from tests.ordinary.table import Cell

CASES: Final = (
    Cell("dot", "archive"),
    Cell("the NAS mounted twice", "archive"),
    Cell("a VM's directory mounted twice", "run"),
    Cell("a mount that goes", "activate"),
    Cell("inside", "run", "lost"),
    Cell("inside", "run", "older"),
    Cell("inside", "run", "many set aside"),
    Cell("inside", "run", "foreign"),
    Cell("inside", "run", "new", "forgotten and made anew"),
    Cell("inside", "run live", "lost", "like ours"),
)
