"""CPU seconds of this process, and the table that they are shown in."""

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def cpu_seconds(work: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds that `work` takes in this process, and what it returns; waiting for others is not counted."""
    gc.collect()
    start = time.process_time()
    outcome = work()
    return time.process_time() - start, outcome


def interleaved(works: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """CPU seconds of every work, taken in turns so that a slow minute of the machine hits all of them."""
    for work in works.values():
        work()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            taken[name].append(cpu_seconds(work)[0])
    return taken


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table with aligned columns."""
    table = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" if line is not rule else f"|-{line}-|" for line in (lines[0], rule, *lines[1:]))
