"""Which written pairs judges of speech learn from, so that they are not those a mask was calibrated on."""

from pathlib import Path

from persona_prune.evaluators.judges import JudgePairs
from persona_prune.evaluators.questionnaires.big_five import ipip_neo_120
from persona_prune.evaluators.questionnaires.inventory import SIXTEEN_TYPES, read_inventory
from persona_prune.personas.pair_files import embedded_pairs, holds_answers, read_pairs
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Persona
from persona_prune.personas.splits import Split, part_of

_FEWEST = 16  # pairs that a judge can learn from
_STATEMENTS = {
    "extrovert_introvert": (("I-E", -1), ("extraversion", 1)),
    "intuitive_sensing": (("N-S", 1),),
    "feeling_thinking": (("F-T", 1),),
    "judging_perceiving": (("P-J", -1),),
    "openness": (("openness", 1),),
    "conscientiousness": (("conscientiousness", 1),),
    "agreeableness": (("agreeableness", 1),),
    "emotional_stability": (("neuroticism", -1),),
}
"""Embedded set -> scales of the questionnaires, with the key of statements that its matching pole agrees to."""


def judge_pairs(
    persona: Persona,
    *,
    path: str | None,
    prompts_path: str | None,
    prompts_split: Split | None,
    calibration_path: str | None,
    calibration_split: Split | None,
) -> JudgePairs:
    """Return the first there is of several sources, the most independent of them first.

    They are the pairs in ``path``; the embedded judges' pairs, for embedded personas; the answers written to the
    prompts that are asked (each judged without those to its own prompt); the validation part of the calibration file;
    and that file itself, which is not independent of the mask.

    Args:
        persona: whose pairs; not a mix.
        path: ``evaluator.speech.judge_path``.
        prompts_path: ``evaluator.speech.prompts_path``.
        prompts_split: the part of it that is asked.
        calibration_path: the file that the mask is calibrated on, if it is one.
        calibration_split: the part of it.

    Raises:
        OSError, ValueError: a file can't be read; or there are none, or too few.
    """
    if path is not None:
        own = persona.orient(read_pairs(path), embedded=False)
        again = calibration_split is None and _same(path, calibration_path)
        return _checked(JudgePairs(own, own, f"the pairs in {Path(path).name}", not again, ()), path)
    if persona.pairs is not None:
        fit, test = embedded_pairs(persona, "judge"), embedded_pairs(persona, "test")
        return JudgePairs(fit, test, f"the judges' pairs of {persona.pairs}", True, _statements(persona))
    if prompts_path is not None and holds_answers(prompts_path):
        own = persona.orient(part_of(read_pairs(prompts_path), prompts_split, prompts_path), embedded=False)
        if len(own) >= _FEWEST:
            return JudgePairs(own, own, "the answers written to other prompts of the same file", True, ())
    if calibration_path is not None and holds_answers(calibration_path):
        pairs = persona.orient(read_pairs(calibration_path), embedded=False)
        if calibration_split == "calibration":
            fit, test = (part_of(pairs, part, calibration_path) for part in ("validation", "test"))
            if len(fit) >= _FEWEST:
                return JudgePairs(fit, test, "the validation part of the calibration file", True, ())
        used = part_of(pairs, calibration_split, calibration_path)
        return _checked(JudgePairs(used, used, "the pairs the mask was calibrated on", False, ()), calibration_path)
    raise ValueError(
        f"persona {persona.name}: no written answers for the judges to learn from: "
        "give pairs with evaluator.speech.judge_path=FILE"
    )


def _same(path: str, other: str | None) -> bool:
    return other is not None and Path(path).expanduser().resolve() == Path(other).expanduser().resolve()


def _checked(pairs: JudgePairs, path: str) -> JudgePairs:
    if len(pairs.fit) < _FEWEST:
        raise ValueError(
            f"{path}: {len(pairs.fit)} pairs are too few for judges to learn from, {_FEWEST} at the least: "
            "give more with evaluator.speech.judge_path=FILE, or leave speech out of evaluator=[...]"
        )
    return pairs


def _statements(persona: Persona) -> tuple[tuple[str, bool], ...]:
    """Return the statements of the embedded questionnaires about the persona's axis, and whether it agrees to them."""
    wanted = dict(_STATEMENTS.get(str(persona.pairs), ()))
    turned = Pair("", "a", "b")
    shows_matching = persona.orient([turned], embedded=True) == (turned,)
    items = [*read_inventory(SIXTEEN_TYPES, ()).items, *ipip_neo_120().items] if wanted else []
    return tuple(
        (item.text, (item.key == wanted[item.scale]) == shows_matching) for item in items if item.scale in wanted
    )
