"""Two-way choices: 200 questions."""

from benchmarks import reference
from benchmarks.measure import Arm, exactly, interleaved, ratio
from benchmarks.rows import Row
from benchmarks.setting import BATCH, Setting
from benchmarks.signature import bare_forward
from persona_prune.evaluators.lm_eval_bridge import multiple_choice
from persona_prune.models.chat_text import answer_lead
from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.pairs import Pair

_QUESTIONS = 200
_REFERENCE_SHARE = 5  # every fifth question, unless the whole is asked for: its cost is proportional to their number
_NEAR = 1e-3  # nats of summed margin: verdicts nearer to even than this may depend on rounding


def measure(setting: Setting) -> list[Row]:
    """Compare with one option at a time, and with a bare forward pass that sees every prompt once."""
    pairs = questions(8 if setting.quick else _QUESTIONS)
    lead = answer_lead(setting.loaded.tokenizer)
    parts = [[pairs[i] for i in part] for part in setting.slices(len(pairs))]
    sampled = [part[:: 1 if setting.full else _REFERENCE_SHARE] for part in parts]
    found: dict[Pair, list[float]] = {}
    expected: dict[Pair, list[float]] = {}

    def evaluate(number: int) -> None:
        items = [
            {"prompt": pair.prompt, "options": [lead + pair.matching, lead + pair.not_matching], "gold": 0}
            for pair in parts[number]
        ]
        totals = multiple_choice(setting.loaded, items, batch_size=BATCH, on_batch=lambda done: None)
        found.update(zip(parts[number], totals, strict=True))

    def plainly(number: int) -> None:
        for pair, row in zip(sampled[number], setting.rows(sampled[number]), strict=True):
            expected[pair] = reference.choice(setting.loaded.model, row)

    bare_forward(setting, setting.rows(parts[0][:2]), BATCH)
    tokens: dict[int, int] = {}
    seconds = interleaved(
        {
            "product": Arm(evaluate),
            "reference": Arm(plainly),
            "floor": Arm(lambda i: tokens.update({i: bare_forward(setting, setting.rows(parts[i]), BATCH)})),
        },
        setting.rounds,
        setting.device,
    )
    scales = [len(part) / len(fewer) for part, fewer in zip(parts, sampled, strict=True)]
    other = sum(_differs(found[pair], totals) for pair, totals in expected.items())
    options = sum(len(row.prompt) + len(branch) for row in setting.rows(pairs) for branch in row.branches)
    detail = {"seconds": seconds, "reference_scales": scales, "tokens": sum(tokens.values()), "tokens_plain": options}
    what = f"choice evaluation, {len(pairs)} questions"
    faster = ratio(seconds["reference"], seconds["product"], scales)
    slower = ratio(seconds["product"], seconds["floor"])
    read = exactly(sum(tokens.values()) / options)
    return [
        Row("choice", what, "one option at a time / product", faster, at_least=4.0, detail=detail),
        Row("choice", what, "product / bare forward, every prompt once", slower, detail=detail),
        Row("choice", what, "tokens read, with padding / one option at a time", read, detail=detail),
        Row("choice", what, f"other verdicts, of {len(expected)}", exactly(other), at_most=0.0, unit="", detail=detail),
    ]


def questions(count: int) -> list[Pair]:
    """Return the first questions of the embedded test sets, from all sets alike."""
    files = sorted(EMBEDDED.glob("*/test.jsonl"))
    by_number = zip(*(read_pairs(file) for file in files), strict=False)
    by_prompt: dict[str, Pair] = {}
    for pairs in by_number:
        for pair in pairs:
            by_prompt.setdefault(pair.prompt, pair)
    return list(by_prompt.values())[:count]


def _differs(totals: list[float], expected: list[float]) -> bool:
    margin, right = totals[0] - totals[1], expected[0] - expected[1]
    return (margin > 0) != (right > 0) and abs(right) > _NEAR
