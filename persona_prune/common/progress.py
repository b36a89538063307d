"""Progress bars."""

import os
from collections.abc import Callable

from tqdm import tqdm

from persona_prune.common import interrupts

Progress = Callable[[str, int], Callable[[int], object]]
"""``progress(label, total)`` starts a bar and returns its ``advance(n)``."""


def progress_bar(label: str, total: int) -> Callable[[int], object]:
    """Start a progress bar with a rate; it is drawn on a terminal only and disappears when complete.

    ``TQDM_DISABLE`` keeps it from being drawn at all: bars of jobs side by side would overwrite each other.
    """
    disable = True if os.environ.get("TQDM_DISABLE") else None
    bar = tqdm(total=total, desc=label, leave=False, disable=disable, unit="item")

    def advance(done: int) -> None:
        interrupts.check()
        bar.update(done)
        if bar.n >= total:
            bar.close()

    return advance
