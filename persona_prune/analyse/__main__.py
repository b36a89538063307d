"""Compare the masks of finished runs: ``python -m persona_prune.analyse A=RUN_DIR B=RUN_DIR --output DIR``."""

import argparse
import itertools
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from persona_prune.analyse.hidden import hidden_states, similarity
from persona_prune.analyse.overlap import By, by_part, overlaps, parts, total
from persona_prune.analyse.plots import plot_overlap, plot_similarity, plot_sweep
from persona_prune.analyse.restore import restore_sweep
from persona_prune.analyse.tables import overlap_table, similarity_table, sweep_figures, sweep_table, write_sweeps
from persona_prune.common import cli
from persona_prune.common.text_files import write_text
from persona_prune.evaluators.base import Evaluator
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel, same_weights
from persona_prune.personas.pair_files import read_prompts
from persona_prune.personas.persona import AnyPersona
from persona_prune.saved.mask_file import FORMATS
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.persona_file import load_persona_mask, read_manifest
from persona_prune.saved.rebuilt_run import SavedRun, first, open_run

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_BYS: tuple[By, ...] = ("linear", "module", "layer")

Section = tuple[list[str], dict[str, Any]]
"""Tables for the terminal, and what goes into ``analysis.json``."""


@dataclass(frozen=True)
class Source:
    """A persona file, the label it goes by, the run in whose directory it lies, if any, and the gamma it says."""

    label: str
    path: Path
    run: SavedRun | None
    gamma: float


@dataclass(frozen=True)
class Measured:
    """What is measured under a mask, and for whom."""

    evaluator: Evaluator
    persona: AnyPersona


def main(arguments: Sequence[str]) -> int:
    """Analyse, write ``analysis.json`` and figures, print the tables; return the exit code."""
    options = _parse(arguments)

    def body() -> None:
        tables, analysis = _analyse(options)
        write_text(options.output / "analysis.json", json.dumps(analysis, indent=2, allow_nan=False) + "\n")
        print("\n\n".join([*tables, f"analysis.json and figures: {options.output}"]))

    return cli.run(body)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m persona_prune.analyse",
        description="Compare masks of one model: where they differ, what they do to hidden states, "
        "and which part of the model carries the effect of the first.",
    )
    parser.add_argument("masks", nargs="+", metavar="[LABEL=]RUN", help="a run directory, or a persona file")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for analysis.json and figures")
    parser.add_argument(
        "--run", type=Path, metavar="RUN_DIR", help="whose model, prompts and items to use; default: the first's"
    )
    parser.add_argument("--cosine", type=_count, metavar="N", help="compare hidden states on N prompts")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSONL with 'prompt'; default: the persona's embedded test prompts"
    )
    parser.add_argument("--by", choices=_BYS, help="restore one of these at a time under the first mask")
    parser.add_argument("--limit", type=_count, metavar="N", help="choice items for --by; default: the run's own limit")
    parser.add_argument("--figure", nargs="+", help="item metrics of choice for --by; default: margin")
    options = parser.parse_args(arguments)
    if options.prompts and not options.cosine:
        parser.error("--prompts is for --cosine")
    if (options.limit or options.figure) and not options.by:
        parser.error("--limit and --figure are for --by")
    if len(options.masks) == 1 and not (options.cosine or options.by):
        parser.error("one mask alone: give a second one to compare it with, or --cosine or --by")
    return options


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _analyse(options: argparse.Namespace) -> Section:
    """Do what is asked for; what can be refused is, before any weights load."""
    sources = _sources(options.masks)
    manifests = {source.label: read_manifest(source.path) for source in sources}
    _check_one_model({label: str(manifest["model_fingerprint"]) for label, manifest in manifests.items()})
    rebuilt = any(manifest["format"] not in FORMATS for manifest in manifests.values())
    # Items of another run than the first mask's are measured only where they are named.
    runs = [source.run for source in (sources[:1] if options.by else sources)]
    run = _model_run(options.run, runs) if options.cosine or options.by or rebuilt else None
    prompts = _prompts(options, run) if run and options.cosine else []
    measured = _measured(options, run) if run and options.by else None
    options.output.mkdir(parents=True, exist_ok=True)

    loaded = run.model().load() if run else None
    linears = loaded.linears if loaded else {}
    masks = {source.label: load_persona_mask(source.path, linears) for source in sources}
    if loaded:
        _check_one_model({f"{loaded.name} as it is now": loaded.fingerprint, **_fingerprints(masks)})
    about = {
        source.label: {
            "path": str(source.path),
            "sparsity": masks[source.label].sparsity,
            "gamma": source.gamma,
            "description": dict(masks[source.label].description),
        }
        for source in sources
    }
    tables: list[str] = []
    analysis: dict[str, Any] = {"masks": about}
    sections = [_overlap(masks, options.output)] if len(masks) > 1 else []
    if loaded and prompts:
        sections.append(_similarity(loaded, sources, masks, prompts, options.output))
    if loaded and measured:
        figures = options.figure or ["margin"]
        sections.append(
            _restore(loaded, sources[0], masks[sources[0].label], measured, options.by, figures, options.output)
        )
    for found, content in sections:
        tables += found
        analysis |= content
    return tables, analysis


def _overlap(masks: Mapping[str, Mask], output: Path) -> Section:
    pairs = {f"{a}-{b}": overlaps(masks[a], masks[b]) for a, b in itertools.combinations(masks, 2)}
    content: dict[str, Any] = {}
    for pair, by_linear in pairs.items():
        plot_overlap(output / f"overlap_{pair}.png", pair, by_linear)
        divisions: tuple[By, ...] = ("block", "module", "layer", "linear")
        divided: dict[str, Any] = {
            by: {part: o.figures() for part, o in by_part(by_linear, by).items()} for by in divisions
        }
        content[pair] = {"all": total(by_linear.values()).figures(), **divided}
    return [overlap_table(pairs)], {"overlap": content}


def _similarity(
    loaded: LoadedModel, sources: Sequence[Source], masks: Mapping[str, Mask], prompts: Sequence[str], output: Path
) -> Section:
    states = {}
    for source in tqdm(sources, desc="hidden states", leave=False, disable=None, unit="mask"):
        with masked(loaded.model, masks[source.label], model_fingerprint=loaded.fingerprint, gamma=source.gamma):
            states[source.label] = hidden_states(loaded, prompts)
    states["dense"] = hidden_states(loaded, prompts)
    found = {f"{a}-{b}": similarity(states[a], states[b]) for a, b in itertools.combinations(states, 2)}
    plot_similarity(output / "cosine.png", found, len(prompts))
    content = {"prompts": list(prompts), "pairs": {pair: asdict(one) for pair, one in found.items()}}
    return [f"Cosine similarity of hidden states, {len(prompts)} prompts\n{similarity_table(found)}"], {
        "cosine": content
    }


def _restore(
    loaded: LoadedModel,
    source: Source,
    mask: Mask,
    measured: Measured,
    by: By,
    figures: Sequence[str],
    output: Path,
) -> Section:
    divided: dict[str, list[str]] = parts(mask.shapes, by)
    with tqdm(total=len(divided), desc=f"restore one {by}", leave=False, disable=None, unit="part") as bar:
        sweeps = restore_sweep(
            loaded,
            mask,
            divided,
            lambda: measured.evaluator.evaluate(loaded, measured.persona, None, _no_bar),
            figures,
            gamma=source.gamma,
            on_part=bar.update,
        )
    write_sweeps(output / "restore.csv", sweeps, by)
    for figure, sweep in sweeps.items():
        plot_sweep(output / f"restore_{figure}.png", sweep, by, figure, source.label)
    content = {
        figure: {
            "items": sweep.items,
            "dense": sweep.dense,
            "masked": sweep.masked,
            "restored": sweep_figures(sweep),
        }
        for figure, sweep in sweeps.items()
    }
    tables = [sweep_table(figure, sweep, by, source.label) for figure, sweep in sweeps.items()]
    return tables, {"restore": {"mask": source.label, "persona": measured.persona.name, "by": by, "figures": content}}


def _sources(texts: Sequence[str]) -> list[Source]:
    sources = [_source(text) for text in texts]
    labels = [source.label for source in sources]
    for label in labels:
        if not _LABEL.fullmatch(label) or label == "dense":
            raise ValueError(f"{label!r} can't be a label: use letters and digits, and not 'dense', as in A=RUN_DIR")
        if labels.count(label) > 1:
            raise ValueError(f"two masks are called {label}: name them apart, as in A=RUN_DIR B=RUN_DIR")
    return sources


def _source(text: str) -> Source:
    """Read ``LABEL=PATH`` or ``PATH``, which is labelled by its run directory."""
    label, equals, rest = text.partition("=")
    if not equals or Path(text).exists():
        label, rest = "", text
    given = Path(rest).expanduser()
    path = given / "persona.safetensors" if given.is_dir() else given
    run = open_run(path.parent) if (path.parent / ".hydra").is_dir() else None
    gamma = SavedPersona.load(path).gamma
    return Source(label or (path.absolute().parent.name if run or given.is_dir() else path.stem), path, run, gamma)


def _check_one_model(fingerprints: Mapping[str, str]) -> None:
    one, expected = max(fingerprints.items(), key=lambda item: len(item[1]))  # files of version 0.1.0 say less
    for other, fingerprint in fingerprints.items():
        if not same_weights(fingerprint, expected):
            raise ValueError(
                f"{one} and {other} are of different models (fingerprints {expected} and {fingerprint}): "
                "give masks of one model"
            )


def _fingerprints(masks: Mapping[str, Mask]) -> dict[str, str]:
    return {label: mask.model_fingerprint for label, mask in masks.items()}


def _model_run(chosen: Path | None, runs: Sequence[SavedRun | None]) -> SavedRun:
    if chosen is not None:
        return open_run(chosen)
    for run in runs:
        if run is not None:
            return run
    raise ValueError("no run to take model and items from: give run directories, or name one with --run RUN_DIR")


def _prompts(options: argparse.Namespace, run: SavedRun) -> list[str]:
    if options.prompts is None:
        return run.test_prompts(options.cosine)
    if not options.prompts.is_file():
        raise FileNotFoundError(f"no prompt file at {options.prompts}")
    return first(list(read_prompts(options.prompts)), options.cosine, str(options.prompts))


def _measured(options: argparse.Namespace, run: SavedRun) -> Measured:
    measured = Measured(run.choice(options.limit), run.persona())
    measured.evaluator.check(measured.persona)
    return measured


def _no_bar(label: str, total: int) -> Callable[[int], object]:
    """Stand in for an evaluator's progress bar: the sweep draws one over its parts."""
    return lambda done: None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
