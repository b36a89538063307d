"""Figures of lm-eval's tasks on the tiny model; upstream's own model class and command are the oracle."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from persona_prune.evaluators.choice import Choice
from persona_prune.evaluators.lm_eval_bridge import SharedPromptLM
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.models.loaded import maskable_linears
from tests.evaluators.lm_eval_support import DOCUMENTS, TASK, evaluator, write

pytestmark = pytest.mark.usefixtures("without_stock_tasks")


def quiet(label, total):
    return lambda done: None


def upstream(tiny, directory: Path, *tasks: str, chat: bool, **options):
    """What the lm_eval command does, on the model in memory."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, batch_size=2),
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(directory), include_defaults=False),
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
        **options,
    )


def test_accuracy_is_that_of_choice_and_only_the_newline_moves(tiny, persona):
    result = evaluator(limit=6).evaluate(tiny, persona, None, quiet)
    choice = Choice(path=None, split=None, limit=6, batch_size=4).evaluate(tiny, persona, None, quiet)
    assert [s["id"] for s in result.samples] == [f"persona_extrovert/{i}" for i in range(6)]
    for number, (ours, theirs) in enumerate(zip(result.samples, choice.samples, strict=True)):
        assert ours["values"]["persona_extrovert/acc"] == theirs["values"]["accuracy"]
        matching, other = ours["log_prob"][:: 1 if number % 2 == 0 else -1]
        # The log-probability of the newline that upstream counts to every option.
        newline = matching - theirs["log_prob"][0]
        assert newline < -1
        assert other - theirs["log_prob"][1] == pytest.approx(newline, abs=1e-3)
    assert result.means()["persona_extrovert/acc"] == choice.means()["accuracy"]


def test_whether_an_answer_is_the_greedy_one_is_as_upstream(tiny):
    from lm_eval.models.huggingface import HFLM

    prompt, steps = tiny.tokenizer("The sky is").input_ids, []
    with torch.no_grad():
        for _ in range(3):
            steps.append(int(tiny.model(torch.tensor([prompt + steps])).logits[0, -1].argmax()))
    others = [*steps[:2], steps[2] + 1]
    requests = [(("", ""), prompt, continuation) for continuation in (steps, others, steps[:1])]
    theirs = HFLM(pretrained=tiny.model, tokenizer=tiny.tokenizer, batch_size=2)._loglikelihood_tokens(requests)
    ours = SharedPromptLM(tiny, 2, lambda total: lambda done: None)._loglikelihood_tokens(requests)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs] == [True, False, True]


@pytest.mark.parametrize(("chat", "fewshot"), [(True, 0), (False, 0), (True, 2), (False, 2)])
def test_figures_are_those_of_upstream(tiny, persona, directory, chat, fewshot):
    settings = {"include_path": directory, "apply_chat_template": chat, "num_fewshot": fewshot}
    ours = evaluator("local_choice", **settings).evaluate(tiny, persona, None, quiet)
    theirs = upstream(tiny, directory, "local_choice", chat=chat, num_fewshot=fewshot)
    for metric in ("acc", "acc_norm"):
        assert ours.means()[f"local_choice/{metric}"] == theirs["results"]["local_choice"][f"{metric},none"]
    for mine, row in zip(ours.samples, theirs["samples"]["local_choice"], strict=True):
        assert mine["prompt"] == row["arguments"][0][0]
        assert mine["log_prob"] == pytest.approx([float(r[0]) for r in row["filtered_resps"]], abs=1e-3)
        assert mine["values"]["local_choice/acc"] == row["acc"]
    # Few-shot examples are drawn again, not drawn on, for the next model.
    again = evaluator("local_choice", **settings).evaluate(tiny, persona, ours, quiet)
    assert again == ours


def test_two_masks_two_results(tiny, persona, directory):
    def mask(seed: int) -> Mask:
        generator = torch.Generator().manual_seed(seed)
        linears = maskable_linears(tiny.model)
        bits = {n: pack_bits(torch.rand(m.weight.shape, generator=generator) > 0.3) for n, m in linears.items()}
        return Mask(bits, {n: tuple(m.weight.shape) for n, m in linears.items()}, tiny.fingerprint, {})

    def scores(number: int | None) -> list[float]:
        asked = evaluator("local_choice", include_path=directory)
        if number is None:
            found = asked.evaluate(tiny, persona, None, quiet)
        else:
            with masked(tiny.model, mask(number), model_fingerprint=tiny.fingerprint):
                found = asked.evaluate(tiny, persona, None, quiet)
        return [value for sample in found.samples for value in sample["log_prob"]]

    dense, first, second = scores(None), scores(1), scores(2)
    for one, other in ((dense, first), (first, second), (dense, second)):
        assert all(a != b for a, b in zip(one, other, strict=True))
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1
    assert scores(1) == first
    assert scores(None) == dense


def test_running_text_and_generated_answers(tiny, persona, tmp_path):
    texts = [{"text": "It rained all day in the small town."}, {"text": "Nobody came. " * 12 + "Then the door opened."}]
    shared = {"dataset_path": "json", "test_split": "train", "doc_to_text": "", "doc_to_target": "text"}
    measures = [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}]
    write(
        tmp_path,
        {**shared, "task": "local_text", "output_type": "loglikelihood_rolling", "metric_list": measures},
        {
            **shared,
            "task": "local_words",
            "output_type": "generate_until",
            "doc_to_text": "text",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
        {
            "group": "local_group",
            "task": ["local_words"],
            "aggregate_metric_list": [{"metric": "exact_match", "weight_by_size": True}],
        },
        documents=texts,
    )
    begun: list[tuple[int, list[int]]] = []

    def progress(label, total):
        begun.append((total, []))
        return begun[-1][1].append

    asked = evaluator("local_text", "local_group", include_path=tmp_path, apply_chat_template=False, batch_size=1)
    found = asked.evaluate(tiny, persona, None, progress)
    assert [total for total, _ in begun] == [sum(done) for _, done in begun] == [2, 2]

    log_prob = 0.0
    for row in texts:
        ids = tiny.tokenizer(row["text"], add_special_tokens=False).input_ids
        inputs = torch.tensor([[tiny.tokenizer.bos_token_id, *ids]])
        log_probs = tiny.model(input_ids=inputs).logits[0, :-1].log_softmax(-1)
        log_prob += log_probs.gather(1, torch.tensor(ids)[:, None]).sum().item()
    words = sum(len(row["text"].split()) for row in texts)
    assert found.metrics["local_text/word_perplexity"] == pytest.approx(
        min(math.exp(-log_prob / words), 1e300), rel=1e-3
    )
    # Perplexity has no value by document, and the group's figure none either.
    assert set(found.metrics) == {"local_text/word_perplexity", "local_text/byte_perplexity", "local_group/exact_match"}
    generated = [sample for sample in found.samples if sample["task"] == "local_words"]
    assert [sample["values"] for sample in generated] == [{"local_words/exact_match": 0.0}] * 2
    for row, sample in zip(texts, generated, strict=True):
        ids = tiny.tokenizer(row["text"], return_tensors="pt").input_ids
        answer = tiny.model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        expected = tiny.tokenizer.decode(answer, skip_special_tokens=True).split("\n\n")[0]
        assert sample["answer"] == [expected]


def test_what_a_baseline_says_before_is_said(tiny, persona, tmp_path):
    write(tmp_path, TASK, documents=DOCUMENTS)
    said = replace(tiny, before=lambda asked: [{"role": "system", "content": f"You heard: {asked}"}])
    (tmp_path / "other").mkdir()
    written = [{**document, "ask": f"You heard: {document['ask']}\n\n{document['ask']}"} for document in DOCUMENTS]
    write(tmp_path / "other", {**TASK, "task": "written_out"}, documents=written)
    asked = evaluator("local_choice", "written_out", include_path=tmp_path, apply_chat_template=False)
    plain, prompted = asked.evaluate(tiny, persona, None, quiet), asked.evaluate(said, persona, None, quiet)
    count = len(DOCUMENTS)
    for unsaid, expected, found in zip(plain.samples[:count], plain.samples[count:], prompted.samples, strict=False):
        assert (unsaid["task"], expected["task"], found["task"]) == ("local_choice", "written_out", "local_choice")
        assert found["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-3)
        assert found["log_prob"] != pytest.approx(unsaid["log_prob"], abs=1e-2)
    in_chat = evaluator("local_choice", include_path=tmp_path).evaluate(said, persona, None, quiet)
    assert in_chat.samples[0]["prompt"] == (
        "<|im_start|>system\nYou heard: The sky is<|im_end|>\n<|im_start|>user\nThe sky is<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_beginning_of_an_answer_and_a_description_in_chat(tiny, persona, directory):
    write(directory, {**TASK, "gen_prefix": "Answer:", "description": "Think.\n\n"})
    ours = evaluator("local_choice", include_path=directory).evaluate(tiny, persona, None, quiet)
    theirs = upstream(tiny, directory, "local_choice", chat=True)["samples"]["local_choice"]
    assert ours.samples[0]["prompt"].endswith("<|im_start|>assistant\nAnswer:")
    for mine, row in zip(ours.samples, theirs, strict=True):
        assert mine["prompt"] == row["arguments"][0][0]
        assert mine["log_prob"] == pytest.approx([float(r[0]) for r in row["filtered_resps"]], abs=1e-3)


def test_a_prompt_too_long_for_the_model_loses_its_beginning_as_upstream(tiny, persona, directory, monkeypatch):
    monkeypatch.setattr(tiny.model.config, "max_position_embeddings", 12)
    ours = evaluator("local_choice", include_path=directory).evaluate(tiny, persona, None, quiet)
    theirs = upstream(tiny, directory, "local_choice", chat=True)["samples"]["local_choice"]
    for mine, row in zip(ours.samples, theirs, strict=True):
        assert mine["log_prob"] == pytest.approx([float(r[0]) for r in row["filtered_resps"]], abs=1e-3)
