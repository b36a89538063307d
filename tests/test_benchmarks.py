"""The references give what the product gives, and the tool's arithmetic is right."""

import json
from itertools import count

import pytest
import torch

from benchmarks import __main__ as tool
from benchmarks import mask, reference, setting, shapes
from benchmarks.choice import questions
from benchmarks.measure import Arm, Ratio, interleaved, ratio
from benchmarks.rows import BEGIN, END, Row, put_between_markers
from persona_prune.methods.base import build_masks
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import pair_rows

CPU = torch.device("cpu")


@pytest.fixture
def bench(tiny):
    return setting.Setting("tiny_random", "float32", tiny, True, False, 2, print)


@pytest.fixture
def signatures(bench, pairs):
    return bench.signature(bench.rows(pairs))


def test_the_plain_signature_is_the_products(bench, pairs, signatures):
    rows = bench.rows(pairs)
    for branch, found in enumerate(signatures):
        plain = reference.signature(bench.loaded.model, bench.linears, rows, branch)
        for name in bench.linears:
            for field in ("mean", "mean_abs", "mean_square", "sequence_mean", "sequence_variance"):
                expected = getattr(plain[name], field)
                torch.testing.assert_close(getattr(found[name], field), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("label", mask.METHODS)
def test_the_plain_masks_are_the_products_bit_for_bit(bench, signatures, label):
    method = mask.method_of(label)
    built = build_masks(bench.linears, method, *signatures, {})
    plain = mask.both_poles(label, bench.linears, *signatures, method.sparsity)
    for product, expected in zip(built, plain, strict=True):
        for name in bench.linears:
            assert torch.equal(product.keep(name), expected[name]), name


def test_bool_files_make_the_same_weights(tiny, signatures, tmp_path):
    linears = maskable_linears(tiny.model)
    built, _ = build_masks(linears, mask.method_of("wanda"), *signatures, {})
    keeps = {name: built.keep(name) for name in linears}
    size = reference.save_bool_files(tmp_path, keeps)
    assert size > sum(keep.numel() for keep in keeps.values())
    weights = {name: module.weight.detach().clone() for name, module in linears.items()}
    reference.apply_bool_files(tmp_path, weights)
    for name, module in linears.items():
        assert torch.equal(weights[name], module.weight * keeps[name])


def test_one_option_at_a_time_gives_the_products_log_probabilities(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    scored = score(tiny, rows, 4)
    for row, answers in zip(rows, scored, strict=True):
        totals = [answer.log_probs.double().sum().item() for answer in answers]
        assert reference.choice(tiny.model, row) == pytest.approx(totals, rel=1e-4)


def test_there_are_200_different_questions():
    assert len({pair.prompt for pair in questions(200)}) == 200


def test_rounds_are_interleaved_and_every_one_begins_with_another_arm():
    order: list[str] = []
    ticks = count()
    arms = {name: Arm(lambda number, name=name: order.append(f"{name}{number}")) for name in "abc"}
    seconds = interleaved(arms, 4, CPU, lambda: float(next(ticks)))
    assert order == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2", "a3", "b3", "c3"]
    assert seconds == {name: [1.0] * 4 for name in "abc"}


def test_ratios_by_hand():
    # 6/2, 8/4 and 10/1; the last with a reference that did half of the work.
    assert ratio([6, 8, 10], [2, 4, 1]) == Ratio(3, 2, 10)
    assert ratio([6, 8, 10], [2, 4, 1], [1, 1, 2]) == Ratio(3, 2, 20)


@pytest.mark.parametrize(
    ("at_least", "at_most", "met"), [(3.0, None, True), (3.1, None, False), (None, 2.9, False), (None, None, None)]
)
def test_targets_are_of_the_median(at_least, at_most, met):
    row = Row("l", "what", "against", Ratio(3, 2, 10), at_least, at_most)
    assert row.met is met


def test_the_table_is_replaced_between_its_markers(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_between_markers(page, "| new |")
    put_between_markers(page, "| newer |")
    assert page.read_text() == f"before\n{BEGIN}\n\n| newer |\n\n{END}\nafter\n"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="no table to replace"):
        put_between_markers(page, "| new |")


def test_random_weights_of_a_shape_are_the_same_each_time(cache):
    first, second = (shapes.SHAPES["tiny_shape"].load() for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert {module.weight.shape[1] for module in maskable_linears(first.model).values()} == {64, 160}


def test_the_tool_measures_masks_and_leaves_the_cache_as_it_was(cache, tmp_path, capsys):
    before = sorted(cache.rglob("*"))
    assert tool.main(["--quick", "--rounds", "1", "--only", "mask", "--output", str(tmp_path)]) == 0
    assert sorted(cache.rglob("*")) == before
    rows = json.loads((tmp_path / "results.json").read_text())["models"]["tiny_random"]
    assert len(rows) == 2 * len(mask.METHODS)
    for row in rows:
        seconds, value = row["detail"]["seconds"], row["value"]["median"]
        (scale,) = row["detail"]["reference_scales"]
        expected = scale * seconds["reference"][0] / seconds["product"][0]
        if row["at_most"] is not None:
            expected = seconds["build"][0] / seconds["floor"][0]
        assert value == pytest.approx(expected)
    assert "loop over rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--only", "masks"], "no benchmark 'masks'"), (["--rounds", "0"], "no whole number")]
)
def test_bad_input_is_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        tool.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
