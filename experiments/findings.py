"""What an experiment found, claim by claim, and the rule by which a claim of the paper holds."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.figures import Difference, Run, paired
from experiments.tables import percent
from persona_prune.report.doubts import not_the_persona
from persona_prune.report.verdict import WRECKED

HOME = Path(__file__).parent
CONTROLS = ("random", "magnitude", "generic", "opposite")
_ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        id: name within its folder.
        claim: what is said, in our words.
        paper: the paper's figures.
        untestable: why no run here can decide it, or None; a run elsewhere may.
    """

    id: str
    claim: str
    paper: str
    untestable: str | None = None


@dataclass(frozen=True)
class Control:
    """What a mask does beyond another one that must lose.

    Attributes:
        name: of the other mask.
        difference: the persona's mask minus the other.
        perplexity_ratio: of the other mask; None where it was not measured. What a wrecked model chooses says nothing,
            so beating it shows nothing.
    """

    name: str
    difference: Difference
    perplexity_ratio: float | None

    @property
    def speaks(self) -> bool:
        """Whether the other mask leaves a model that can be asked."""
        return self.perplexity_ratio is None or self.perplexity_ratio <= WRECKED


@dataclass(frozen=True)
class Finding:
    """What runs say about a claim. Intervals are 95%.

    Attributes:
        claim: its `Claim.id`.
        ours: the figure to set beside the paper's, with its unit and interval.
        unit: of the differences.
        change: against the dense model (or another mask, where the claim compares masks); positive: as claimed.
        perplexity_ratio: masked over dense, the largest of all masks that the claim is about; None where it is not
            about what a masked model does.
        items: how many items, or layers, the differences are means over.
        controls: masks that must lose.
        needs_control: False where masks are each other's control, or a claim is not about one.
        about_cost: whether the claim is that a mask costs little, which a wrecked model refutes too.
        doubts: what else explains the change (`doubts.not_the_persona`).
        obstacle: why the figures decide nothing, or None.
    """

    claim: str
    ours: str
    unit: str
    change: Difference
    perplexity_ratio: float | None
    items: int
    controls: Sequence[Control] = ()
    needs_control: bool = False
    about_cost: bool = False
    doubts: Sequence[str] = ()
    obstacle: str | None = None

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold``, ``not shown`` or ``not testable here``, with the reason.

        A difference is above (or below) zero where its whole interval is and p < 0.05. A claim holds where the change
        and the differences from all controls that speak are above zero, and nothing else explains it. It does not hold
        where one of them is below. Anything else is not shown. A model whose perplexity is more than 1.5 times the
        dense model's decides nothing, unless the claim is about that cost.
        """
        if self.obstacle:
            return f"not testable here: {self.obstacle}"
        # Written so that a ratio that is no number counts as too large.
        wrecked = self.perplexity_ratio is not None and not self.perplexity_ratio <= WRECKED
        ratio = f"perplexity ratio {_short(self.perplexity_ratio or 0.0)}"
        if wrecked and not self.about_cost:
            return f"not testable here: the model is wrecked ({ratio})"
        speaking = [control for control in self.controls if control.speaks]
        against = {"change": self.change} | {f"against {c.name}": c.difference for c in speaking}
        below = [name for name, found in against.items() if found.high < 0 and found.p < _ALPHA]
        if below:
            return f"does not hold: {' and '.join(below)} below zero"
        if wrecked:
            return f"does not hold: {ratio}, whatever these questions show"
        unclear = [name for name, found in against.items() if not (found.low > 0 and found.p < _ALPHA)]
        if unclear:
            return f"not shown: {' and '.join(unclear)} may be zero"
        if self.needs_control and not speaking:
            silent = ", ".join(f"{c.name} {_short(c.perplexity_ratio or 0.0)}" for c in self.controls)
            return "not shown: " + (f"every control is wrecked (perplexity ratio {silent})" if silent else "no control")
        if self.doubts:
            return f"not shown: {self.doubts[0]}"
        return "holds"

    def cells(self) -> list[str]:
        """Return ours, change, control, perplexity ratio, items and verdict."""
        control = "; ".join(
            f"{c.difference.text('+.3f')} ({c.name}{'' if c.speaks else ', wrecked'})" for c in self.controls
        )
        ratio = "" if self.perplexity_ratio is None else _short(self.perplexity_ratio)
        change = f"{self.change.text('+.3f')} {self.unit}, p = {self.change.p:.2g}"
        return [self.ours, change, control, ratio, str(self.items), self.verdict]


def doubts_of(runs: Iterable[Run]) -> list[str]:
    """Return what explains the change of some runs by something else than a persona; of several, which run it is."""
    runs = list(runs)
    found = [(run, doubt) for run in runs for doubt in not_the_persona(run.metrics)]
    return [f"{run.persona}, {run.label}: {doubt}" if len(runs) > 1 else doubt for run, doubt in found]


def accuracy_doubts(run: Run, evaluator: str) -> list[str]:
    """Return the doubts of one run, and whether the accuracy, which is the paper's figure, did not rise."""
    now, before = (run.metrics[f"{arm}{evaluator}/accuracy"] for arm in ("", "dense/"))
    flat = [] if now > before else [f"the margin grew, the accuracy did not ({before:.1%} to {now:.1%})"]
    return [*flat, *doubts_of([run])]


def beats(claim: str, run: Run, other: Run, evaluator: str = "choice", **more: Any) -> Finding | None:
    """Return whether one method beats another on the questions that both were asked; None if there are none.

    A mask must also beat its controls: what any mask does is no merit of the method.
    """
    difference = paired(run, other, evaluator, "margin")
    if difference is None:
        return None
    ours, theirs = (one.figure(f"{evaluator}/accuracy") for one in (run, other))
    higher = [] if ours.value > theirs.value else ["the margin is the higher one, the accuracy is not"]
    return Finding(
        claim,
        f"{percent(ours)} against {percent(theirs)} ({other.label})",
        "nats",
        difference,
        max(one.metrics.get("capability/perplexity_ratio", 1.0) for one in (run, other)),
        len(run.items(evaluator).samples),
        controls_of(run, f"{evaluator}/margin") if run.is_mask else [],
        needs_control=run.is_mask,
        doubts=[*higher, *doubts_of([run])],
        **more,
    )


def controls_of(run: Run, metric: str) -> list[Control]:
    """Return the controls that a run was measured beside, by a metric such as ``choice/margin``."""
    found = []
    for name in CONTROLS:
        difference = Difference.of(run.metrics, f"{metric}_vs_{name}")
        if difference is not None:
            found.append(Control(name, difference, run.metrics.get(f"{name}/capability/perplexity_ratio")))
    return found


@dataclass(frozen=True)
class Found:
    """All findings of a folder, the model they are of, and what else was asked for (`publish.settings`)."""

    model: str
    settings: str
    findings: Sequence[Finding]

    def save(self, folder: Path) -> None:
        """Write ``results.json``."""
        content = {
            "model": self.model,
            "settings": self.settings,
            "findings": [asdict(finding) for finding in self.findings],
        }
        (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_found(folder: Path) -> Found | None:
    """Read ``results.json``; None if the folder has none yet."""
    path = folder / "results.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Found(content["model"], content["settings"], [_finding(node) for node in content["findings"]])


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
        if claim.id in findings:
            cells = findings[claim.id].cells()
        elif claim.untestable:
            cells = ["", "", "", "", "", f"not testable here: {claim.untestable}"]
        else:
            cells = ["", "", "", "", "", "not run yet"]
        rows.append([claim.claim, claim.paper, *cells])
    return rows


CLAIM_COLUMNS = ["claim", "paper", "ours", "change [95%]", "minus control [95%]", "perplexity ratio", "n", "verdict"]


def _finding(node: Mapping[str, Any]) -> Finding:
    controls = tuple(Control(**{**one, "difference": Difference(**one["difference"])}) for one in node["controls"])
    read = {"change": Difference(**node["change"]), "controls": controls, "doubts": tuple(node["doubts"])}
    return Finding(**{**node, **read})


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1e}"
