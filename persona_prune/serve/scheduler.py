"""Who is answered when: one thread owns the model, and personas take turns on it."""

import collections
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from persona_prune.models.decoding import Completion, DecodingBatch
from persona_prune.models.loaded import LoadedModel
from persona_prune.serve.jobs import (
    ClosingError,
    Counts,
    Event,
    Failed,
    FailureReason,
    Finished,
    Job,
    Limits,
    Persona,
    Piece,
    QueueFullError,
    Switcher,
)

log = logging.getLogger(__name__)

_SWITCHES_PER_TURN = 4  # so that at most a fifth of the time goes into switching


@dataclass
class _Turns:
    """Work by persona, in the order in which personas get their turns; those without work aren't in it."""

    waiting: dict[Persona, collections.deque[Job]] = field(default_factory=dict)
    running: dict[Persona, list[DecodingBatch]] = field(default_factory=dict)
    order: list[Persona] = field(default_factory=list)


class Scheduler:
    """Answers jobs in batches by persona.

    A persona keeps the model until its work is done or, while others wait, for ``turn_seconds`` (or four times as long
    as a switch takes, if that is more) and the step that is under way then; its unfinished answers are put aside with
    their caches, and the next one in a fixed rotation gets its turn. So the weights change only where they must, and
    each of P personas waits for at most P - 1 turns. Waiting jobs of a persona are taken in order as room becomes free.
    """

    def __init__(self, loaded: LoadedModel, switcher: Switcher, limits: Limits) -> None:
        self._loaded, self._switcher, self._limits = loaded, switcher, limits
        self._changed = threading.Condition()
        self._turns = _Turns()
        self._jobs: dict[Completion, Job] = {}
        self._counts = Counts()
        self._deadline: float | None = None  # after which running answers are given up; None: not closing
        self.error: Exception | None = None  # what ended the thread before its time
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread; from now on it alone may use the model."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; its events follow.

        Raises:
            QueueFullError: the queue is full.
            ClosingError: `close` was called, or the thread is gone.
        """
        with self._changed:
            if self.closing:
                raise ClosingError
            if self._waiting_jobs() >= self._limits.queue:
                self._counts.refused += 1
                raise QueueFullError
            self._turns.waiting.setdefault(job.persona, collections.deque()).append(job)
            if job.persona not in self._turns.order:
                self._turns.order.append(job.persona)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Take a job back: no one waits for its answer any more."""
        with self._changed:
            if job.cancelled:
                return
            job.cancelled = True
            waiting = self._turns.waiting.get(job.persona)
            if waiting and job in waiting:
                waiting.remove(job)
                self._counts.cancelled += 1

    def close(self, seconds: float) -> None:
        """Take no more jobs, fail those that wait, and give running ones so many seconds to finish."""
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + seconds
            self._deadline = min(self._deadline, time.monotonic() + seconds)
            waiting = [job for jobs in self._turns.waiting.values() for job in jobs]
            self._turns.waiting.clear()
            self._changed.notify()
        for job in waiting:
            self._tell(job, Failed("closing"))
        # Not left to the scheduler's thread, which may be amid a step that takes long.
        timer = threading.Timer(seconds, self._tell_all, [Failed("closing")])
        timer.daemon = True
        timer.start()

    def join(self) -> None:
        """Wait until the thread has restored the weights and ended; call `close` first."""
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def closing(self) -> bool:
        """Whether no more jobs are taken."""
        return self._deadline is not None

    def figures(self) -> dict[str, float]:
        """Return counters and gauges by name, as of now."""
        with self._changed:
            return {
                "requests_waiting": self._waiting_jobs(),
                "requests_running": len(self._jobs),
                "requests_answered_total": self._counts.answered,
                "requests_failed_total": self._counts.failed,
                "requests_cancelled_total": self._counts.cancelled,
                "requests_refused_total": self._counts.refused,
                "prompt_tokens_total": self._counts.prompt_tokens,
                "completion_tokens_total": self._counts.completion_tokens,
                "persona_switches_total": self._switcher.switches,
                "persona_switch_seconds_total": self._switcher.seconds,
            }

    def _waiting_jobs(self) -> int:
        return sum(len(jobs) for jobs in self._turns.waiting.values())

    def _work(self) -> None:
        try:
            with self._switcher:
                while self._await_work():
                    self._turn(self._turns.order[0])
        except Exception as error:
            log.exception("the scheduler ended")
            self.error = error
        finally:
            self._tell_all(Failed("internal"))
            self.close(0)

    def _await_work(self) -> bool:
        """Wait for work; return False once there is none and never will be."""
        with self._changed:
            self._changed.wait_for(lambda: self._turns.order or self.closing)
            return bool(self._turns.order)

    def _turn(self, persona: Persona) -> None:
        """Work for a persona until it has nothing left or its time is over, then put it behind the others."""
        if self._has_work(persona) and not self._too_late and self._switched(persona):
            end = time.monotonic() + self._turn_seconds
            while not self._too_late and self._step(persona):
                if time.monotonic() >= end and len(self._turns.order) > 1:
                    break
        if self._too_late:
            self._give_up(persona, "closing")
        with self._changed:
            self._turns.order.remove(persona)
            if self._has_work(persona):
                self._turns.order.append(persona)

    def _has_work(self, persona: Persona) -> bool:
        return bool(self._turns.running.get(persona) or self._turns.waiting.get(persona))

    @property
    def _too_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def _turn_seconds(self) -> float:
        """How long a turn may take now: on a slow machine switching must not be most of what is done."""
        a_switch = self._switcher.seconds / max(1, self._switcher.switches)
        return max(self._limits.turn_seconds, _SWITCHES_PER_TURN * a_switch)

    def _switched(self, persona: Persona) -> bool:
        """Put a persona on the model; if that fails, so do its jobs."""
        try:
            self._switcher.switch(persona)
        except Exception:
            log.exception("cannot switch to %s", persona or "the dense model")
            self._give_up(persona, "internal")
            return False
        return True

    def _step(self, persona: Persona) -> bool:
        """Add a token to every running answer of a persona, after letting in what waits; return whether any goes on."""
        running = self._turns.running.setdefault(persona, [])
        admitted = self._admit(persona, self._limits.batch - sum(len(batch.answers) for batch in running))
        running += [admitted] if admitted else []
        for batch in running:
            self._advance(batch)
        if admitted and admitted.answers:
            self._join(admitted, [batch for batch in running if batch.answers and batch is not admitted])
        running[:] = [batch for batch in running if batch.answers]
        if not running:
            del self._turns.running[persona]
        return self._has_work(persona)

    def _admit(self, persona: Persona, room: int) -> DecodingBatch | None:
        """Return a batch of the jobs that waited longest, as many as there is room for."""
        jobs: list[Job] = []
        longest = 0
        with self._changed:
            waiting = self._turns.waiting.get(persona, collections.deque())
            while waiting and len(jobs) < room:
                longest = max(longest, len(waiting[0].query.prompt))
                if jobs and longest * (len(jobs) + 1) > self._limits.batch_tokens:
                    break
                jobs.append(waiting.popleft())
            if not waiting:
                self._turns.waiting.pop(persona, None)
            answers = {Completion(job.query, self._loaded): job for job in jobs}
            self._jobs |= answers
            self._counts.prompt_tokens += sum(len(job.query.prompt) for job in jobs)
        try:
            return DecodingBatch(self._loaded, list(answers)) if answers else None
        except Exception:
            self._fail(list(answers))
            return None

    def _join(self, admitted: DecodingBatch, running: list[DecodingBatch]) -> None:
        """Add a batch to the first of the others that takes it; none may."""
        for batch in running:
            answers = [*batch.answers, *admitted.answers]
            try:
                if batch.join(admitted):
                    return
            except Exception:
                self._fail(answers)
                batch.answers, admitted.answers = [], []  # whose caches are half joined
                return

    def _advance(self, batch: DecodingBatch) -> None:
        """Add a token to every answer of a batch that someone still waits for."""
        answers = batch.answers  # the batch forgets those that are finished before all of a step is done
        try:
            for answer in answers:
                job = self._jobs[answer]
                if job.cancelled or job.ended:
                    self._end(answer)
                    self._counts.cancelled += not job.ended
            batch.retain(lambda answer: answer in self._jobs)
            grown = batch.step() if batch.answers else []
        except Exception:
            self._fail(answers)
            batch.answers = []
            return
        self._counts.completion_tokens += len(grown)
        for answer, text in grown:
            job = self._jobs[answer]
            if text:
                self._tell(job, Piece(text))
            if answer.finish_reason is not None:
                self._end(answer)
                self._tell(job, Finished(answer.finish_reason, answer.tokens))

    def _fail(self, answers: Sequence[Completion]) -> None:
        """Tell those who wait for ``answers`` of the exception that is handled now: the other requests go on."""
        unfinished = [answer for answer in answers if answer in self._jobs]
        log.exception("%d requests failed", len(unfinished))
        for answer in unfinished:
            self._tell(self._end(answer), Failed("internal"))

    def _give_up(self, persona: Persona, reason: FailureReason) -> None:
        with self._changed:
            waiting = self._turns.waiting.pop(persona, collections.deque())
        for batch in self._turns.running.pop(persona, []):
            for answer in batch.answers:
                if answer in self._jobs:
                    self._tell(self._end(answer), Failed(reason))
        for job in waiting:
            self._tell(job, Failed(reason))

    def _end(self, answer: Completion) -> Job:
        with self._changed:
            return self._jobs.pop(answer)

    def _tell_all(self, failure: Failed) -> None:
        """Tell those whose answers are running that they won't be finished."""
        with self._changed:
            for job in self._jobs.values():
                self._tell(job, failure)

    def _tell(self, job: Job, event: Event) -> None:
        """Pass an event on, unless the job has had its last one."""
        with self._changed:
            if job.ended:
                return
            job.ended = not isinstance(event, Piece)
            self._counts.answered += isinstance(event, Finished)
            self._counts.failed += isinstance(event, Failed)
            job.on_event(event)
