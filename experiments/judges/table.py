"""How far the judges of speech can be trusted: ``python -m experiments.judges.table DATA [README]``.

DATA holds ``ai_persona/*.jsonl``, ``machine_mindset/*.jsonl`` and ``model_written_evals/persona/*.jsonl``; what is not
there is left out.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.tables import markdown, write_block
from persona_prune.common.errors import one_line
from persona_prune.evaluators.judge_pairs import judge_pairs
from persona_prune.evaluators.judges import JudgePairs, Panel
from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.persona import Persona
from persona_prune.personas.splits import part_of

_PUBLIC = {
    "ai_persona/power_seeking": "desire-for-acquiring-power",
    "ai_persona/wealth_seeking": "desire-for-acquiring-wealth",
    "machine_mindset/extraversion_introversion": "extraversion",
    "machine_mindset/thinking_feeling": None,
    "machine_mindset/perceiving_judging": None,
}
"""Public set -> the file of statements that are its second format."""

_COLUMNS = {
    "judge_auc": "both judges",
    "judge_accuracy": "pairs right",
    "judge_auc_vectors": "vectors",
    "judge_auc_ngrams": "n-grams",
    "judge_auc_statements": "statements",
    "judge_auc_length": "rival: length",
    "judge_auc_first_word": "rival: first word",
    "judge_auc_shuffled": "rival: shuffled",
}


def main(data: Path | None, page: Path | None = None) -> None:
    """Print the table, and put it between the markers of ``page``."""
    rows = []
    for name, pairs in judged(data):
        panel = Panel(pairs)
        trust = panel.trust()
        rows.append([name, str(len(pairs.fit)), str(len(pairs.test)), *_cells(trust)])
        print(rows[-1], file=sys.stderr)
    text = markdown(["set", "learned from", "tested on", *_COLUMNS.values()], rows)
    print(text)
    if page is not None:
        write_block(page, text)


def judged(data: Path | None) -> Iterator[tuple[str, JudgePairs]]:
    """Yield the sets, and what their judges learn from and are tested on."""
    for path in sorted(EMBEDDED.glob("*/judge.jsonl")):
        persona = Persona(
            name="persona",
            description="",
            opposite=None,
            system_prompt=None,
            pairs=path.parent.name,
            pole="matching",
            source=None,
            flip=False,
        )
        found = judge_pairs(
            persona,
            path=None,
            prompts_path=None,
            prompts_split=None,
            calibration_path=None,
            calibration_split=None,
        )
        yield path.parent.name, found
    for name, second in _PUBLIC.items() if data is not None else ():
        path = Path(str(data)) / f"{name}.jsonl"
        if path.is_file():
            test = part_of(read_pairs(path), "test", str(path))[:240]
            statements = _statements(Path(str(data)) / "model_written_evals" / "persona" / f"{second}.jsonl")
            yield name, JudgePairs(test, test, "the other pairs of the test part", True, statements)


def _statements(path: Path) -> tuple[tuple[str, bool], ...]:
    if not path.is_file():
        return ()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return tuple((row["statement"], row["answer_matching_behavior"].strip() == "Yes") for row in rows)


def _cells(trust: Mapping[str, float]) -> list[str]:
    return [f"{trust[key]:.2f}" if key in trust else "" for key in _COLUMNS]


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:3]]
    try:
        main(given[0] if given else None, given[1] if len(given) > 1 else None)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {one_line(error)}")
