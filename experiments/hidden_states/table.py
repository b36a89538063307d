"""Table 3: how alike the hidden states under the masks of opposite poles are, beside those of the dense model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from experiments.figures import Difference, Interval, Run, by_persona, finished_runs
from experiments.findings import Finding
from experiments.publish import Report
from experiments.switching import POLES, worst_ratio
from experiments.tables import markdown
from persona_prune.analyse.hidden import hidden_states, similarity
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import open_run

_PROMPTS = 8
_SPARSITY = 0.6

States = Sequence[Tensor]


def report(directory: Path, folder: Path) -> Report:
    """Run the model under every mask (seconds each) and compare the hidden states of opposite poles."""
    masks = by_persona(finished_runs(directory / "mask_overlap"), "wanda", _SPARSITY)
    pairs = {axis: pair for axis, pair in POLES.items() if set(pair) <= set(masks)}
    if not pairs:
        return Report([], [], "")
    used = [masks[pole] for pair in pairs.values() for pole in pair]
    states = _states(used)
    layers = len(states["dense"][0])
    places = {"middle": layers // 2, "upper": layers * 3 // 4}
    rows, findings = [], []
    for place, layer in places.items():
        apart = {axis: _cosines(states[a], states[b], layer) for axis, (a, b) in pairs.items()}
        from_dense = {axis: _cosines(states[a], states["dense"], layer) for axis, (a, _) in pairs.items()}
        for axis in pairs:
            cells = [Interval.mean(found[axis]).text(".4f") for found in (apart, from_dense)]
            rows.append([f"{place} ({layer} of {layers})", axis, *cells])
        # By prompt, which all masks are asked: the mean over pairs of poles.
        by_prompt = [np.mean(list(found.values()), axis=0) for found in (apart, from_dense)]
        findings.append(
            Finding(
                claim=place,
                ours=f"cosine {Interval.mean(by_prompt[0]).text('.4f')}",
                unit="cosine to the dense model - cosine between the poles",
                change=Difference.mean(by_prompt[1] - by_prompt[0]),
                perplexity_ratio=worst_ratio(used),
                items=len(by_prompt[0]),
            )
        )
    columns = ["layer", "poles", "cosine between the poles", "cosine of the first and the dense model"]
    return Report(used, findings, markdown(columns, rows))


def _states(runs: Sequence[Run]) -> dict[str, States]:
    opened = open_run(runs[0].path)
    prompts = opened.test_prompts(_PROMPTS)
    loaded = opened.model().load()
    states: dict[str, States] = {"dense": hidden_states(loaded, prompts)}
    for run in runs:
        with SavedPersona.load(run.path).applied(loaded):
            states[run.persona] = hidden_states(loaded, prompts)
    return states


def _cosines(first: States, second: States, layer: int) -> list[float]:
    """Return the cosine after the ``layer``-th layer, prompt by prompt, mean over tokens."""
    return [similarity([one], [other]).mean[layer - 1] for one, other in zip(first, second, strict=True)]
