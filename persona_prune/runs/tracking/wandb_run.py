"""One W&B run: what is logged of a job, and how the session stands."""

import logging
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import wandb

from persona_prune.common.json_numbers import load_item
from persona_prune.runs.tracking import wandb_artifacts
from persona_prune.runs.tracking.base import RunInfo
from persona_prune.runs.tracking.figures import best, is_detail, item_table
from persona_prune.runs.tracking.pushing import note_needed
from persona_prune.runs.tracking.wandb_limits import LONGEST_NAME, LONGEST_TAG, environment, shortened

log = logging.getLogger(__name__)

_SECONDS_TO_ANSWER = 10
_told_how_to_push: list[str] = []


def logged_in() -> bool:
    """Tell whether credentials are configured, without asking for them and without the network."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with environment(one_of_several=False):
        wandb.setup(wandb.Settings(silent=True))
        return bool(wandb.login(prompt=False, verify=False))


def unreachable() -> str | None:
    """Return why the W&B server can't be reached, in one line; None if it answers.

    Asked before W&B is, which would try for a minute and a half, or for ever.
    """
    server = os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=_SECONDS_TO_ANSWER).close()
    except urllib.error.HTTPError:
        return None  # an answer
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"W&B at {server} can't be reached ({reason})"
    return None


def start(
    info: RunInfo,
    *,
    project: str,
    entity: str | None,
    mode: str,
    tags: Sequence[str],
    artifacts: bool,
    finish_timeout: int,
) -> "WandbRun":
    """Start a run in the mode ``online`` or ``offline``; nothing is printed by W&B. Arguments as of `WandbTracker`.

    Raises:
        OSError: W&B refuses, for a wrong key or an entity that isn't there.
    """
    own_id = _own_id() if info.one_of_several else None
    settings = wandb.Settings(silent=True, console="off", quiet=True, finish_timeout=float(finish_timeout))
    try:
        with environment(one_of_several=info.one_of_several):
            run = wandb.init(
                project=project,
                entity=entity,
                mode=cast(Any, mode),
                dir=info.directory.absolute(),
                id=own_id,
                name=f"{shortened(info.name, LONGEST_NAME - 7)}-{info.config_hash[:6]}",
                group=info.group,
                job_type=shortened(info.job_type, LONGEST_NAME),
                tags=list(dict.fromkeys([*(shortened(tag, LONGEST_TAG) for tag in info.tags), *tags])),
                config={**info.config, "run": {"config_hash": info.config_hash, "directory": str(info.directory)}},
                settings=settings,
                reinit="create_new",
            )
    # Its settings are validated by pydantic, whose errors are ValueErrors.
    except (wandb.Error, ValueError) as error:
        raise OSError(f"W&B could not be started: {' '.join(str(error).split())}") from error
    if mode == "offline" and not _told_how_to_push:
        _told_how_to_push.append(run.id)
        where = "" if info.directory.parts[0] == "outputs" else f" {info.directory}"
        log.info("W&B: offline; push later with: python -m persona_prune.sync%s", where)
    return WandbRun(run, info, artifacts=artifacts)


class WandbRun:
    """A run that W&B has started."""

    def __init__(self, run: Any, info: RunInfo, *, artifacts: bool) -> None:
        self._run, self._info, self._artifacts = run, info, artifacts

    def finish(self, metrics: Mapping[str, float], made_from: Sequence[Path]) -> None:
        """Log figures, items, page and artifacts, and close the run; see `TrackedRun.finish`."""
        try:
            try:
                with _staging_in(self._info.directory):
                    self._log(metrics)
                    if self._artifacts:
                        self._log_artifacts(metrics, made_from)
            finally:
                self._run.finish()
        except Exception as error:
            # Whatever it is: hours of measuring aren't worth losing for it.
            log.warning("W&B: the run could not be logged completely: %s", " ".join(str(error).split()))
            log.debug("traceback", exc_info=error)

    def fail(self, reason: str) -> None:
        """Mark the run as failed, the reason in its summary."""
        try:
            self._run.summary.update({"status": "failed", "error": reason})
            self._run.finish(exit_code=1)
        except Exception as error:
            # The error that matters is on its way already.
            log.warning("W&B: the run could not be marked as failed: %s", " ".join(str(error).split()))

    def _log(self, metrics: Mapping[str, float]) -> None:
        directory = self._info.directory
        arms = sorted(_arms(metrics))
        for metric in metrics:
            self._run.define_metric(metric, summary=best(metric, arms), hidden=is_detail(metric) or None)
        content: dict[str, Any] = dict(metrics)
        for path in sorted((directory / "samples").glob("*.jsonl")):
            # Not splitlines(): a text may hold U+2028 and the like, at which it would break.
            rows = [load_item(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            if rows:
                columns, data = item_table(rows)
                content[f"samples/{path.stem}"] = wandb.Table(columns=[*columns], data=data)
        if (directory / "report.html").is_file():
            content["report"] = wandb.Html(str(directory / "report.html"), inject=False)
        self._run.log(content)
        # Where best-of is defined, W&B would keep <metric>.max instead of <metric>.
        self._run.summary.update({**metrics, "status": "done"})

    def _log_artifacts(self, metrics: Mapping[str, float], made_from: Sequence[Path]) -> None:
        logged = [wandb_artifacts.source(path) for path in made_from]
        for used in logged:
            # Run.use_artifact does this and waits for the upload, and so refuses to do it offline. The record is the
            # same, and `wandb sync` acts on it.
            self._run._log_artifact(used, is_user_created=True, use_after_commit=True)
        persona = self._info.directory / "persona.safetensors"
        if persona.is_file():
            logged.append(wandb_artifacts.persona(persona, self._info, metrics))
            self._run.log_artifact(logged[-1], aliases=["latest", self._info.config_hash[:6]])
        if self._run.offline:
            note_needed(Path(self._run.dir).parent, [file for a in logged for file in wandb_artifacts.files(a)])


def _own_id() -> str:
    """Return an id for one job of a sweep; W&B would give all of them the one that ``WANDB_RUN_ID`` names."""
    given = os.environ.get("WANDB_RUN_ID", "")
    return "-".join([*([given] if given else []), uuid.uuid4().hex[:8]])


def _arms(metrics: Mapping[str, float]) -> set[str]:
    """Return the arms that figures are prefixed with, as in ``<arm>/<evaluator>/<metric>``, but the persona's own."""
    evaluators = {metric.split("/")[0] for metric in metrics}
    pairs = [metric.split("/")[:2] for metric in metrics if metric.count("/") > 1]
    return {arm for arm, evaluator in pairs if evaluator in evaluators and arm != "with_prompt"}


@contextmanager
def _staging_in(directory: Path) -> Iterator[None]:
    """Let W&B keep copies of what is to be uploaded in the run directory, not in the user's home."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory.absolute() / "wandb" / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
