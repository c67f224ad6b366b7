"""What the benchmark prints: figures, and whether those with an aim reach it."""

import statistics
from collections.abc import Sequence


class Report:
    """Prints at once. `missed` counts figures that do not reach their aim."""

    def __init__(self) -> None:
        self.missed = 0

    def heading(self, text: str, remark: str) -> None:
        """A measurement begins; `remark` says what is measured."""
        print(f"\n{text}\n  {remark}", flush=True)

    def figure(self, name: str, value: str) -> None:
        """A figure."""
        print(f"  {name:<54}  {value}", flush=True)

    def judged(self, name: str, value: float, unit: str, aim: float) -> None:
        """A figure that should not be above its aim."""
        good = value <= aim
        self.missed += not good
        self.figure(
            name, f"{value:.2f} {unit}   aim: at most {aim:g}   {'reached' if good else 'MISSED'}"
        )


def spread(seconds: Sequence[float]) -> str:
    """`0.21 s (0.20-0.24)`: the median, and what it lies between."""
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f})"
