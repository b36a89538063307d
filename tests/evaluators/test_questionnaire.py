"""The questionnaire evaluator: the files it reads, and what it asks the tiny model."""

import json

import numpy as np
import pytest
from FFM import core as ffm

from persona_prune.evaluators.questionnaire import ask
from persona_prune.evaluators.questionnaires.inventory import Item, read_inventory
from persona_prune.evaluators.questionnaires.scoring import whole_metrics
from persona_prune.models.chat_text import chat_prompt, encode_answer
from persona_prune.models.generation import greedy_answers
from persona_prune.personas.pairs import normalise
from tests.evaluators.questionnaire_support import AGREE, certain, evaluator
from tests.reference import oracles


def quiet(label, total):
    return lambda done: None


# Files


def test_csv_and_json_hold_the_same(tmp_path):
    rows = [("I sing.", "Loud ness", "+1", ""), ("I hush.", "Loud ness", "-1", "")]
    table = tmp_path / "mine.csv"
    table.write_text("item,scale,key,options\n" + "".join(",".join(row) + "\n" for row in rows))
    plain = tmp_path / "mine.json"
    plain.write_text(json.dumps([{"item": i, "scale": s, "key": int(k)} for i, s, k, _ in rows]))
    found = read_inventory(table, AGREE)
    assert found == read_inventory(plain, AGREE)
    assert [(item.scale, item.key, item.options) for item in found.items] == [
        ("Loud_ness", 1, AGREE),
        ("Loud_ness", -1, AGREE),
    ]


def test_own_options_and_poles(tmp_path):
    path = tmp_path / "mine.json"
    items = [
        {"item": "a", "scale": "x", "key": 1, "options": ["never", "always"]},
        {"item": "b", "scale": "x", "key": -1},
    ]
    path.write_text(json.dumps({"options": ["No", "Yes"], "poles": {"x": ["up", "down"]}, "items": items}))
    found = read_inventory(path, AGREE)
    assert [item.options for item in found.items] == [("never", "always"), ("No", "Yes")]
    assert whole_metrics(found, certain(found, [2, 1]))["pole_up"] == 100
    table = tmp_path / "mine.csv"
    table.write_text("item,scale,key,options\na,x,1,no way|hm|sure\n")
    assert read_inventory(table, AGREE).items[0].options == ("no way", "hm", "sure")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "item,scale,key\nI sing.,x,2\n", "line 2: key must be 1 or -1, got '2'"),
        ("a.csv", "question,scale,key\nI sing.,x,1\n", "line 2: no 'item'"),
        ("a.csv", "item,scale,key\n", "no items"),
        ("a.json", "[{]", "line 1: invalid JSON"),
        ("a.json", '{"rows": []}', "expected a list of items"),
        (
            "a.json",
            '[{"item": "a", "scale": "x", "key": 1, "options": ["one"]}]',
            "item 1: options must be two or more",
        ),
        ("a.json", '[{"item": "a", "scale": "x", "key": true}]', "item 1: key must be 1 or -1, got True"),
        (
            "a.json",
            '[{"item": "a", "scale": "x", "key": 1}, {"item": "b", "scale": "x", "key": 1, "options": ["n", "y"]}]',
            "item 2: 2 options where the first item has 5",
        ),
        ("a.json", '{"poles": {"y": ["a", "b"]}, "items": [{"item": "a", "scale": "x", "key": 1}]}', "no item has"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        read_inventory(path, AGREE)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_file_and_a_bad_template_are_refused(tmp_path, persona):
    with pytest.raises(FileNotFoundError, match="no questionnaire"):
        evaluator(path=str(tmp_path / "none.csv")).check(persona)
    with pytest.raises(ValueError, match=r"needs \{item\} and \{options\} once each"):
        evaluator(templates=["{item}?"])


def test_limit_takes_the_first_items_of_every_scale():
    found = evaluator(limit=2)._inventory()
    assert [item.text for item in found.items] == ffm.Qs[:10]


# The model


def test_one_item_a_prompt_in_both_orders():
    item = Item("I sing {options}.", "x", 1, ("no", "yes"))
    assert ask("{item}\n{options}", item, 1) == "I sing {options}.\n- no\n- yes"
    assert ask("{item}\n{options}", item, -1) == "I sing {options}.\n- yes\n- no"
    inventory = evaluator()._inventory()
    prompts = evaluator()._prompts(inventory)
    assert len(prompts) == len(set(prompts)) == 3 * 2 * 120
    assert all(sum(text in prompt for text in ffm.Qs) == 1 for prompt in prompts)


def test_probabilities_are_the_softmax_of_summed_log_probabilities(tiny, persona):
    result = evaluator(limit=1, generate=False).evaluate(tiny, persona, None, quiet)
    inventory, templates = evaluator(limit=1)._inventory(), evaluator().templates
    for sample, item in zip(result.samples[:2], inventory.items[:2], strict=True):
        for t, order in ((0, 0), (1, 1), (2, 1)):
            context = chat_prompt(tiny.tokenizer, ask(templates[t], item, (1, -1)[order]))
            encoded = [encode_answer(tiny.tokenizer, context, option) for option in item.options]
            totals = np.array([oracles.answer_log_probs(tiny.model, *ids).sum().item() for ids in encoded])
            expected = np.exp(totals - totals.max()) / np.exp(totals - totals.max()).sum()
            assert sample["probabilities"][t][order] == pytest.approx(expected.tolist(), abs=1e-4)


def test_batch_size_does_not_matter(tiny, persona):
    one, many = (
        evaluator(name="sixteen_types", limit=2, batch_size=size).evaluate(tiny, persona, None, quiet)
        for size in (1, 32)
    )
    assert one.means() == pytest.approx(many.means(), abs=1e-3)
    assert one.metrics == pytest.approx(many.metrics, abs=1e-3)
    assert [s["answers"] for s in one.samples] == [s["answers"] for s in many.samples]


def test_answers_in_words_are_greedy_and_stand_beside_their_items(tiny, persona):
    asked = evaluator(limit=1, generate_templates=2)
    result = asked.evaluate(tiny, persona, None, quiet)
    inventory = asked._inventory()
    item, sample = inventory.items[3], result.samples[3]
    prompts = [ask(t, item, order) for t in asked.templates[:2] for order in (1, -1)]
    longest = max(len(tiny.tokenizer(o, add_special_tokens=False).input_ids) for o in item.options)
    encoded = [
        tuple(tiny.tokenizer(chat_prompt(tiny.tokenizer, p), add_special_tokens=False).input_ids) for p in prompts
    ]
    alone = [greedy_answers(tiny, [ids], max_new_tokens=max(8, longest), batch_size=1)[0] for ids in encoded]
    assert sample["answers"] == [tiny.tokenizer.decode(ids, skip_special_tokens=True) for ids in alone]


def test_which_metrics_there_are(tiny, persona):
    part = evaluator(limit=1, generate=False).evaluate(tiny, persona, None, quiet)
    assert {s["id"] for s in part.samples} == set(range(5))
    assert len({tuple(s["values"]) for s in part.samples}) == 1
    # Norms are for the whole test only.
    assert not any(name.startswith(("t_", "percentile_")) for name in part.metrics)
    assert all(np.isfinite(value) for value in part.metrics.values())


def test_prompts_for_the_leakage_check_include_the_bare_statements(persona):
    found = evaluator().prompts(persona)
    assert normalise("I make friends easily.") in found
    assert len(found) == 3 * 2 * 120 + 120


def test_identity_changes_with_whatever_changes_the_result(persona):
    base = evaluator()
    different = [
        evaluator(name="sixteen_types"),
        evaluator(limit=3),
        evaluator(templates=base.templates[:2]),
        evaluator(norm_age=50),
        evaluator(generate=False),
        evaluator(generate_templates=2),
    ]
    identities = [json.dumps(e.identity(persona)) for e in (base, *different)]
    assert len(set(identities)) == len(identities)
