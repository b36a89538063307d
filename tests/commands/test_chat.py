import io
import json
import sys

import pytest
import torch

from persona_prune.chat import __main__ as chat
from persona_prune.chat.commands import Commands
from persona_prune.chat.conversation import Conversation, Decoding, shares_of
from persona_prune.masks.applying import masked
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.models.generation import greedy_answers
from persona_prune.saved.mask_file import save_mask
from tests.masks.test_switching import random_mask

GREEDY = Decoding(temperature=0.0, top_p=1.0, seed=1, max_new_tokens=6)


@pytest.fixture(scope="module")
def masks(tiny):
    return {name: random_mask(tiny.model, tiny.fingerprint, seed) for seed, name in enumerate(("loud", "shy"))}


@pytest.fixture
def switcher(tiny, masks):
    with PersonaSwitcher(tiny, masks) as switcher:
        yield switcher


@pytest.fixture
def conversation(tiny, switcher):
    return Conversation(tiny, switcher, GREEDY)


@pytest.fixture
def commands(conversation):
    return Commands(conversation, io.StringIO())


def said(commands, line: str) -> str:
    terminal = commands._terminal
    start = terminal.tell()
    assert commands.take(line)
    return terminal.getvalue()[start:]


def reference(tiny, messages) -> str:
    """The package's own greedy decoding of a whole conversation."""
    ids = tiny.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    (answer,) = greedy_answers(tiny, [tuple(ids)], max_new_tokens=GREEDY.max_new_tokens, batch_size=1)
    return tiny.tokenizer.decode(answer, skip_special_tokens=True).strip()


def user(text):
    return {"role": "user", "content": text}


def test_every_arm_answers_as_itself_with_its_own_history(tiny, masks, conversation):
    for name in ("dense", "loud", "shy"):
        arm = next(arm for arm in conversation.speaking if arm.label == name)
        answers = [conversation.answer(arm, prompt, str) for prompt in ("What now?", "And then?")]
        if name == "dense":
            expected = [reference(tiny, [user("What now?")])]
            history = [user("What now?"), {"role": "assistant", "content": expected[0]}, user("And then?")]
            expected.append(reference(tiny, history))
        else:
            conversation._switcher.close()
            with masked(tiny.model, masks[name], model_fingerprint=tiny.fingerprint):
                expected = [reference(tiny, [user("What now?")])]
                history = [user("What now?"), {"role": "assistant", "content": expected[0]}, user("And then?")]
                expected.append(reference(tiny, history))
        assert answers == expected


def test_a_model_that_can_think_first_is_spoken_to_as_it_was_measured(conversation, monkeypatch):
    template = (
        "{% for message in messages %}{{ message.content }}{% endfor %}"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}Answer:{% endif %}"
    )
    monkeypatch.setattr(conversation._loaded.tokenizer, "chat_template", template)
    ids = conversation._ids([user("Work?")])
    assert conversation._loaded.tokenizer.decode(ids) == "Work?Answer:"


def test_answers_stand_one_below_the_other_with_labels(commands, conversation):
    text = said(commands, "What now?")
    places = [text.index(f"[{name}]") for name in ("dense", "loud", "shy")]
    assert places == sorted(places)
    answers = [arm.messages[-1]["content"] for arm in conversation.all_arms()]
    assert all(answer in text for answer in answers)


def test_commands_choose_who_speaks(commands, conversation):
    assert said(commands, "/switch shy") == "now only shy\n"
    assert "[shy]" in said(commands, "Work?")
    assert said(commands, "/mix loud=7 shy=3") == "now only 0.7 loud + 0.3 shy\n"
    assert "[0.7 loud + 0.3 shy (gamma 0.5)]" in (said(commands, "/gamma 0.5") + said(commands, "Work?"))
    assert said(commands, "/dense") == "now only dense\n"
    assert said(commands, "/all") == "now dense, loud, shy\n"
    histories = {label: len(arm.messages) for label, arm in conversation._arms.items()}
    assert histories == {"dense": 0, "loud": 0, "shy": 2, "0.7 loud + 0.3 shy": 2}
    assert said(commands, "/reset") == "forgotten\n"
    assert not any(arm.messages for arm in conversation._arms.values())


def test_a_system_message_is_the_first_of_the_template(tiny, conversation, commands):
    said(commands, "/system Be brief.")
    arm = conversation.arm({})
    expected = reference(tiny, [{"role": "system", "content": "Be brief."}, user("Work?")])
    assert conversation.answer(arm, "Work?", str) == expected


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("/swich shy", "/swich: no such command; did you mean switch?"),
        ("/switch shi", "/switch shi: no such persona; did you mean shy?"),
        ("/mix loud", "loud: expected NAME=SHARE with a share above 0, as in /mix a=0.7 b=0.3"),
        ("/mix", "say what to mix, as in /mix a=0.7 b=0.3"),
        ("/mix quiet=1", "no persona 'quiet': there is loud, shy"),
        ("/gamma 1.5", "gamma must be in [0, 1), got 1.5"),
        ("/gamma half", "/gamma half: expected a number in [0, 1)"),
    ],
)
def test_mistakes_are_one_line_and_the_chat_goes_on(commands, line, answer):
    assert said(commands, line) == f"{answer}\n"


def test_interrupting_an_answer_keeps_what_was_said_and_the_chat(commands, conversation, monkeypatch):
    pieces = []

    def write(text):
        pieces.append(text)
        if len(pieces) == 3:  # the label, and two pieces of the answer
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_say", write)
    assert commands.take("What now?")
    assert pieces[-1] == "\n(stopped)\n"
    dense, loud, _ = conversation.all_arms()
    assert dense.messages[-1]["content"] == "".join(pieces[1:3]).strip()
    assert loud.messages == []


def test_a_conversation_that_does_not_fit_is_refused(commands, tiny, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "max_position_embeddings", 20)
    assert "are more than the 20 the model takes: /reset" in said(commands, "What now?")


def test_sampling_has_a_seed(tiny, switcher):
    def answers(seed):
        conversation = Conversation(tiny, switcher, Decoding(1.0, 0.9, seed, 8))
        return conversation.answer(conversation.arm({"shy": 1.0}), "What now?", str)

    assert answers(1) == answers(1) != answers(2)


def test_shares_are_read():
    assert shares_of("a=0.7 b=.3") == {"a": 0.7, "b": 0.3}
    with pytest.raises(ValueError, match="a=0: expected"):
        shares_of("a=0")


@pytest.fixture
def files(masks, tmp_path, tiny):
    for name, mask in masks.items():
        about = {"persona": name, "model": "tiny_random", "method": "by hand"}
        (tmp_path / name).mkdir()
        save_mask(
            type(mask)(mask.bits, mask.shapes, mask.model_fingerprint, about), tmp_path / name / "persona.safetensors"
        )
    return [f"persona_file={tmp_path / 'loud'}", f"persona_file_2={tmp_path / 'shy'}", "max_new_tokens=6"]


def test_one_answer_as_json(files, capsys, tiny):
    assert chat.main([*files, "prompt=What now?", "json=true"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["prompt"]) == ("tiny_random", "What now?")
    assert list(found["answers"]) == ["dense", "loud", "shy"]
    assert found["answers"]["dense"] == reference(tiny, [user("What now?")])


def test_a_session_ends_with_its_input(files, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("/switch loud\nWhat now?\n"))
    assert chat.main(files) == 0
    output = capsys.readouterr().out
    assert "tiny_random: dense, loud, shy." in output
    assert output.index("now only loud") < output.index("[loud]")
    assert "[shy]" not in output


def test_personas_of_one_name_are_told_apart(files, capsys, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "persona.safetensors").write_bytes((tmp_path / "loud" / "persona.safetensors").read_bytes())
    arguments = [files[0], f"persona_file_2={tmp_path / 'again'}", "max_new_tokens=2", "prompt=Work?", "json=true"]
    assert chat.main(arguments) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert list(answers) == ["dense", "loud", "loud@again"]
    assert answers["loud"] == answers["loud@again"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("temprature=1", "temprature: unknown key; did you mean temperature?"),
        ("temperature=-1", "temperature=-1: must be greater than or equal to 0"),
        ("json=true", "json=true is for one answer: give prompt=... too"),
        ("json=maybe", "json=maybe: must be a valid boolean, unable to interpret input"),
    ],
)
def test_a_bad_command_line_is_one_line(files, capsys, argument, message):
    assert chat.main([*files, argument]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_the_model_is_dense_after_the_chat(tiny, masks):
    before = [parameter.detach().clone() for parameter in tiny.model.parameters()]
    with PersonaSwitcher(tiny, masks) as switcher:
        Commands(Conversation(tiny, switcher, GREEDY), io.StringIO()).take("What now?")
    assert all(torch.equal(now, old) for now, old in zip(tiny.model.parameters(), before, strict=True))
