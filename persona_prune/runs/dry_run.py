"""What a sweep would do (``sweep.dry_run=true``): its jobs, what is done, and what of their material is cached."""

from collections.abc import Sequence

from persona_prune.common.cache import cache_root
from persona_prune.methods.contrastive_taylor import ContrastiveTaylor
from persona_prune.methods.selection import Selection
from persona_prune.personas.pair_files import without_leaks
from persona_prune.personas.pairs import Pair, content_hash, pole_free
from persona_prune.personas.persona import Mix
from persona_prune.runs.directory import INTERRUPTED, finished, in_use, read_status
from persona_prune.runs.plan import Plan, evaluated_prompts
from persona_prune.saved.mask_cache import data_hashes

_NOTE = """\
cached: "no" is certain. "maybe": there is one of these pairs, but whether it is of this model, dtype and length limit
only the weights can tell, whose fingerprint is part of the cache's keys; so too for the dense model's evaluations."""


def preview(jobs: Sequence[tuple[Sequence[str], Plan]], *, complete: bool) -> list[str]:
    """Return the lines that tell what each job would do; no model is loaded and nothing is written.

    Args:
        jobs: overrides and plan of each.
        complete: whether these are the sweep's jobs, not the corners of a space that it searches.
    """
    hashes = {kind: data_hashes(cache_root() / kind) for kind in ("signatures", "masks")}
    plans = [plan for _, plan in jobs]
    done = sum(_state(plan) == "done" for plan in plans)
    if complete:
        lines = [f"{len(jobs)} jobs, {done} of them done already; a sweep would skip those and start the others"]
    else:
        lines = [f"{len(jobs)} corners of the space that would be searched; the sweeper chooses the jobs"]
    common = set.intersection(*(set(overrides) for overrides, _ in jobs))
    for number, (overrides, plan) in enumerate(jobs):
        own = " ".join(line for line in overrides if line not in common)
        lines.append(f"  {number:4d}  {_state(plan):11s}  cached: {_cached(plan, hashes):15s}  {plan.directory}  {own}")
    return [*lines, _NOTE]


def _state(plan: Plan) -> str:
    if finished(plan.directory, plan.config_hash) is not None:
        return "done"
    if in_use(plan.directory):
        return "running"
    status = read_status(plan.directory)
    if status is None or status["config_hash"] != plan.config_hash:
        return "new"
    if status["status"] == "running":
        return "killed"
    return INTERRUPTED if status.get("error") == INTERRUPTED else "failed"


def _cached(plan: Plan, hashes: dict[str, set[str]]) -> str:
    """Return whether the signature, or the mask of a gradient method, may be cached."""
    if not isinstance(plan.method, Selection):
        return "-"
    kind, name = ("masks", "mask") if isinstance(plan.method, ContrastiveTaylor) else ("signatures", "signature")
    asked = evaluated_prompts(plan.persona, plan.evaluators)
    parts: list[Sequence[Pair]] = [
        without_leaks(plan.calibration.pairs(part), asked, plan.calibration.on_leak) for part, _ in plan.persona.parts
    ]
    if not all(pair.not_matching for part in parts for pair in part):
        return f"{name} maybe"  # the model's own answers are still to be put in
    if kind == "signatures":
        parts = [pole_free(part)[0] for part in parts]
    elif isinstance(plan.persona, Mix) and plan.persona.pooled:
        parts = [[pair for part in parts for pair in part]]
    return f"{name} {'maybe' if all(content_hash(part) in hashes[kind] for part in parts) else 'no'}"
