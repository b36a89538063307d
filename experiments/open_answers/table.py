"""Tables 9, 16 and 17: what models say, and whether it sounds like the persona."""

from pathlib import Path

from experiments.figures import Run, finished_runs, interval, number
from experiments.findings import Finding, controls_of, doubts_of
from experiments.publish import Report
from experiments.tables import markdown

_CLAIMED = ("wanda", "contrastive_wanda")
_SHOWN, _LENGTH = 3, 220


def report(directory: Path, folder: Path) -> Report:
    """Return figures and the first answers of every persona."""
    runs = {(run.persona, run.method): run for run in finished_runs(directory / "open_answers")}
    findings = [finding(run) for (_, method), run in runs.items() if method in _CLAIMED]
    rows = []
    for run in runs.values():
        figures = [interval(run.metrics, f"speech/{key}", form) for key, form in _FIGURES.items()]
        dense = [interval(run.metrics, f"dense/speech/{key}", form) for key, form in _FIGURES.items()]
        ratio = number(run.metrics, "capability/perplexity_ratio", ".3g")
        rows.append([run.persona, run.label, *figures, *dense, ratio])
    columns = [
        "persona",
        "method",
        "heard",
        "judges",
        "coherent",
        "heard, dense",
        "judges, dense",
        "coherent, dense",
    ]
    text = [markdown([*columns, "perplexity ratio"], rows)]
    text += [f"### {persona}\n\n{answers(runs, persona)}" for persona in dict.fromkeys(who for who, _ in runs)]
    return Report(list(runs.values()), findings, "\n\n".join(text))


_FIGURES = {"expressed": ".2f", "persona": ".2f", "coherent": ".2f"}


def finding(run: Run) -> Finding:
    """Return how likely the judges hold it that the persona speaks."""
    found = run.figure("speech/persona")
    return Finding(
        claim=f"{run.persona}/{run.method}",
        ours=f"{found.text('.2f')}, degenerate {run.metrics['speech/degenerate']:.0%}",
        unit="probability",
        change=run.difference("speech/persona_delta"),
        perplexity_ratio=run.metrics["capability/perplexity_ratio"],
        items=len(run.items("speech").samples),
        controls=controls_of(run, "speech/persona"),
        needs_control=True,
        doubts=doubts_of([run]),
    )


def answers(runs: dict[tuple[str, str], Run], persona: str) -> str:
    """Return the first prompts with every method's greedy answer."""
    own = {method: run for (who, method), run in runs.items() if who == persona}
    rows: list[list[str]] = []
    for place in range(_SHOWN):
        for run in own.values():
            samples = run.items("speech").samples
            if place >= len(samples):
                continue
            sample = samples[place]
            if "dense_answer" in sample and not any(row[0] == sample["prompt"] for row in rows):
                rows.append([sample["prompt"], "dense", _short(sample["dense_answer"])])
            rows.append(["", run.label, _short(sample["answer"])])
    return markdown(["prompt", "method", "answer"], rows)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
