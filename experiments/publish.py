"""Write a folder's results into its README: ``python -m experiments.publish FOLDER DIRECTORY``.

DIRECTORY is where the runs are. The folder's own ``table.py`` has ``report(directory, folder) -> Report``.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.figures import Run
from experiments.findings import CLAIM_COLUMNS, HOME, Finding, Found, claim_rows, claims, paper
from experiments.tables import markdown, write_block
from persona_prune.run_directory import one_line


@dataclass(frozen=True)
class Report:
    """What a folder's runs come to.

    Attributes:
        runs: all that it is made of.
        findings: claim by claim, of what the paper claims and of what it doesn't.
        text: further tables and figures, in Markdown.
    """

    runs: Sequence[Run]
    findings: Sequence[Finding]
    text: str


def main(folder: str, directory: Path, home: Path = HOME) -> None:
    """Write the block of the folder's README, and ``results.json``."""
    report: Report = importlib.import_module(f"experiments.{folder}.table").report(directory, home / folder)
    write_block(home / folder / "README.md", block(folder, report, home))


def block(folder: str, report: Report, home: Path) -> str:
    """Return the generated part of a README, and leave ``results.json`` beside it."""
    if not report.runs:
        return not_run(folder)
    known = {claim.id for claim in claims(folder, home)}
    # Other methods, sets or personas than the paper's are in the folder's own tables only.
    claimed = [finding for finding in report.findings if finding.claim in known]
    found = Found(report.runs[-1].config["model"]["name"], claimed)
    found.save(home / folder)
    said = f"{len(report.runs)} runs, {settings(report.runs)}. The paper: {paper(home)[folder]['source']}."
    table = markdown(CLAIM_COLUMNS, claim_rows(folder, found, home))
    return "\n\n".join(part for part in (said, table, report.text.strip()) if part)


def not_run(folder: str) -> str:
    """Return what stands in a README before the first run."""
    return f"Not run yet on this machine: `experiments/{folder}/run.sh DATA`"


def settings(runs: Sequence[Run]) -> str:
    """Return what the figures depend on: models, seeds, pairs to calibrate on and held-out text."""
    models = sorted({run.config["model"]["name"] for run in runs})
    seeds = sorted({str(run.config["seed"]) for run in runs})
    pairs = sorted({run.config["calibration"]["limit"] or 0 for run in runs})
    shown = [str(limit) if limit else "all" for limit in pairs]
    texts = {run.config["evaluator"].get("capability", {}).get("max_text_tokens") for run in runs} - {None}
    text = f", perplexity on {' or '.join(str(t) for t in sorted(texts))} tokens" if texts else ""
    return f"{', '.join(models)}, seed {', '.join(seeds)}, pairs to calibrate on: {', '.join(shown)}{text}"


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
