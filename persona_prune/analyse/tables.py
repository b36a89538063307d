"""Tables of an analysis, as they stand on the terminal and in files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from persona_prune.analyse.hidden import Similarity
from persona_prune.analyse.overlap import By, Overlap, by_part, total
from persona_prune.analyse.restore import Sweep
from persona_prune.models.layers import place

_MOST_PARTS = 10


def overlap_table(pairs: Mapping[str, Mapping[str, Overlap]]) -> str:
    """Return the overlap of pairs of masks, of the whole model, of attention and MLP, and of every module type.

    Args:
        pairs: label of a pair -> its overlaps by Linear.
    """
    rows = []
    for pair, by_linear in pairs.items():
        whole = {"all": total(by_linear.values())}
        for part, overlap in (whole | by_part(by_linear, "block") | by_part(by_linear, "module")).items():
            figures = overlap.figures()
            shares = [
                f"{figures[name]:{form}} ({figures[f'{name}_by_chance']:{form}})"
                for name, form in (("differing", ".2%"), ("jaccard_kept", ".4f"), ("jaccard_dropped", ".4f"))
            ]
            rows.append([pair, part, f"{overlap.entries:,}", *shares])
    return _table(["masks", "part", "entries", "differ (chance)", "Jaccard kept", "Jaccard dropped"], rows)


def similarity_table(similarities: Mapping[str, Similarity]) -> str:
    """Return the cosine similarity of pairs of models, after a quarter, half, three quarters and all of the layers."""
    layers = len(next(iter(similarities.values())).mean)
    shown = sorted({max(0, layers * quarter // 4 - 1) for quarter in (1, 2, 3, 4)})
    rows = [
        [pair, label, *(f"{values[layer]:.4f}" for layer in shown)]
        for pair, similarity in similarities.items()
        for label, values in (("all, mean", similarity.mean), ("last", similarity.last))
    ]
    return _table(["models", "tokens", *(f"layer {layer}" for layer in shown)], rows)


def sweep_table(figure: str, sweep: Sweep, by: By, mask: str) -> str:
    """Return the parts whose restoring changes a figure most."""
    ranked = sorted(sweep.restored, key=lambda part: -abs(sweep.restored[part].delta))[:_MOST_PARTS]
    rows = []
    for part in ranked:
        found = sweep.restored[part]
        interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
        rows.append([part, f"{found.delta:+.4f}", interval, f"{found.p:.2g}", f"{sweep.adjusted[part]:.2g}"])
    head = f"{figure}: {sweep.masked:+.4f} under {mask}, {sweep.dense:+.4f} dense; {by} restored, largest changes first"
    return f"{head}\n{_table([by, 'change', '95% interval', 'p', 'p (FDR)'], rows)}"


def write_sweeps(path: Path, sweeps: Mapping[str, Sweep], by: By) -> None:
    """Write ``restore.csv``: one line a figure and part."""
    fields = ["figure", by, *(["layer", "module"] if by == "linear" else [])]
    fields += ["value", "change", "low", "high", "p", "p_fdr"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for figure, sweep in sweeps.items():
            for part, numbers in sweep_figures(sweep).items():
                placed = {"layer": place(part).layer, "module": place(part).module} if by == "linear" else {}
                writer.writerow({"figure": figure, by: part, **placed, **numbers})


def sweep_figures(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Return part -> its figures: value, change against the mask with 95% interval, p, and p adjusted."""
    return {
        part: {
            "value": sweep.masked + found.delta,
            "change": found.delta,
            "low": found.low,
            "high": found.high,
            "p": found.p,
            "p_fdr": sweep.adjusted[part],
        }
        for part, found in sweep.restored.items()
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    words = [
        all(not row[column][:1].isdigit() and row[column][:1] not in "+-[" for row in rows)
        for column in range(len(head))
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if word else cell.rjust(width) for cell, width, word in zip(row, widths, words)
        ).rstrip()
        for row in (head, *rows)
    )
