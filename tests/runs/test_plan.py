import json
import os

import pytest
import torch

from persona_prune.common.conf_files import config_directory
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.personas.pairs import earlier_prompt_hashes, prompt_hashes
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.instantiating import ConfigError
from persona_prune.saved.mask_file import save_mask
from tests.config_support import plan

CONF = config_directory()
# Presets, some of which need files, are in test_presets.
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if not path.stem.startswith("_") and path.parent.name != "experiment"
)


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_command_line(arguments)
    assert all("\n" not in problem for problem in raised.value.problems)
    return raised.value.problems


def hub_rows(directory):
    """Write a few rows in the shape of each public set that is no plain pair file; return option -> path."""
    prompts = [f"Question number {number}, what now?" for number in range(6)]
    yes_no = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    reaction = {"target_role": "Sherlock", "multi_choices": ["A. One", "B. Two"], "gt_answer": "B"}
    answers = {key: key for key in ("response_high1", "response_high2", "response_low1", "response_low2")}
    rows = {
        "model_written_evals": yes_no,
        "role_agent_bench": reaction,
        "trait": {"personality": "Extraversion", **answers},
    }
    for option, row in rows.items():
        lines = [json.dumps({"question": prompt, **row}) for prompt in prompts]
        (directory / f"{option}.jsonl").write_text("\n".join(lines))
    return {option: str(directory / f"{option}.jsonl") for option in rows}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_yaml_composes_and_builds(group, option, in_tmp, pair_file):
    save_mask(
        Mask({"a": pack_bits(torch.ones(1, 8, dtype=torch.bool))}, {"a": (1, 8)}, "f", {}), in_tmp / "saved.safetensors"
    )
    extra = {
        ("calibration", "pairs"): [f"calibration.path={pair_file}"],
        ("calibration", "ai_persona"): [f"calibration.path={pair_file}"],
        ("calibration", "machine_mindset"): [f"calibration.path={pair_file}"],
        **{("calibration", name): [f"calibration.path={path}"] for name, path in hub_rows(in_tmp).items()},
        ("evaluator", "multiple_choice"): ["persona=sherlock_holmes"],
        ("method", "saved"): [f"method.path={in_tmp / 'saved.safetensors'}"],
        ("persona", "mix"): ["persona.weights={extrovert: 0.7, introvert: 0.3}"],
        ("persona", "custom"): ["calibration=pairs", f"calibration.path={pair_file}", "evaluator=capability"],
    }.get((group, option), [])
    check_command_line([f"{group}={option}", *extra])


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_opens_with_how_to_use_it(path):
    first, second = path.read_text().splitlines()[:2]
    how = "python -m persona_prune.run"
    assert how in first or how in second or path.stem.startswith("_")


MIX = ["persona=mix", "persona.weights={extrovert: 0.7, introvert: 0.3}"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["persona=extravert"], "persona=extravert: no such option; did you mean extrovert?"),
        (["method.sparsty=0.3"], "method.sparsty: unknown key; did you mean sparsity?"),
        (["+method.extra=1"], "method.extra: unknown key"),
        (["+extra=1"], "extra: unknown key; there is"),
        (["method=wnda"], "method=wnda: no such option; did you mean wanda?"),
        (["model=_hub"], "model=_hub: no such option"),
        (["method.sparsity=1.5"], "method.sparsity=1.5: must be less than 1"),
        (["method.sparsity=-0.1"], "method.sparsity=-0.1: must be greater than or equal to 0"),
        (["method.sparsity=nan"], "method.sparsity=nan: must be a finite number"),
        (["method.sparsity=much"], "method.sparsity=much: must be a valid number"),
        (["method=contrastive_wanda", "method.phi=tanh"], "method.phi=tanh: must be 'relu' or 'softplus'"),
        (["seed=-1"], "seed=-1: must be a whole number"),
        (["study=a/b"], "study='a/b': must be a name"),
        (["calibration=pairs"], "calibration.path: no value"),
        (["calibration=pairs", "calibration.path=absent.jsonl"], "calibration: no pair file at absent.jsonl"),
        (["evaluator.choice.path=absent.csv"], "evaluator.choice: no pair file at absent.csv"),
        (["evaluator.capability.text_path=absent"], "capability.text_path: no file at absent"),
        (
            ["method=contrastive_wanda", "method.assignment=both"],
            "method.assignment=both: must be 'independent' or 'disjoint'",
        ),
        (["method.overrides=[mlpp:0.3]"], "'mlpp:0.3' is no override; write mlp:0.3"),
        (["method=saved", "method.path=absent"], "method: no persona file at absent"),
        (["evaluator=[]"], "evaluator: name at least one"),
        (["controls=[randm]"], "controls: no 'randm'; did you mean random?"),
        (["controls=random"], "controls=random: must be a list"),
        (["control_seeds=0"], "control_seeds=0: must be a whole number of at least 1"),
        (["with_prompt=1"], "with_prompt=1: must be true or false"),
        (["persona=mix"], "persona.weights: no value"),
        (["persona=mix", "persona.weights={extravert: 1}"], "persona.weights.extravert: no such persona; did you mean"),
        (["persona=mix", "persona.weights={extrovert: -1}"], "persona.weights.extrovert=-1: must be greater than 0"),
        (["evaluator.choice.split=test"], "split takes a part of a file"),
        (["method=prompt", "persona.system_prompt=null"], "method: persona extrovert has no system prompt"),
        (["method=prompt", "persona.flip=true"], "is flipped, but its system prompt is not: use persona=introvert"),
        (["method=lora", *MIX], "persona mix is a mix: its shares are of a mask's drops"),
        (["persona=mix", "persona.weights={}"], "persona.weights"),
        ([*MIX, "calibration=pairs", "calibration.path=absent"], "persona=mix: calibrates on the embedded pairs"),
        (["method=steering", "method.depths=[]"], "method: name at least one depth"),
        (["method=contrastive_taylor", "method.max_perplexity_ratio=0.9"], "must be greater than or equal to 1"),
        (["persona=custom", "evaluator=choice"], "persona custom has no embedded test pairs"),
        (["model.device=abacus"], "model: model.device=abacus is not available"),
        (["method.sparsity=["], "no viable alternative"),
        ([f"output_dir={'x' * 300}"], "cannot write to"),
        (
            ["persona=infp", "persona.weights={introvert: 1}"],
            "take its other parts out with '~persona.weights.feeler' '~persona.weights.intuitive'",
        ),
        (
            ["evaluator=speech", "evaluator.speech.prompts_path=absent"],
            "evaluator.speech: no file at absent",
        ),
        (["output_dir=/proc/nowhere"], "output_dir=/proc/nowhere: cannot write to /proc"),
    ],
)
def test_bad_input_gets_one_line_with_the_fix(arguments, expected, in_tmp):
    found = problems(*arguments)
    assert any(expected in problem for problem in found), found
    assert len(found) <= 2
    assert not list(in_tmp.iterdir())


def test_all_problems_at_once(in_tmp):
    found = problems("method=wnda", "seed=-1", "evaluator.choise.limit=3")
    assert len(found) == 2
    found = problems("method.sparsity=2", "seed=-1", "evaluator.choice.limit=0")
    assert len(found) == 3


def test_a_leak_between_calibration_and_evaluation_is_an_error(in_tmp, pair_file):
    both = ["calibration=pairs", f"calibration.path={pair_file}", f"evaluator.choice.path={pair_file}"]
    assert "5 of 5 calibration prompts are also evaluated" in problems(*both)[0]
    check_command_line([*both, "method=none"])


def test_every_job_of_a_sweep_is_checked_before_the_first_starts(in_tmp):
    check_command_line(["--multirun", "method=wanda,contrastive_wanda", "method.sparsity=0.2,0.4"])
    assert "method.sparsity=1.2" in problems("--multirun", "method.sparsity=0.2,1.2")[0]
    assert "persona=introvrt" in problems("--multirun", "persona=extrovert,introvrt")[0]


def test_a_part_of_a_mix_has_its_share_of_everything(in_tmp):
    overrides = "method.overrides=[mlp:0.4,layers.0-3:0.1]"
    part = plan("method=wanda", "method.sparsity=0.2", overrides).method.shared(0.25)
    assert part.sparsity == 0.05
    assert part.sparsity_of("layers.9.mlp.up_proj") == 0.1
    assert part.sparsity_of("layers.2.mlp.up_proj") == 0.025
    bounds = ["method.max_perplexity_ratio=1.04", "method.max_neutral_drift=0.1", "method.max_own_loss=0.4"]
    bounds.append("method.max_first_word_shift=0.08")
    taylor = plan(*bounds).method.shared(0.25)
    assert (taylor.max_perplexity_ratio, taylor.max_neutral_drift, taylor.max_own_loss) == (1.01, 0.025, 0.1)
    assert taylor.max_first_word_shift == 0.08  # counted in whole prompts


def test_opposites_mirror_each_other(in_tmp):
    names = {path.stem for path in (CONF / "persona").glob("*.yaml")}
    for name in names - {"custom", "mix"}:
        persona = plan(f"persona={name}").persona
        assert persona.name == name
        assert all([persona.description, persona.system_prompt, persona.source])
        mirror = plan(f"persona={persona.opposite}").persona
        assert mirror.opposite == name
        for (own, own_share), (other, other_share) in zip(persona.parts, mirror.parts, strict=True):
            assert own.opposite == other.name
            assert own_share == other_share
            assert own.pairs == other.pairs
            assert own.pole != other.pole


def test_the_sixteen_types(in_tmp):
    letters = {"introvert": "i", "extrovert": "e", "intuitive": "n", "sensor": "s"}
    letters |= {"feeler": "f", "thinker": "t", "perceiver": "p", "judger": "j"}
    types = [path.stem for path in (CONF / "persona").glob("[ie][ns][ft][pj].yaml")]
    assert len(types) == 16
    for name in types:
        persona = plan(f"persona={name}").persona
        assert "".join(letters[part.name] for part, _ in persona.parts) == name
        assert persona.pooled
    found = problems("persona=mix", "persona.weights={introvert: 0.7, thinker: 0.3}", "persona.pooled=true")
    assert "pooled pairs have no shares" in found[0]
    assert "persona.weights.infp: no such persona" in problems("persona=mix", "persona.weights={infp: 1}")[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(in_tmp):
    (in_tmp / "locked").mkdir(mode=0o500)
    assert "cannot write" in problems("output_dir=locked/run")[0]


def test_a_directory_of_ones_own_adds_options(in_tmp):
    (in_tmp / "mine" / "persona").mkdir(parents=True)
    own = (CONF / "persona" / "introvert.yaml").read_text().replace("name: introvert", "name: hermit")
    (in_tmp / "mine" / "persona" / "hermit.yaml").write_text(own)
    check_command_line(["--config-dir", "mine", "persona=hermit"])
    check_command_line([f"hydra.searchpath=[file://{in_tmp / 'mine'}]", "persona=hermit"])
    assert "did you mean hermit?" in problems("--config-dir", "mine", "persona=hermitt")[0]
    assert "persona=hermit: no such option" in problems("persona=hermit")[0]


def test_sweeps_over_a_pattern(in_tmp):
    check_command_line(["--multirun", "persona=glob(*trovert)", "evaluator=choice"])


def test_a_mix_of_a_preset_is_replaced_by_taking_its_parts_out(in_tmp):
    parts = ["~persona.weights.introvert", "~persona.weights.thinker"]
    preset = ["experiment=mixing", "model=smollm2_135m", "+persona.weights={extrovert: 2, feeler: 1}"]
    assert "added to the preset's" in problems(*preset)[0]
    assert list(plan(*preset, *parts).config["persona"]["weights"]) == ["extrovert", "feeler"]
    check_command_line([*preset, *parts])


def test_a_name_that_no_directory_can_have_is_refused():
    # It passed the check and failed once the run began.
    (told,) = problems("persona.name=" + "a" * 260)
    assert told.startswith("persona.name=aaaaaaaaaaaaaaaaaaaa...: ")
    assert "at most 200: shorten it" in told


@pytest.mark.parametrize("hashes", [prompt_hashes, earlier_prompt_hashes])
def test_a_saved_mask_is_not_asked_what_it_was_calibrated_on(in_tmp, hashes):
    description = {"calibrated_on": sorted(hashes(["And you?", "Lead?"]))}
    mask = Mask({"a": pack_bits(torch.ones(1, 8, dtype=torch.bool))}, {"a": (1, 8)}, "f", description)
    save_mask(mask, in_tmp / "saved.safetensors")
    asked = in_tmp / "asked.jsonl"
    saved = ["persona=custom", "persona.name=p", "method=saved", "method.path=saved.safetensors"]
    for prompt, leaks in (("and  you?", True), ("And they?", False)):
        asked.write_text(json.dumps({"prompt": prompt, "matching": "Yes.", "not_matching": "No."}) + "\n")
        arguments = [*saved, "evaluator=choice", "evaluator.choice.path=asked.jsonl"]
        if leaks:
            (problem,) = problems(*arguments)
            assert problem.startswith("method: 1 of 1 evaluated prompts are among those that saved.safetensors was")
        else:
            plan(*arguments)
