import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persona_prune.analyse.hidden import hidden_states, similarity
from persona_prune.analyse.overlap import Overlap, by_part, overlaps, parts, total
from persona_prune.analyse.plots import grid, plot_overlap
from persona_prune.analyse.restore import restore_sweep
from persona_prune.evaluators.results import EvalResult
from persona_prune.masks.applying import masked
from persona_prune.masks.mask import Mask, difference, jaccard, pack_bits
from persona_prune.models.layers import OUTSIDE, place
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import pair_rows
from tests.conftest import tiny_model

Q, UP = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"


def mask_of(keep: dict[str, list[list[int]]], fingerprint: str = "f") -> Mask:
    tensors = {name: torch.tensor(rows, dtype=torch.bool) for name, rows in keep.items()}
    return Mask(
        {name: pack_bits(tensor) for name, tensor in tensors.items()},
        {name: (tensor.shape[0], tensor.shape[1]) for name, tensor in tensors.items()},
        fingerprint,
        {},
    )


FIRST = mask_of({Q: [[1, 1, 0], [1, 0, 0]], UP: [[1, 1, 1, 0]]})
SECOND = mask_of({Q: [[1, 0, 0], [1, 1, 1]], UP: [[1, 1, 0, 1]]})


def test_counts_by_hand():
    # Attention: 3 and 4 of 6 are kept, 2 by both, by chance 3 * 4 / 6. MLP: 3 and 3 of 4, 2 by both, by chance 9 / 4.
    found = overlaps(FIRST, SECOND)
    assert found == {Q: Overlap(6, 3, 4, 2, 2.0), UP: Overlap(4, 3, 3, 2, 2.25)}
    assert total(found.values()) == Overlap(10, 6, 7, 4, 4.25)


def test_figures_by_hand():
    # 5 of 10 differ. Kept: 4 by both, 9 by either. Dropped: 4 and 3, 1 by both, 6 by either.
    # By chance 4.25 are kept by both, so 8.75 by either, 1.25 dropped by both and 5.75 by either.
    assert total(overlaps(FIRST, SECOND).values()).figures() == {
        "entries": 10,
        "differing": pytest.approx(0.5),
        "differing_by_chance": pytest.approx(0.45),
        "jaccard_kept": pytest.approx(4 / 9),
        "jaccard_kept_by_chance": pytest.approx(4.25 / 8.75),
        "jaccard_dropped": pytest.approx(1 / 6),
        "jaccard_dropped_by_chance": pytest.approx(1.25 / 5.75),
    }


def test_masks_that_drop_nothing_overlap_entirely():
    figures = Overlap(6, 6, 6, 6, 6.0).figures()
    assert figures["jaccard_dropped"] == figures["jaccard_dropped_by_chance"] == figures["jaccard_kept"] == 1.0


@given(seed=st.integers(0, 1000), density=st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=30, deadline=None)
def test_figures_agree_with_those_of_the_masks_module(seed, density):
    generator = np.random.default_rng(seed)
    first, second = (
        mask_of({Q: (generator.random((3, 13)) < density).tolist(), UP: (generator.random((5, 8)) < density).tolist()})
        for _ in range(2)
    )
    found = overlaps(first, second)
    assert {name: o.figures()["differing"] for name, o in found.items()} == pytest.approx(difference(first, second))
    assert total(found.values()).figures()["jaccard_dropped"] == pytest.approx(jaccard(first, second))


def test_the_chance_level_is_what_random_masks_give():
    # Very different sparsities in the two Linears: pooling their counts would give another level.
    generator = np.random.default_rng(0)
    kept = {Q: (120, (30, 60)), UP: (200, (180, 150))}
    drawn: dict[str, list[float]] = {}
    for _ in range(1500):
        masks = []
        for side in (0, 1):
            rows = {name: np.arange(size) < counts[side] for name, (size, counts) in kept.items()}
            masks.append(mask_of({name: [generator.permutation(row).tolist()] for name, row in rows.items()}))
        overlap = total(overlaps(*masks).values())
        for name, value in {**overlap.figures(), "both": overlap.both}.items():
            drawn.setdefault(name, []).append(value)
    for name, expected in (
        ("both", overlap.both_by_chance),
        *((name, overlap.figures()[f"{name}_by_chance"]) for name in ("differing", "jaccard_kept", "jaccard_dropped")),
    ):
        values = np.array(drawn[name])
        error = values.std() / np.sqrt(len(values))
        # The Jaccard overlaps are ratios: their mean is off by about one in the number of entries.
        bias = expected / overlap.entries if name.startswith("jaccard") else 0.0
        assert abs(values.mean() - expected) < 4 * error + bias, name
    pooled = (30 + 180) * (60 + 150) / 320
    assert abs(np.mean(drawn["both"]) - pooled) > 10


def test_masks_of_different_models_are_refused():
    with pytest.raises(ValueError, match="different models"):
        overlaps(FIRST, dataclasses.replace(SECOND, model_fingerprint="g"))
    with pytest.raises(ValueError, match="different models"):
        overlaps(FIRST, mask_of({Q: [[1, 0, 0], [1, 1, 1]], UP: [[1, 1, 0]]}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (Q, (0, "q_proj", "attention")),
        (UP, (1, "up_proj", "MLP")),
        ("gpt_neox.layers.11.attention.query_key_value", (11, "query_key_value", "attention")),
        ("model.layers.3.mlp.experts.7.w1", (3, "w1", "MLP")),
        ("model.layers.3.feed_forward.w2", (3, "w2", "MLP")),
        ("model.project_in", (None, "project_in", "other")),
    ],
)
def test_places(name, expected):
    assert dataclasses.astuple(place(name)) == expected


def test_parts_cover_every_linear_once():
    names = [Q, UP, Q.replace("0", "1"), "model.project_in"]
    assert parts(names, "layer") == {"0": [Q], "1": [UP, names[2]], OUTSIDE: [names[3]]}
    assert parts(names, "module") == {"q_proj": [Q, names[2]], "up_proj": [UP], "project_in": [names[3]]}
    assert parts(names, "linear") == {name: [name] for name in names}
    assert parts(names, "block") == {"attention": [Q, names[2]], "MLP": [UP], "other": [names[3]]}


def test_parts_sum_their_linears():
    found = overlaps(FIRST, SECOND) | {Q.replace("0", "7"): Overlap(6, 1, 2, 1, 1 / 3)}
    assert by_part(found, "module") == {"q_proj": Overlap(12, 4, 6, 3, 2 + 1 / 3), "up_proj": found[UP]}


def test_the_grid_has_modules_down_and_layers_across():
    values = {UP: 3.0, "layers.0.mlp.experts.0.w": 1.0, "layers.0.mlp.experts.1.w": 2.0, "model.project_in": 9.0}
    laid_out, modules, layers = grid(values)
    assert (modules, layers) == (["up_proj", "w"], [0, 1])
    np.testing.assert_array_equal(laid_out, [[np.nan, 3.0], [1.5, np.nan]])


def test_a_heatmap_shows_the_linear_that_differs(tmp_path):
    from matplotlib import colormaps
    from matplotlib.image import imread

    same, other = Overlap(4, 2, 2, 2, 1.0), Overlap(4, 2, 2, 1, 1.0)
    plot_overlap(tmp_path / "o.png", "A-B", {Q: same, Q.replace("0", "1"): other})
    pixels = imread(tmp_path / "o.png")[..., :3]
    cells = pixels[pixels.shape[0] // 2]
    for level in (0.0, 1.0):
        # A whole cell of it, not a line of the colour bar.
        assert (np.abs(cells - colormaps["viridis"](level)[:3]).max(1) < 0.01).sum() > 100


def test_similarity_by_hand():
    # [layers 2, tokens 2, hidden 2], then a prompt of one token: each prompt counts once, however long it is.
    first = [torch.tensor([[[1.0, 0], [1, 0]], [[1, 0], [3, 4]]]), torch.tensor([[[2.0, 0]], [[1, 0]]])]
    second = [torch.tensor([[[5.0, 0], [0, 1]], [[-1, 0], [4, 3]]]), torch.tensor([[[1.0, 0]], [[0, 1]]])]
    found = similarity(first, second)
    assert found.mean == pytest.approx([(0.5 + 1) / 2, (-0.02 + 0) / 2])
    assert found.last == pytest.approx([(0 + 1) / 2, (0.96 + 0) / 2])


def test_a_wrecked_model_has_no_similarity():
    with pytest.raises(ValueError, match="not finite"):
        similarity([torch.tensor([[[float("nan"), 1.0]]])], [torch.ones(1, 1, 2)])


def test_hidden_states_are_the_layers_outputs(tiny):
    seen = []
    handles = [
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in tiny.model.model.layers
    ]
    try:
        (states,) = hidden_states(tiny, ["What now?"])
    finally:
        [handle.remove() for handle in handles]
    hooked = torch.stack([out.reshape(states.shape[1:]) for out in seen])
    torch.testing.assert_close(states[0], hooked[0])
    torch.testing.assert_close(states[1], tiny.model.model.norm(hooked[1]))
    prompt = tiny.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What now?"}], add_generation_prompt=True, return_dict=True
    )
    assert states.shape == (2, len(prompt["input_ids"]), 64)


def random_mask(loaded, seed: int = 0) -> Mask:
    generator = np.random.default_rng(seed)
    shapes = {name: tuple(m.weight.shape) for name, m in maskable_linears(loaded.model).items()}
    keep = {name: torch.from_numpy(generator.random(shape) < 0.7) for name, shape in shapes.items()}
    return Mask({name: pack_bits(k) for name, k in keep.items()}, shapes, loaded.fingerprint, {})


def lifted(mask: Mask, names: list[str]) -> Mask:
    ones = {name: pack_bits(torch.ones(mask.shapes[name], dtype=torch.bool)) for name in names}
    return dataclasses.replace(mask, bits={**mask.bits, **ones})


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_restoring_a_part_is_masking_the_rest(gamma, pairs):
    tiny = tiny_model()
    before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    mask = random_mask(tiny)
    rows = pair_rows(tiny.tokenizer, pairs, 512)

    def measure() -> EvalResult:
        answers = score(tiny, rows, 5)
        margins = [(one.log_probs.mean() - other.log_probs.mean()).item() for one, other in answers]
        return EvalResult([{"id": i, "values": {"margin": m, "accuracy": float(m > 0)}} for i, m in enumerate(margins)])

    names = list(mask.shapes)
    divided = {"everything": names, **parts(names, "layer"), "one": names[-1:], "nothing": []}
    counted: list[int] = []
    figures = ["margin", "accuracy"]
    sweeps = restore_sweep(tiny, mask, divided, measure, figures, gamma=gamma, on_part=counted.append)
    assert counted == [1] * len(divided)
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, before[name])
    sweep = sweeps["margin"]
    assert sweep.dense == measure().means()["margin"]
    assert sweep.dense != sweep.masked
    # The same weights give the same figures, bit for bit.
    assert sweep.restored["everything"].delta == pytest.approx(sweep.dense - sweep.masked, abs=1e-12)
    assert (sweep.restored["nothing"].delta, sweep.restored["nothing"].p) == (0.0, 1.0)
    for part in ("0", "1", "one"):
        with masked(tiny.model, lifted(mask, divided[part]), model_fingerprint=tiny.fingerprint, gamma=gamma):
            means = measure().means()
        for figure in figures:
            expected = means[figure] - sweeps[figure].masked
            assert sweeps[figure].restored[part].delta == pytest.approx(expected, abs=1e-12)
    assert len({round(found.delta, 9) for found in sweep.restored.values()}) == len(divided)


def sample(values: list[float]) -> EvalResult:
    return EvalResult([{"id": i, "values": {"margin": value, "other": None}} for i, value in enumerate(values)])


def test_p_values_are_adjusted_over_the_parts(tiny):
    generator = np.random.default_rng(1)
    results = iter([sample([0.0] * 12), sample([0.0] * 12), *(sample(generator.random(12) - c) for c in (0, 0.2, 0.5))])
    divided: dict[str, list[str]] = {part: [] for part in "abc"}
    sweep = restore_sweep(
        tiny, random_mask(tiny), divided, lambda: next(results), ["margin"], gamma=0.0, on_part=lambda n: None
    )["margin"]
    ranked = sorted((found.p, part) for part, found in sweep.restored.items())
    for place_, (_, part) in enumerate(ranked):
        expected = min(min(1.0, 3 * p / (rank + 1)) for rank, (p, _) in enumerate(ranked) if rank >= place_)
        assert sweep.adjusted[part] == pytest.approx(expected)
    assert len({p for p, _ in ranked}) == 3


def test_an_interrupted_sweep_leaves_the_model_dense():
    tiny = tiny_model()
    before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    results = iter([sample([0.0]), sample([0.0])])  # none for the first part
    with pytest.raises(StopIteration):
        restore_sweep(
            tiny,
            random_mask(tiny),
            {"all": list(maskable_linears(tiny.model))},
            lambda: next(results),
            ["margin"],
            gamma=0.0,
            on_part=lambda n: None,
        )
    assert all(torch.equal(parameter, before[name]) for name, parameter in tiny.model.named_parameters())


@pytest.mark.parametrize("figure", ["nonsense", "other"])
def test_a_figure_that_no_item_has_is_refused(tiny, figure):
    with pytest.raises(ValueError, match=f"no figure '{figure}' among those of the items: margin"):
        restore_sweep(tiny, random_mask(tiny), {}, lambda: sample([1.0]), [figure], gamma=0.0, on_part=lambda n: None)


def test_a_wrecked_model_ends_the_sweep_at_once(tiny):
    counted = []
    results = iter([sample([0.0]), sample([0.0]), sample([math.nan])])
    with pytest.raises(ValueError, match="margin is not finite for every item: the mask wrecks the model"):
        restore_sweep(
            tiny,
            random_mask(tiny),
            {"a": [], "b": []},
            lambda: next(results),
            ["margin"],
            gamma=0.0,
            on_part=counted.append,
        )
    assert counted == []


def test_a_sweep_of_another_models_mask_is_refused(tiny):
    other = dataclasses.replace(random_mask(tiny), model_fingerprint="another")
    with pytest.raises(ValueError, match="fingerprint another"):
        restore_sweep(tiny, other, {}, lambda: sample([1.0]), ["margin"], gamma=0.0, on_part=lambda n: None)
