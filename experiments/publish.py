"""Write a folder's results into its README: ``python -m experiments.publish FOLDER DIRECTORY``.

DIRECTORY is where the runs are. The folder's own ``table.py`` has ``report(directory, folder) -> Report``; that draws
into ``folder``.
"""

import importlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.figures import Run
from experiments.findings import CLAIM_COLUMNS, HOME, Finding, Found, claim_rows, claims, paper
from experiments.tables import markdown, write_block
from persona_prune.common.errors import one_line


@dataclass(frozen=True)
class Report:
    """What a folder's runs come to.

    Attributes:
        runs: all that it is made of.
        findings: claim by claim, of what the paper claims and of what it doesn't.
        text: further tables and figures, in Markdown.
        varied: settings that the runs may differ in, beside persona and method (`alike`).
    """

    runs: Sequence[Run]
    findings: Sequence[Finding]
    text: str
    varied: Sequence[str] = ()


def main(folder: str, directory: Path, home: Path = HOME) -> None:
    """Write the block of the folder's README, and ``results.json``.

    Raises:
        ValueError: there is nothing to write, or runs that can't stand in one table.
    """
    with TemporaryDirectory() as drawn:
        report: Report = importlib.import_module(f"experiments.{folder}.table").report(directory, Path(drawn))
        if not report.runs:
            raise ValueError(f"{directory}: no finished run for {folder}; its README stays as it is")
        alike(report.runs, report.varied)
        for old in (home / folder).glob("*.svg"):
            old.unlink()
        for figure in Path(drawn).glob("*.svg"):
            shutil.copy(figure, home / folder)
    write_block(home / folder / "README.md", block(folder, report, home))


def alike(runs: Sequence[Run], varied: Sequence[str] = ()) -> None:
    """Raise ValueError if runs differ in model, seed, calibration pairs or the number of items, unless ``varied``."""
    kinds: dict[str, dict[object, Run]] = {}
    for run in runs:
        asked = {f"evaluator.{name}.limit": node.get("limit") for name, node in run.config["evaluator"].items()}
        fixed = {
            "model": run.model,
            "seed": run.config["seed"],
            "calibration.limit": run.config["calibration"]["limit"],
        }
        for key, value in {**fixed, **asked}.items():
            kinds.setdefault(key, {})[value] = run
    for key, values in kinds.items():
        if len(values) > 1 and key not in varied:
            where = ", ".join(f"{value}: {run.path}" for value, run in values.items())
            raise ValueError(f"runs with different {key} can't stand in one table ({where}): remove what is not meant")


def block(folder: str, report: Report, home: Path) -> str:
    """Return the generated part of a README, and leave ``results.json`` beside it."""
    known = {claim.id for claim in claims(folder, home)}
    # Other methods, sets or personas than the paper's are in the folder's own tables only.
    claimed = [finding for finding in report.findings if finding.claim in known]
    found = Found(report.runs[-1].model, settings(report.runs), claimed)
    found.save(home / folder)
    source = paper(home)[folder]["source"]
    said = f"{len(report.runs)} runs, {seconds(report.runs):.0f} s in all; {found.settings}. The paper: {source}."
    table = markdown(CLAIM_COLUMNS, claim_rows(folder, found, home))
    return "\n\n".join(part for part in (said, table, report.text.strip()) if part)


def seconds(runs: Sequence[Run]) -> float:
    """Return what the runs took together, those that other folders made too included; programs' start-up is not."""
    return sum(run.metrics.get("time/total_s", 0.0) for run in {run.path: run for run in runs}.values())


def settings(runs: Sequence[Run]) -> str:
    """Return what the figures depend on: models, seeds, pairs to calibrate on, items and held-out text."""
    models = sorted({run.model for run in runs})
    seeds = sorted({str(run.config["seed"]) for run in runs})
    pairs = sorted({run.config["calibration"]["limit"] or 0 for run in runs})
    shown = [str(limit) if limit else "all" for limit in pairs]
    limits = {node.get("limit") for run in runs for node in run.config["evaluator"].values()} - {None}
    items = f", items: at most {', '.join(map(str, sorted(limits)))}" if limits else ""
    texts = {run.config["evaluator"].get("capability", {}).get("max_text_tokens") for run in runs} - {None}
    text = f", perplexity on {' or '.join(str(t) for t in sorted(texts))} tokens" if texts else ""
    return f"{', '.join(models)}, seed {', '.join(seeds)}, pairs to calibrate on: {', '.join(shown)}{items}{text}"


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
