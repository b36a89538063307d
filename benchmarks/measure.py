"""Paired, interleaved timing, ratios with their spread, and peak memory in a process of its own."""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        run: called with the number of the round; what it does is timed.
        around: makes the context the arm runs in, which is not timed.
    """

    run: Callable[[int], object]
    around: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class Ratio:
    """The median of several paired quotients, and the smallest and the largest of them."""

    median: float
    low: float
    high: float


def interleaved(
    arms: Mapping[str, Arm], rounds: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of every arm in every round.

    In each round every arm runs once, each round beginning with another one, so that whatever slows the machine for a
    while slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [0.0] * rounds for name in arms}
    names = list(arms)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            with arms[name].around():
                _wait_for(device)
                started = clock()
                arms[name].run(number)
                _wait_for(device)
                seconds[name][number] = clock() - started
    return seconds


def ratio(over: Sequence[float], under: Sequence[float], scales: Sequence[float] | None = None) -> Ratio:
    """Return the paired quotients ``scale * over / under``; a scale is 1 unless ``over`` did a part of the work."""
    quotients = [s * a / b for a, b, s in zip(over, under, scales or [1.0] * len(over), strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def exactly(value: float) -> Ratio:
    """Return a figure that has no spread, such as a size."""
    return Ratio(value, value, value)


def in_child(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments`` and return the JSON object that it prints as its last line.

    Raises:
        ValueError: it fails; the message is its last line on stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"{module} {' '.join(arguments)}: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
