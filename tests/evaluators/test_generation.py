import json
import math
from dataclasses import replace

import pytest
import torch

from persona_prune.evaluators import generation
from persona_prune.evaluators.degenerate import measure
from persona_prune.evaluators.generation import Generation, _Answer, _closer_to_matching, _Item, _judged, _measured
from persona_prune.evaluators.results import EvalResult
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.devices import pick_device, pick_dtype
from persona_prune.models.generation import greedy_answers
from persona_prune.models.loaded import maskable_linears
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Mix
from tests.reference import oracles

NORMAL = [
    "I'd go, of course. There'll be people I haven't met, and somebody always knows a better story than mine.",
    "No.",
    "$5.",
    "2 + 2 = 4, and 4 + 4 = 8.",
    "1. Buy bread.\n2. Call your sister.\n3. Take the long way home.",
    "Very, very, very happy for you!",
    "1000000",
    "¿Qué tal? Привет! 今日は雨が降るので、家で本を読みます。",
    "The bus was late, so I walked. The bus passed me at the bridge, of course, and the driver waved.",
    "```python\nfor i in range(10):\n    total += i * i\nprint(total)\n```",
]
BROKEN = {
    "nothing": "",
    "white space": " \n\n\t ",
    "punctuation": "?!., ;--",
    "one letter": "a" * 40,
    "one word": "no no no no no no",
    "a word run together": "thethethethethethethe",
    "a phrase": "I see. " * 9,
    "a long sentence": "The best way to learn is to go there every day and ask for it. " * 3,
    "a loop after a start": "Well, that is hard to say. " + "and so on, " * 8,
    "a loop in a script without spaces": "雨が降る" * 6,
    "two words in no order": "of the the of of of the of the the the of the of of the of the the of the of",
    "loops within words": "tionuous" + "idson" * 6 + "enthic" + "=')" * 7 + "oston",
    "symbols": "ok ▓▓►◄►║═╬ ►▓◄═ yes ╬║►",
    "replacement characters": "\ufffd\ufffdx\ufffd y\ufffd",
}


def quiet(label, total):
    return lambda done: None


@pytest.fixture
def evaluator():
    return Generation(
        prompts_path=None,
        limit=4,
        max_new_tokens=12,
        samples=2,
        temperature=0.7,
        top_p=0.95,
        seed=5,
        judge=None,
        batch_size=32,
    )


@pytest.mark.parametrize("text", NORMAL)
def test_text_is_not_degenerate(text):
    assert not measure(text).degenerate


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_broken_text_is_degenerate(text):
    assert measure(text).degenerate


def test_measures_by_hand():
    # 8 words, 5 four-grams: abcd bcda cdab dabc abcd; 7 pairs: ab bc cd da ab bc cd.
    found = measure("A b, c d. a b c\nd")
    assert found.repetition == pytest.approx(1 / 5)
    assert (found.distinct_1, found.distinct_2) == (pytest.approx(4 / 8), pytest.approx(4 / 7))
    assert (found.loop, found.non_text, found.empty) == (0.0, 0.0, False)
    # "ab-" six times is 18 of 23 characters; two stretches of 16 are 32 of 37.
    assert measure("ab-ab-ab-ab-ab-ab-vwxyz").loop == pytest.approx(18 / 23)
    assert measure("a" * 16 + " xyz " + "bc" * 8).loop == pytest.approx(32 / 37)
    assert measure("Abcdefg\nabcdefg abcdefg vwxyz").loop == pytest.approx(24 / 29)
    # Twice is no loop, nor is any number of times of a little.
    assert measure("abcdefghi-abcdefghi-").loop == 0.0
    assert measure("ab-ab-ab-ab-ab-").loop == 0.0
    assert measure("ab►◄").non_text == pytest.approx(2 / 4)
    assert measure("").distinct_1 == 0.0


def test_length_and_end():
    def values(ids, nothing):
        found = _measured(_Answer("word", ids, nothing), 3)
        return found["tokens"], found["ended"]

    assert values((7, 8, 9), False) == (3.0, 0.0)
    assert values((7, 8), False) == (2.0, 1.0)
    assert values((2,), True) == (0.0, 1.0)


def test_closeness_by_hand():
    # One pair: "red boat" and "red car". idf, with one added to every count: red is in 2 of 2 texts, the others in 1.
    rare = math.log(3 / 2) + 1
    norm = math.hypot(1, rare)
    pair = Pair("p", "Red boat", "red car!")
    answers = ["A boat.", "red", "Red car", "", "boat BOAT red"]
    by_hand = [
        rare / norm,
        0.0,
        (1 - 1 - rare * rare) / norm**2,
        0.0,
        2 * rare * rare / (norm * math.hypot(2 * rare, 1)),
    ]
    assert _closer_to_matching([pair] * 5, answers) == pytest.approx(by_hand)
    mixed = _closer_to_matching([None, pair], ["boat", "boat"])
    assert mixed == [None, pytest.approx(rare / norm)]
    assert _closer_to_matching([None], ["boat"]) == [None]


def test_greedy_answers_are_those_of_single_prompts(tiny, persona, evaluator):
    one = replace(evaluator, batch_size=1).evaluate(tiny, persona, None, quiet)
    many = evaluator.evaluate(tiny, persona, None, quiet)
    assert one.samples == many.samples
    for sample in many.samples:
        prompt = tiny.tokenizer(chat_prompt(tiny.tokenizer, sample["prompt"]), add_special_tokens=False).input_ids
        (ids,) = greedy_answers(tiny, [tuple(prompt)], max_new_tokens=12, batch_size=1)
        assert sample["answer"] == tiny.tokenizer.decode(ids, skip_special_tokens=True)
        assert sample["values"]["degenerate"] == float(measure(sample["answer"]).degenerate)
        degenerate = [measure(text).degenerate for text in sample["sampled_answers"]]
        assert sample["values"]["sampled_degenerate"] == pytest.approx(sum(degenerate) / 2)


def test_each_prompt_is_sampled_by_itself(tiny, persona, evaluator):
    all_four = evaluator.evaluate(tiny, persona, None, quiet).samples
    first_two = replace(evaluator, limit=2).evaluate(tiny, persona, None, quiet).samples
    assert [s["sampled_answers"] for s in first_two] == [s["sampled_answers"] for s in all_four[:2]]
    other_seed = replace(evaluator, limit=2, seed=6).evaluate(tiny, persona, None, quiet).samples
    assert [s["sampled_answers"] for s in other_seed] != [s["sampled_answers"] for s in first_two]
    assert [s["answer"] for s in other_seed] == [s["answer"] for s in first_two]
    assert all(len(set(s["sampled_answers"])) == 2 for s in all_four)
    none = replace(evaluator, limit=2, samples=0).evaluate(tiny, persona, None, quiet)
    assert not [metric for metric in none.means() if metric.startswith("sampled_")]


def test_a_wrecked_model_is_degenerate_beside_the_dense_one(tiny, persona, evaluator):
    dense = evaluator.evaluate(tiny, persona, None, quiet)
    # As it comes back from the cache.
    stored = EvalResult(json.loads(json.dumps(list(dense.samples))), dense.metrics)
    linears = maskable_linears(tiny.model)
    bits = {n: pack_bits(torch.zeros(m.weight.shape, dtype=torch.bool)) for n, m in linears.items()}
    nothing = Mask(bits, {n: tuple(m.weight.shape) for n, m in linears.items()}, tiny.fingerprint, {})
    with masked(tiny.model, nothing, model_fingerprint=tiny.fingerprint):
        wrecked = evaluator.evaluate(tiny, persona, stored, quiet)
    assert wrecked.means()["degenerate"] == 1.0
    for before, after in zip(dense.samples, wrecked.samples, strict=True):
        assert after["dense_answer"] == before["answer"] != after["answer"]
        assert after["dense_sampled_answers"] == before["sampled_answers"]
        assert "dense_answer" not in before


def test_prompts_of_a_file_have_nothing_to_be_close_to(tiny, persona, evaluator, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "What {now}?"}\n{"prompt": "And then?"}\n')
    own = replace(evaluator, prompts_path=str(path), limit=1)
    assert own.prompts(persona) == {"what now"}
    (sample,) = own.evaluate(tiny, persona, None, quiet).samples
    assert (sample["prompt"], sample["values"]["closer_to_matching"]) == ("What {now}?", None)
    with pytest.raises(FileNotFoundError, match="prompts_path: no file at /nowhere"):
        replace(evaluator, prompts_path="/nowhere").check(persona)
    with pytest.raises(ValueError, match=r"no embedded test prompts: .*prompts_path=FILE"):
        evaluator.check(replace(persona, pairs=None))


def test_a_mix_is_asked_what_its_parts_are(persona, evaluator):
    thinker = replace(persona, name="thinker", opposite="feeler", pairs="feeling_thinking", pole="not_matching")
    mix = Mix(
        name="mix",
        description="",
        opposite=None,
        system_prompt=None,
        source=None,
        weights={"extrovert": 0.5, "thinker": 0.5},
        pooled=False,
        personas=[persona, thinker],
        flip=False,
    )
    asked = [(item.who.name, item.prompt) for item in evaluator._items(mix)]
    parts = [(who.name, item.prompt) for who in (persona, thinker) for item in evaluator._items(who)]
    assert asked == parts
    assert len(asked) == 8


def test_the_identity_changes_with_what_is_asked(persona, evaluator, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "What now?"}\n')
    changes = [{}, {"limit": 3}, {"seed": 6}, {"top_p": 1.0}, {"judge": "j"}, {"prompts_path": str(path)}]
    identities = [json.dumps(replace(evaluator, **change).identity(persona)) for change in changes]
    assert len(set(identities)) == len(changes)
    greedy = replace(evaluator, samples=0)
    assert greedy.identity(persona) == replace(greedy, seed=6).identity(persona)


def test_the_judge_is_a_mean_over_both_orders(tiny, persona):
    extrovert = replace(persona, description="Likes company.")
    items = [_Item(extrovert, "What {now}?", None), _Item(extrovert, "And then?", None)]
    answers = [(item, _Answer(text, (1,), False)) for item, text in zip(items, ("A walk, alone.", "More."))]
    found = _judged(tiny, answers, batch_size=3, on_batch=lambda done: None)
    for (item, answer), figure in zip(answers, found, strict=True):
        own = []
        for first, second in (("extrovert", "introvert"), ("introvert", "extrovert")):
            question = generation._JUDGE_PROMPT.format(
                poles="There are two people, one extrovert and one introvert. About extrovert: Likes company.",
                prompt=item.prompt,
                answer=answer.text,
                first=first,
                second=second,
            )
            ids = tiny.tokenizer(chat_prompt(tiny.tokenizer, question), add_special_tokens=False).input_ids
            a, b = (
                oracles.answer_log_probs(tiny.model, ids, tiny.tokenizer(x, add_special_tokens=False).input_ids)
                for x in "AB"
            )
            letter = {"extrovert": a, "introvert": b} if first == "extrovert" else {"extrovert": b, "introvert": a}
            weights = {who: math.exp(log_probs.sum().item()) for who, log_probs in letter.items()}
            own.append(weights["extrovert"] / sum(weights.values()))
        assert figure == pytest.approx(sum(own) / 2, abs=1e-5)
    # Turned towards the opposite, the same judge gives the rest of the probability; with pairs of one's own, too.
    turned = [(replace(item, who=replace(extrovert, flip=True)), answer) for item, answer in answers]
    assert _judged(tiny, turned, batch_size=4, on_batch=lambda done: None) == pytest.approx([1 - p for p in found])
    own = [(replace(item, who=replace(item.who, pairs=None)), answer) for item, answer in turned]
    assert _judged(tiny, own, batch_size=4, on_batch=lambda done: None) == pytest.approx([1 - p for p in found])


def test_a_judge_comes_from_a_directory(tiny, persona, evaluator, tmp_path):
    tiny.model.save_pretrained(tmp_path / "judge")
    tiny.tokenizer.save_pretrained(tmp_path / "judge")
    judged = replace(evaluator, judge=str(tmp_path / "judge"), limit=2, max_new_tokens=4)
    result = judged.evaluate(tiny, persona, None, quiet)
    items = [(_Item(persona, s["prompt"], None), _Answer(s["answer"], (1,), False)) for s in result.samples]
    # The judge takes the dtype that is fastest on the machine, which needn't be the evaluated model's.
    dtype = pick_dtype("auto", pick_device("auto"))
    own = replace(tiny, model=type(tiny.model).from_pretrained(tmp_path / "judge", dtype=dtype).to(pick_device("auto")))
    expected = _judged(own, items, batch_size=32, on_batch=lambda done: None)
    assert [s["values"]["judge"] for s in result.samples] == pytest.approx(expected, abs=1e-5)
    assert all(0.0 <= s["values"]["sampled_judge"] <= 1.0 for s in result.samples)
    with pytest.raises(OSError, match=r"generation\.judge: no chat model could be loaded from /nowhere: give"):
        replace(evaluator, judge="/nowhere").evaluate(tiny, persona, None, quiet)
