"""What chat templates do beside the plain case: found out by rendering, before anything is measured."""

import copy
import re
from dataclasses import replace

import pytest
from tokenizers import AddedToken

from persona_prune.models.chat_text import answer_lead, chat_prompt, check_template, end_of_turn, render_chat
from persona_prune.models.decoding import Completion, Query
from persona_prune.models.generation import end_tokens, greedy_answers
from persona_prune.models.sources import HubModel
from tests.evaluators.every_evaluator import ask, every_evaluator

TURN = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
TURNS = "{% for message in messages %}" + TURN + "{% endfor %}"
READY = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"

NO_PROMPT = TURNS
"""Takes no notice of ``add_generation_prompt``."""

THINKS = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}"
"""Opens a thought, whatever ``enable_thinking`` says; past answers have none."""

THINKS_IN_THE_PAST = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n{{ message.content }}<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
MAY_THINK = TURNS + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
CHANNELS = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "<|im_start|>assistant<|channel|>final<|message|>{{ message.content }}<|im_end|>"
    "{% else %}" + TURN + "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
LLAMA_2 = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}</s>{% endif %}{% endfor %}"
)
BARE = "{% for message in messages %}{{ message.content }}{% endfor %}"
THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture
def spoken(tiny, monkeypatch):
    """The tokenizer, to be given other templates."""

    def with_template(template):
        monkeypatch.setattr(tiny.tokenizer, "chat_template", template)
        return tiny.tokenizer

    return with_template


@pytest.mark.parametrize(
    ("template", "prompt", "lead"),
    [
        # LlamaFactory 7454: scored where the model has never seen an answer begin.
        (NO_PROMPT, READY, ""),
        (THINKS, READY + THOUGHT, ""),
        (THINKS.replace("<think>\n", "<think>"), READY + THOUGHT, ""),
        (THINKS_IN_THE_PAST, READY + THOUGHT, ""),
        (MAY_THINK, READY + THOUGHT, ""),
        (CHANNELS, READY[:-1] + "<|channel|>final<|message|>", ""),
        (LLAMA_2, "[INST] Hello [/INST]", " "),
        (BARE, "Hello", ""),
    ],
)
def test_an_answer_begins_where_the_template_has_it(spoken, template, prompt, lead):
    tokenizer = spoken(template)
    check_template(tokenizer)
    assert chat_prompt(tokenizer, "Hello") == prompt
    assert answer_lead(tokenizer) == lead
    system = [{"role": "system", "content": "Be brief."}]
    assert chat_prompt(tokenizer, "Hello", system).endswith(prompt[-20:])


def test_a_history_is_rendered_as_it_is(spoken):
    tokenizer = spoken(THINKS)
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert render_chat(tokenizer, said, answer_next=False) == READY + "Hi<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            THINKS.replace("{# </think> #}", ""),
            "opens <think> before every answer, and nothing says how that is closed",
        ),
        (
            "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}<|im_end|>",
            "takes no notice of add_generation_prompt, and puts '<|assistant|>' before answers",
        ),
        ("{{ raise_exception('system message first') }}", "refuses a plain question"),
    ],
)
def test_what_nothing_can_be_said_of_is_refused_on_loading(tiny, tmp_path, template, message):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    spec = HubModel(
        name="own",
        path=str(tmp_path),
        revision=None,
        dtype="float32",
        device="cpu",
        device_map=None,
        chat_template=template,
    )
    with pytest.raises(ValueError, match=rf"^model own: .*{re.escape(message)}.*set model\.chat_template"):
        spec.load()


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (TURNS, "<|im_end|>"),
        (LLAMA_2, None),
        (LLAMA_2.replace("</s>", " <|endoftext|>"), "<|endoftext|>"),
        # Nothing ends an answer here but the next turn.
        ("{% for message in messages %}<|im_start|>{{ message.content }}\n{% endfor %}", "<|im_start|>"),
        (BARE, None),
    ],
)
def test_the_end_of_a_turn_is_read_from_the_template(spoken, template, end):
    tokenizer = spoken(template)
    assert end_of_turn(tokenizer) == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.fixture
def base_end(tiny, tmp_path):
    """A checkpoint whose generation configuration, and tokenizer, know the base model's end of text only."""
    model, tokenizer = copy.deepcopy(tiny.model), copy.deepcopy(tiny.tokenizer)
    model.generation_config.eos_token_id = 0
    tokenizer.eos_token = "<|endoftext|>"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return HubModel(
        name="own",
        path=str(tmp_path),
        revision=None,
        dtype="float32",
        device="cpu",
        device_map=None,
        chat_template=None,
    ).load()


def test_an_answer_ends_where_the_turn_ends(base_end):
    # llama.cpp 12107: a chat model that ends its turns by a token its configuration does not name talks on as the user.
    end = base_end.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_tokens(base_end) == {0, end}
    prompt = (5, 6, 7)
    said = base_end.model.generation_config.eos_token_id
    assert said == 0
    head = base_end.model.get_output_embeddings()
    calls = []

    def say(_, __, logits):
        calls.append(logits.shape)
        logits[..., 300 if len(calls) < 3 else end] = 1e4

    handle = head.register_forward_hook(say)
    try:
        assert greedy_answers(base_end, [prompt], max_new_tokens=9, batch_size=1) == [(300, 300)]
    finally:
        handle.remove()
    assert len(calls) == 3  # nothing was generated after the end
    completion = Completion(Query(prompt, 9, 0.0, 1.0, 0, ()), base_end)
    completion.take(300)
    completion.take(end)
    assert completion.finish_reason == "stop"


def without_end(tokenizer):
    tokenizer.eos_token = tokenizer.pad_token = None
    return tokenizer


def test_neither_pad_nor_end_token(tiny, tmp_path):
    model, tokenizer = copy.deepcopy(tiny.model), without_end(copy.deepcopy(tiny.tokenizer))
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.generation_config.pad_token_id = model.config.pad_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = {"name": "own", "path": str(tmp_path), "revision": None, "dtype": "float32", "device": "cpu"}
    loaded = HubModel(**settings, device_map=None, chat_template=BARE).load()
    prompts = [(5, 6, 7, 8), (9, 10)]
    together = greedy_answers(loaded, prompts, max_new_tokens=4, batch_size=2)
    assert together == [greedy_answers(loaded, [p], max_new_tokens=4, batch_size=1)[0] for p in prompts]
    assert [len(answer) for answer in together] == [4, 4]
    choice = every_evaluator(tmp_path, batch_size=4)["choice"]
    assert ask(choice, loaded).means()["margin"] == pytest.approx(
        ask(replace(choice, batch_size=1), loaded).means()["margin"]
    )
    assert loaded.tokenizer.decode([0, 5], skip_special_tokens=False) == tokenizer.decode([0, 5])


def test_an_added_token_that_is_not_special_ends_turns(spoken):
    tokenizer = copy.deepcopy(spoken(TURNS.replace("<|im_end|>", "<over>")))
    tokenizer.add_tokens([AddedToken("<over>", special=False)])
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<over>")
