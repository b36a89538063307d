"""Appendix F: which axes a mix of introversion and thinking moves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.figures import Difference, Run, by_persona, finished_runs
from experiments.findings import Finding, controls_of, doubts_of
from experiments.publish import Report
from experiments.tables import runs_table
from persona_prune.evaluators.statistics import Floats

_MIXED = ("introvert", "thinker")
_RESAMPLES = 2000
_LEAST_ADDED = 0.05  # share of what a part drops that the rest of the mix must not drop anyway


def report(directory: Path, folder: Path) -> Report:
    """Return what the mask of the mix does to the items of every axis."""
    mixes = finished_runs(directory / "mixing")[-1:]
    saved = finished_runs(directory / "saved_mask")
    # Only of the last mix: its mask is named in the run's configuration.
    runs = [run for run in saved if mixes and Path(run.config["method"]["path"]).parent.name == mixes[0].path.name]
    axes = by_persona(runs, "saved", None)
    findings = [finding(axes[name], _missing(name, mixes[0])) for name in _MIXED if name in axes]
    mixed, others = ([changes(run) for name, run in axes.items() if (name in _MIXED) is own] for own in (True, False))
    if len(mixed) == len(_MIXED) and others:
        told = f"{towards(mixed):+.3f} against {size(others):.3f} nats"
        ratio = mixes[0].metrics["capability/perplexity_ratio"]
        count = sum(map(len, [*mixed, *others]))
        missing = next(filter(None, (_missing(name, mixes[0]) for name in _MIXED)), None)
        findings.append(Finding("only_these", told, "nats", larger(mixed, others), ratio, count, obstacle=missing))
    used = [*mixes, *axes.values()] if axes else []
    dropped = f"The mix drops {mixes[0].metrics['mask/sparsity']:.1%} of the weights.\n\n" if axes else ""
    return Report(used, findings, dropped + runs_table(used))


def _missing(name: str, mix: Run) -> str | None:
    """Say so if one part of the mix drops next to nothing that the others don't drop anyway: it is not in the mix."""
    share, sparsity = mix.config["persona"]["weights"][name], mix.config["method"]["sparsity"]
    others = sparsity * (sum(mix.config["persona"]["weights"].values()) - share)
    added = mix.metrics["mask/sparsity"] - others
    if added >= _LEAST_ADDED * share * sparsity:
        return None
    return f"of the {share * sparsity:.0%} that {name} drops, only {max(0.0, added):.2%} are not dropped by the rest"


def finding(run: Run, missing: str | None) -> Finding:
    """Return what the mix does to one of its axes; ``missing``: why it is not in the mix."""
    change = run.difference("choice/margin_delta")
    return Finding(
        claim=run.persona,
        ours=f"{change.text('+.3f')} nats",
        unit="nats",
        change=change,
        perplexity_ratio=run.metrics["capability/perplexity_ratio"],
        items=len(run.items("choice").samples),
        controls=controls_of(run, "choice/margin"),
        needs_control=True,
        doubts=doubts_of([run]),
        obstacle=missing,
    )


def changes(run: Run) -> Floats:
    """Return the change of the margin against dense, item by item."""
    samples = run.items("choice").samples
    return np.array([sample["values"]["margin"] - sample["dense_values"]["margin"] for sample in samples])


def towards(axes: Sequence[Floats]) -> float:
    """Return how far axes move to the side that was asked for, mean over axes."""
    return float(np.mean([axis.mean() for axis in axes]))


def size(axes: Sequence[Floats]) -> float:
    """Return how far axes move, mean over axes of the size of their mean change."""
    return float(np.mean([abs(axis.mean()) for axis in axes]))


def larger(first: Sequence[Floats], second: Sequence[Floats]) -> Difference:
    """Return the changes of some axes minus the size of those of others; the interval resamples items within axes.

    p is twice the share of resamples on the other side of zero, which the interval is of too.
    """
    rng = np.random.default_rng(0)

    def resampled(axes: Sequence[Floats]) -> list[Floats]:
        return [rng.choice(axis, len(axis)) for axis in axes]

    found = np.array([towards(resampled(first)) - size(resampled(second)) for _ in range(_RESAMPLES)])
    low, high = np.percentile(found, [2.5, 97.5])
    p = min(1.0, 2 * min(float((found <= 0).mean()), float((found >= 0).mean())))
    return Difference(towards(first) - size(second), float(low), float(high), p)
