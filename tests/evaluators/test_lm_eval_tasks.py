"""Which tasks of lm-eval there are, what they ask, and how a bad one is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from persona_prune.evaluators.lm_eval_tasks import _leaves
from persona_prune.personas.pair_files import EMBEDDED
from persona_prune.personas.persona import Mix
from persona_prune.tasks import DIRECTORY, persona_files
from tests.evaluators.lm_eval_support import DOCUMENTS, TASK, evaluator, write

pytestmark = pytest.mark.usefixtures("without_stock_tasks")
PERSONAS = Path(__file__).parent.parent.parent / "conf" / "persona"


def documents(name: str, persona, **metadata):
    return list(evaluator(name, metadata=metadata or None)._load(persona).tasks["tasks"][name].eval_docs)


def test_every_persona_has_its_task_files():
    expected = persona_files(PERSONAS, EMBEDDED)
    shipped = {path.name: path.read_text() for pattern in expected for path in DIRECTORY.glob(pattern)}
    assert shipped == expected, "python -m persona_prune.tasks --write"
    names = {path.stem for path in PERSONAS.glob("*.yaml") if yaml.safe_load(path.read_text()).get("pairs")}
    shipped_for = {path.stem.removeprefix("persona_") for path in DIRECTORY.glob("persona_*.yaml")}
    assert {"extrovert", "introvert"} <= shipped_for == names


def test_the_rule_by_hand(tmp_path):
    (tmp_path / "bold.yaml").write_text("name: bold\npairs: bold_shy\npole: not_matching\n")
    (tmp_path / "mixed.yaml").write_text("name: mixed\nweights: {bold: 1}\n")
    (tmp_path / "bold_shy").mkdir()
    files = persona_files(tmp_path, tmp_path)
    assert yaml.safe_load(files.pop("persona_bold.yaml")) == {
        "include": "_pairs_yaml",
        "task": "persona_bold",
        "dataset_kwargs": {"pairs": "bold_shy", "pole": "not_matching"},
    }
    assert not files
    (tmp_path / "bold_shy" / "role_questions.jsonl").touch()
    role = yaml.safe_load(persona_files(tmp_path, tmp_path)["role_bold.yaml"])
    assert (role["task"], role["dataset_kwargs"]) == ("role_bold", {"pairs": "bold_shy", "persona": "bold"})


def test_the_key_alternates_and_opposites_mirror_each_other(persona):
    ours, theirs = documents("persona_extrovert", persona), documents("persona_introvert", persona)
    pairs = [json.loads(line) for line in (EMBEDDED / "extrovert_introvert" / "test.jsonl").open()]
    assert len(ours) == len(theirs) == len(pairs)
    for number, (pair, our, their) in enumerate(zip(pairs, ours, theirs)):
        assert our["prompt"] == their["prompt"] == pair["prompt"]
        assert our["gold"] == their["gold"] == number % 2
        assert our["options"][our["gold"]] == pair["matching"]
        assert their["options"][their["gold"]] == pair["not_matching"]
        assert set(our["options"]) == set(their["options"])


def test_files_in_public_formats(tmp_path, persona):
    pairs, statements, roles = (tmp_path / f"{name}.jsonl" for name in ("pairs", "statements", "roles"))
    row = {"prompt": "Lead us?", "matching": "Gladly.", "not_matching": "No."}
    pairs.write_text("".join(json.dumps(row | {"prompt": f"{i}?"}) + "\n" for i in range(2)))
    key = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    statements.write_text("".join(json.dumps({"question": f"{i}?", **key}) + "\n" for i in range(2)))
    options = ["a", "b", "c", "d"]
    asked = [{"role": role, "prompt": f"{i}?", "options": options, "answer": 3} for i in range(5) for role in "XY"]
    roles.write_text("".join(json.dumps(row) + "\n" for row in asked))

    assert documents("ai_persona", persona, ai_persona=str(pairs)) == [
        {"prompt": "0?", "options": ["Gladly.", "No."], "gold": 0},
        {"prompt": "1?", "options": ["No.", "Gladly."], "gold": 1},
    ]
    found = documents("model_written_evals", persona, model_written_evals=str(statements))
    assert [(d["options"], d["gold"]) for d in found] == [(["Yes", "No"], 0), (["No", "Yes"], 1)]
    found = documents("role_questions", persona, role_questions=str(roles), role="X")
    assert [(d["prompt"], d["gold"], d["options"][d["gold"]]) for d in found] == [
        (f"{i}?", i % 4, "d") for i in range(5)
    ]
    for document in documents("role_sherlock_holmes", persona):
        assert sorted(document) == ["gold", "options", "prompt"]


def test_own_tasks_of_a_persona(persona):
    introvert = replace(persona, name="introvert", opposite="extrovert", pole="not_matching")
    mix = Mix(
        name="m",
        description="",
        opposite=None,
        system_prompt=None,
        source=None,
        weights={"extrovert": 0.7, "introvert": 0.3},
        personas=[persona, introvert],
        pooled=False,
        flip=False,
    )
    for who, expected in (
        (persona, ["persona_extrovert"]),
        (replace(persona, flip=True), ["persona_introvert"]),
        (mix, ["persona_extrovert", "persona_introvert"]),
    ):
        assert list(evaluator()._load(who).tasks["tasks"]) == expected
    with pytest.raises(
        ValueError, match=r"persona pirate has no task of its own: name some with evaluator\.lm_eval\.t"
    ):
        evaluator().check(replace(persona, name="pirate"))


def test_questions_are_known_to_the_leakage_check(persona, directory):
    asked = evaluator("local_choice", include_path=directory, limit=2)
    assert asked.prompts(persona) == {"the sky is", "bread is made from"}


def test_identity_changes_with_what_is_asked(persona, directory):
    def identity(**settings):
        return json.dumps(evaluator("local_choice", include_path=directory, **settings).identity(persona))

    first = identity()
    assert identity() == first
    others = {identity(limit=2), identity(num_fewshot=1), identity(apply_chat_template=False), identity(batch_size=1)}
    write(directory, {**TASK, "metric_list": TASK["metric_list"][:1]})
    others.add(identity())
    write(directory, TASK, documents=[{**document, "right": 1} for document in DOCUMENTS])
    others.add(identity())
    assert len(others | {first}) == 7


def test_bad_input_is_told_in_one_line(persona, directory, tmp_path, monkeypatch):
    import datasets

    def problem(*tasks: str, **settings) -> str:
        with pytest.raises((ValueError, OSError)) as raised:
            evaluator(*tasks, **settings).check(persona)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "no task persona_extravert; did you mean persona_extrovert" in problem("persona_extravert")
    assert "no task local_chioce; did you mean local_choice?" in problem("local_chioce", include_path=directory)
    assert "include_path: no directory at" in problem("persona_extrovert", include_path=tmp_path / "absent")
    assert 'task ai_persona: needs a file: lm_eval --metadata \'{"ai_persona": "FILE"}\'' in problem("ai_persona")
    told = problem("ai_persona", metadata={"ai_persona": str(tmp_path / "absent.jsonl")})
    assert "absent.jsonl" in told
    with pytest.raises(ValueError, match="takes the matching answers of its file for the persona's"):
        evaluator("ai_persona").check(replace(persona, flip=True))
    write(directory, {**TASK, "task": "unsafe", "unsafe_code": True})
    assert "task unsafe runs code" in problem("unsafe", include_path=directory)

    def unreachable(path, **_):
        raise ConnectionError(f"Couldn't reach '{path}' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    write(directory, {**TASK, "dataset_path": "someone/something"}, {"group": "g", "task": ["local_choice"]})
    for task in ("local_choice", "g"):
        told = problem(task, include_path=directory)
        assert told.startswith(f"task {task} (dataset someone/something): its data is not on this machine and the hub")


def test_what_a_group_needs_is_found(directory):
    from lm_eval.tasks import TaskManager

    write(directory, TASK, {"group": "g", "task": ["local_choice", {"group": "inner", "task": ["stock_task"]}]})
    write(directory, {**TASK, "task": "tagged", "tag": "t"})
    index = TaskManager(include_path=str(directory), include_defaults=False).task_index
    assert _leaves(index, "g") == ({"stock_task"}, {"json"})
    assert _leaves(index, "t") == (set(), {"json"})
    assert _leaves(index, "absent") == ({"absent"}, set())
