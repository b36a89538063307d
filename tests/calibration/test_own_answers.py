from persona_prune.calibration.own_answers import against_own_answers
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.generation import greedy_answers
from persona_prune.personas.pairs import Pair


def quiet(label, total):
    return lambda done: None


def test_the_model_s_own_greedy_answers_stand_against_the_matching_ones(tiny):
    pairs = [
        Pair("What now?", "Let us call a few friends over.", ""),
        Pair("And?", "a", "b"),
        Pair("Work?", "Yes.", ""),
    ]
    found = against_own_answers(tiny, pairs, 2, quiet)
    assert [pair.prompt for pair in found] == ["What now?", "And?", "Work?"]
    assert [pair.matching for pair in found] == [pair.matching for pair in pairs]
    assert found[1] == pairs[1]
    ids = tuple(tiny.tokenizer(chat_prompt(tiny.tokenizer, "What now?"), add_special_tokens=False).input_ids)
    length = len(tiny.tokenizer(pairs[0].matching).input_ids)
    (own,) = greedy_answers(tiny, [ids], max_new_tokens=length, batch_size=1)
    assert found[0].not_matching == tiny.tokenizer.decode(own, skip_special_tokens=True).strip()
    assert against_own_answers(tiny, pairs, 3, quiet) == found
    assert against_own_answers(tiny, pairs[1:2], 2, quiet) == (pairs[1],)
