"""A chat model as judge of answers: it rates trait and coherence, by an endpoint or on this machine."""

import functools
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from persona_prune.common.cache import cache_path, store_json
from persona_prune.common.errors import one_line
from persona_prune.common.progress import Progress
from persona_prune.common.text_files import directory_stamp
from persona_prune.common.validation import STRICT, PositiveInt, neighbours
from persona_prune.evaluators.chat_endpoint import ChatEndpoint, Reply
from persona_prune.evaluators.rubric_questions import WORDS, parse_score, questions, told_of
from persona_prune.models.chat_text import chat_prompt
from persona_prune.models.control_tokens import without_control_tokens
from persona_prune.models.generation import greedy_answers
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.sources import HubModel
from persona_prune.personas.persona import AnyPersona

log = logging.getLogger(__name__)

_MAX_TOKENS = 16
_NAMED_REASONS = 3  # in the warning about missing ratings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RubricJudge:
    """Rates answers from 0 to 1: how much of the persona and not of its opposite is in them, and how coherent they are.

    Both are asked for apart (as persona vectors do, arXiv 2507.21509). The judge is told of two traits, and which of
    them is A is drawn by a hash of prompt and answer, so that a liking for A or for high numbers favours neither
    pole. It doesn't learn which is wanted, nor whose answer it reads.

    Attributes:
        base_url: of an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; null for a local model.
        model: the endpoint's name of it, or directory or hub id of a chat model.
        key_variable: the environment variable that holds the endpoint's key.
        requests_per_minute: at most so many; null for no limit.
        timeout: seconds to wait for a reply.
        retries: tries after the first, where the endpoint is busy or fails.
        parallel: requests at a time; of a local model, the batch size.
    """

    base_url: str | None
    model: Annotated[str, Field(min_length=1)] | None
    key_variable: str
    requests_per_minute: PositiveInt | None
    timeout: Annotated[float, Field(gt=0.0)]
    retries: Annotated[int, Field(ge=0)]
    parallel: PositiveInt

    def __post_init__(self) -> None:
        # A key in place of the variable's name, or in the URL, must not come back in the message.
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_variable):
            raise ValueError(
                "judge.key_variable: must name an environment variable in capitals, such as OPENAI_API_KEY, "
                "and never be the key itself"
            )
        if self.base_url is not None:
            if self.model is None:
                raise ValueError("judge.model: no value; give the name of the model that answers at judge.base_url")
            _check_url(self.base_url)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RubricJudge | None":
        """Return the judge that ``evaluator.speech.judge`` asks for; None where neither URL nor model is given.

        Raises:
            ValueError: unknown keys or bad values, all of them in one line.
        """
        off = settings.get("base_url") is None and settings.get("model") is None
        known = list(cls.__dataclass_fields__)
        problems = [f"judge.{key}: unknown key; {neighbours(str(key), known)}" for key in settings if key not in known]
        try:
            judge = cls(**{key: value for key, value in settings.items() if key in known})
        except ValidationError as error:
            problems += [_problem(detail) for detail in error.errors() if not (off and detail["type"] == "missing")]
        if problems:
            raise ValueError("; ".join(problems))
        return None if off else judge

    def check(self) -> None:
        """Raise OSError or ValueError if the endpoint can't be reached, or the model is a path where nothing is."""
        if self._endpoint is not None:
            try:
                self._endpoint.check()
            except OSError as error:
                raise OSError(f"judge.base_url: {error}") from None
        elif self._name.startswith(("/", ".", "~")) and not Path(self._name).expanduser().is_dir():
            raise FileNotFoundError(f"judge.model: no model at {Path(self._name).expanduser()}")

    def identity(self, persona: AnyPersona) -> object:
        """Return the model, and what it is asked and told of the persona."""
        return [*self._model_asked, WORDS, told_of(persona)]

    def rate(
        self, persona: AnyPersona, said: Sequence[tuple[str, str]], progress: Progress
    ) -> list[dict[str, float | None]]:
        """Return ``rubric_trait`` and ``rubric_coherence`` in [0, 1] of every (prompt, answer).

        None for what wasn't rated, which one warning counts. What was rated before isn't asked again.
        """
        poles = told_of(persona)
        asked = [questions(poles, prompt, answer) for prompt, answer in said]
        texts = dict.fromkeys(text for both in asked for text, _ in both.values())
        scores = {text: score for text in texts if (score := self._kept(text)) is not None}
        # Not in the order of prompts, in which an endpoint that gets worse would rate the last ones worse.
        new = sorted(texts.keys() - scores.keys(), key=_digest)
        missing = self._ask(new, scores, progress) if new else {}
        without = Counter(missing[text] for both in asked for text, _ in both.values() if text not in scores)
        if without:
            named = ", ".join(f"{reason} ({count})" for reason, count in without.most_common(_NAMED_REASONS))
            more = ", and others" if len(without) > _NAMED_REASONS else ""
            log.warning("rubric judge: %d of %d ratings missing: %s%s", without.total(), 2 * len(said), named, more)
        return [{key: _rating(scores.get(text), turned) for key, (text, turned) in both.items()} for both in asked]

    @functools.cached_property
    def _endpoint(self) -> ChatEndpoint | None:
        if self.base_url is None:
            return None
        return ChatEndpoint(
            self.base_url,
            self._name,
            key_variable=self.key_variable,
            requests_per_minute=self.requests_per_minute,
            timeout=self.timeout,
            retries=self.retries,
            parallel=self.parallel,
        )

    @property
    def _name(self) -> str:
        return self.model or ""

    @property
    def _model_asked(self) -> list[object]:
        """What tells the model from another, and how long its replies may be."""
        url = self.base_url and self.base_url.rstrip("/")
        return ["v1", url, self.model, None if url else directory_stamp(self._name), _MAX_TOKENS]

    def _cache(self, text: str) -> Path:
        return cache_path("rubric", [*self._model_asked, text], ".json")

    def _kept(self, text: str) -> int | None:
        try:
            return parse_score(str(json.loads(self._cache(text).read_text(encoding="utf-8"))["score"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _ask(self, texts: Sequence[str], scores: dict[str, int], progress: Progress) -> dict[str, str]:
        """Add the scores of ``texts`` to those known; return, for every text that has none now, why."""
        where = self._name
        if self._endpoint is not None:
            key = f"with the key in {self.key_variable}" if self._endpoint.keyed else "without a key"
            where += f" at {self.base_url} {key}"
        log.info(
            "rubric judge: %d requests to %s (and %d cached): about %d tokens to read, and %d at most to write",
            len(texts),
            where,
            len(scores),
            sum(len(text) for text in texts) // 4,
            _MAX_TOKENS * len(texts),
        )
        missing: dict[str, str] = {}
        advance = progress("rubric judge", len(texts))

        def on_reply(i: int, reply: Reply) -> None:
            score = None if reply.text is None else parse_score(reply.text)
            if score is None:
                missing[texts[i]] = reply.failure or "unreadable"
            else:
                scores[texts[i]] = score
                # Nothing else of the reply: an endpoint may well repeat what it was sent.
                store_json(self._cache(texts[i]), {"score": score})
            advance(1)

        if self._endpoint is not None:
            self._endpoint.ask(texts, max_tokens=_MAX_TOKENS, on_reply=on_reply)
            return missing
        loaded = _load(self._name)
        if isinstance(loaded, str):
            return dict.fromkeys(texts, loaded)
        for start in range(0, len(texts), self.parallel):
            replies = _replies(loaded, texts[start : start + self.parallel])
            for i, text in enumerate(replies):
                on_reply(start + i, Reply(text))
        return missing


def _rating(score: int | None, turned: bool) -> float | None:
    if score is None:
        return None
    return (100 - score if turned else score) / 100


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@functools.lru_cache(maxsize=1)
def _load(path: str) -> LoadedModel | str:
    """Load a local judge once for all arms; return in words what is wrong if it can't be."""
    spec = HubModel(
        name="judge",
        path=str(Path(path).expanduser()),
        revision=None,
        dtype="auto",
        device="auto",
        device_map=None,
        chat_template=None,
    )
    try:
        return spec.load()
    except (OSError, ValueError) as error:
        return f"no chat model could be loaded from {path}: {one_line(error)}"


def _replies(loaded: LoadedModel, texts: Sequence[str]) -> list[str]:
    tokenizer = loaded.tokenizer
    encoded = [
        tuple(
            tokenizer(
                chat_prompt(tokenizer, without_control_tokens(tokenizer, text)), add_special_tokens=False
            ).input_ids
        )
        for text in texts
    ]
    replies = greedy_answers(loaded, encoded, max_new_tokens=_MAX_TOKENS, batch_size=len(texts))
    return [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in replies]


def _check_url(url: str) -> None:
    """Raise ValueError if ``url`` is none of an endpoint; the message doesn't repeat one that holds a secret."""
    if any(mark in url for mark in "@?#"):
        raise ValueError("judge.base_url: must hold no password or query; the key comes from judge.key_variable")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address that is none
        usable = False
    if not usable:
        raise ValueError(f"judge.base_url={url}: must be a URL such as http://localhost:8000/v1")


def _problem(detail: Mapping[str, Any]) -> str:
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    key = ".".join(str(part) for part in ("judge", *detail["loc"]))
    if detail["type"] == "missing":
        return f"{key}: no value"
    got = "" if detail["loc"][0] == "key_variable" else f"={detail['input']}"
    return f"{key}{got}: {str(detail['msg']).replace('Input should be', 'must be')}"
