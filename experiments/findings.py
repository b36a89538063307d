"""What an experiment found, claim by claim, and the rule by which a claim of the paper holds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.figures import Interval

HOME = Path(__file__).parent
MAX_PERPLEXITY_RATIO = 1.5


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: name within its folder.
        claim: what is said, in our words.
        paper: the paper's figures.
        untestable: why no run here can decide it, or None.
    """

    id: str
    claim: str
    paper: str
    untestable: str | None = None


@dataclass(frozen=True)
class Finding:
    """What runs say about a claim. Intervals are 95%.

    Attributes:
        claim: its `Claim.id`.
        ours: the figure to set beside the paper's, with its unit and interval.
        unit: of the two differences.
        change: against the dense model (or another mask, where the claim compares masks); positive: as claimed.
        control: the same against a mask that must lose; None where the claim compares masks, or none was measured.
        control_name: which one; empty where the claim compares masks and needs none.
        perplexity_ratio: masked over dense; None where the claim is not about what a masked model does.
        items: how many items, or masks, the differences are means over.
        obstacle: why the figures decide nothing, or None.
    """

    claim: str
    ours: str
    unit: str
    change: Interval
    control: Interval | None
    control_name: str
    perplexity_ratio: float | None
    items: int
    obstacle: str | None = None

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold``, ``not shown`` or ``not testable here``, with the reason.

        A claim holds where change and control lie above zero with their whole intervals, at a perplexity ratio of at
        most 1.5. It does not hold where one of them lies below with its whole interval, or the ratio is larger.
        Anything else is not shown.
        """
        if self.obstacle:
            return f"not testable here: {self.obstacle}"
        # Written so that a ratio that is no number counts as too large.
        wrecked = self.perplexity_ratio is not None and not self.perplexity_ratio <= MAX_PERPLEXITY_RATIO
        reasons = [f"perplexity ratio {_short(self.perplexity_ratio or 0.0)}"] if wrecked else []
        against = {"change": self.change} | ({f"against {self.control_name}": self.control} if self.control else {})
        below = [name for name, found in against.items() if found.high < 0]
        reasons += [f"{' and '.join(below)} below zero"] if below else []
        if reasons:
            return f"does not hold: {'; '.join(reasons)}"
        unclear = [name for name, found in against.items() if found.low <= 0]
        if unclear:
            return f"not shown: {' and '.join(unclear)} may be zero"
        if self.control_name and self.control is None:
            return f"not shown: {self.control_name} not measured"
        return "holds"

    def cells(self) -> list[str]:
        """Return ours, change, control, perplexity ratio, items and verdict."""
        control = f"{self.control.text('+.3f')} ({self.control_name})" if self.control else ""
        ratio = "" if self.perplexity_ratio is None else _short(self.perplexity_ratio)
        change = f"{self.change.text('+.3f')} {self.unit}"
        return [self.ours, change, control, ratio, str(self.items), self.verdict]


@dataclass(frozen=True)
class Found:
    """All findings of a folder, and the model they are of."""

    model: str
    findings: Sequence[Finding]

    def save(self, folder: Path) -> None:
        """Write ``results.json``."""
        content = {"model": self.model, "findings": [asdict(finding) for finding in self.findings]}
        (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_found(folder: Path) -> Found | None:
    """Read ``results.json``; None if the folder has none yet."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Found(content["model"], [_finding(node) for node in content["findings"]])


def claims(folder: str, home: Path = HOME) -> list[Claim]:
    """Return the claims of the paper that a folder tests, from ``paper.yaml``."""
    return [Claim(**node) for node in paper(home)[folder]["claims"]]


def paper(home: Path = HOME) -> Mapping[str, Any]:
    """Return ``paper.yaml``: folder -> title, source and claims."""
    content: Mapping[str, Any] = yaml.safe_load((home / "paper.yaml").read_text(encoding="utf-8"))
    return content


def claim_rows(folder: str, found: Found | None, home: Path = HOME) -> list[list[str]]:
    """Return a line for every claim of a folder: claim, the paper's figures, then `Finding.cells`."""
    findings = {finding.claim: finding for finding in found.findings} if found else {}
    known = claims(folder, home)
    strangers = set(findings) - {claim.id for claim in known}
    if strangers:
        raise ValueError(f"{folder}: paper.yaml has no claim {', '.join(sorted(strangers))}: add it there")
    rows = []
    for claim in known:
        if claim.untestable:
            cells = ["", "", "", "", "", f"not testable here: {claim.untestable}"]
        elif claim.id in findings:
            cells = findings[claim.id].cells()
        else:
            cells = ["", "", "", "", "", "not run yet"]
        rows.append([claim.claim, claim.paper, *cells])
    return rows


CLAIM_COLUMNS = ["claim", "paper", "ours", "change [95%]", "minus control [95%]", "perplexity ratio", "n", "verdict"]


def _finding(node: Mapping[str, Any]) -> Finding:
    intervals = {key: Interval(**node[key]) if node[key] else None for key in ("change", "control")}
    return Finding(**{**node, **intervals})


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1e}"
