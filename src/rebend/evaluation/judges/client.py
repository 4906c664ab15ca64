"""Asking a judge behind any OpenAI-compatible address, and keeping each reply the moment it arrives."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

from rebend.config.judges import AskedBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.costs import Budget, Spent, check_outlook, outlook
from rebend.evaluation.judges.replies import KEY, Form, Reply, failure, kept_reply, read_reply, without_key
from rebend.evaluation.judges.reply_store import VerdictStore, digest_of
from rebend.io.progress import progress


class JudgeClient:
    """A judge at an address; replies are kept in the store in `folder`, and never asked for again."""

    def __init__(self, settings: AskedBlock, form: Form, folder: str | Path) -> None:
        s = self.settings = settings
        self.form = form
        self.budget = Budget(s.price_in, s.price_out, s.max_cost, s.max_tokens_total)
        self.store = VerdictStore(folder)
        self.spent = Spent(self.budget)
        self._left_out: set[str] = set()  # keys of a request that the address does not know

    def ask_all(self, questions: Sequence[str]) -> list[Reply]:
        """Return a reply per question, in order; at most `concurrency` are asked at a time.

        Raises `JudgeError` before anything is sent if there is no key, or if a cap might be broken; later if the
        address refuses every request alike (key, model, credit), if a cap is broken after all, or if not one of the
        questions got an answer. On SIGTERM, requests under way are awaited and kept.
        """
        unique = list(dict.fromkeys(questions))
        kept = {question: reply for question in unique if (reply := self.store.read(self.key(question))) is not None}
        replies = {question: read_reply(reply, self.form) for question, reply in kept.items()}
        self.spent.reuse(len(kept))
        if waiting := [question for question in unique if question not in kept]:
            expected = outlook(self.form.system, unique, waiting, self.settings.max_tokens)
            print(expected.text(self.budget), flush=True)
            check_outlook(expected, self.budget)
            self._asked  # noqa: B018  (without a key or the package, nothing is begun)
            with _exit_on_sigterm():
                replies |= self._by_batch(waiting) if self.settings.batch else self._one_by_one(waiting, len(kept))
        if questions and all(reply.state == "error" for reply in replies.values()):
            reason = replies[questions[0]].detail
            raise JudgeError(f"the judge answered none of {len(questions)} questions; the first: {reason}")
        return [replies[question] for question in questions]

    def _one_by_one(self, waiting: Sequence[str], done: int) -> dict[str, Reply]:
        replies = {}
        pool = ThreadPoolExecutor(max_workers=self.settings.concurrency)
        try:
            futures = {pool.submit(self._ask, question): question for question in waiting}
            for future in progress(as_completed(futures), "judge", total=done + len(waiting), done=done):
                replies[futures[future]] = future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return replies

    def _by_batch(self, waiting: Sequence[str]) -> dict[str, Reply]:
        from rebend.evaluation.judges.batch import MOST, ask_by_batch

        questions = {self.key(question): question for question in waiting}
        replies = dict.fromkeys(waiting, failure("the batch has no answer to it"))

        def keep(key: str, came: Any) -> None:
            question = questions[key]
            if (kept := self.store.read(key)) is not None:  # of a batch that another job waited for, too
                self.spent.reuse(1)
                replies[question] = read_reply(kept, self.form)
            else:
                replies[question] = failure(came) if isinstance(came, str) else self._keep(question, came)

        keys = list(questions)
        for start in range(0, len(keys), MOST):
            bodies = {key: self.body(questions[key]) for key in keys[start : start + MOST]}
            ask_by_batch(self._asked, bodies, self.store.folder / "batches", keep)
        return replies

    def _ask(self, question: str) -> Reply:
        """Return the judge's reply to one question, and keep it; an error is not kept, but asked again next time."""
        with self.store.held(self.key(question)):
            if (kept := self.store.read(self.key(question))) is not None:  # another job asked meanwhile
                self.spent.reuse(1)
                return read_reply(kept, self.form)
            came = self._request(question)
            reply = came if isinstance(came, Reply) else self._keep(question, came)
        self.spent.check()
        return reply

    def _keep(self, question: str, completion: Any) -> Reply:
        """Keep what came back, count it, and read it."""
        reply = kept_reply(completion)
        if reply is None:
            return failure("a reply without a message")
        self.store.write(self.key(question), self.identity(question), reply)
        self.spent.add(reply)
        return read_reply(reply, self.form)

    def _request(self, question: str) -> Any:
        """The completion, or the reply "error"."""
        import openai

        model, body = self.settings.model, self.body(question)
        try:
            return self._asked.chat.completions.create(**body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._request(question) if self._leave_out(body, str(error)) else failure(error)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            # without its cause, whose text may hold the key
            raise JudgeError(f"the judge '{model}' cannot be asked: {without_key(str(error))}") from None
        except openai.OpenAIError as error:
            if getattr(error, "code", None) == "insufficient_quota":
                raise JudgeError(f"the judge '{model}' cannot be asked: {without_key(str(error))}") from None
            return failure(error)
        except ValueError as error:  # a body that is no JSON
            return failure(error)

    def body(self, question: str) -> dict[str, Any]:
        """Return the request for one question."""
        found: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": "system", "content": self.form.system}, {"role": "user", "content": question}],
            "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens": self.settings.max_tokens,
        }
        if self.settings.temperature is not None:
            found["temperature"] = self.settings.temperature
        if self.form.response_format is not None and "response_format" not in self._left_out:
            found["response_format"] = dict(self.form.response_format)
        return found

    def _leave_out(self, body: Mapping[str, Any], complaint: str) -> bool:
        """Learn from a refused request which of its keys the address does not know; True if there is one."""
        named = {name for name in ("response_format", "max_tokens") if name in body and name in complaint}
        if "max_completion_tokens" not in complaint:  # the other name of `max_tokens`
            named.discard("max_tokens")
        for name in sorted(named - self._left_out):
            print(f"judge: the address takes no `{name}`; asked without it", file=sys.stderr, flush=True)
        self._left_out |= named
        return bool(named)

    def identity(self, question: str) -> dict[str, Any]:
        """Return all that a reply depends on. An address from the environment is no part of it: it may be a proxy."""
        return {
            "form": self.form.version,
            "system": hashlib.sha256(self.form.system.encode()).hexdigest(),
            "question": question,
            "model": self.settings.model,
            "base_url": self.settings.base_url,
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }

    def key(self, question: str) -> str:
        """Return the digest that a question's reply is kept under."""
        return digest_of(self.identity(question))

    @cached_property
    def _asked(self) -> Any:
        """The client of the package `openai`, which retries 429, 5xx and lost connections with growing pauses."""
        if not os.environ.get(KEY):
            raise JudgeError(
                f"{KEY} is not set; nothing was sent. Export it (any text for a local server that asks for none), "
                "or use a judge that asks no address"
            )
        try:
            import openai
        except ImportError as error:
            raise JudgeError("a judge at an address needs the package openai: pip install 'rebend[judge]'") from error
        s = self.settings
        return openai.OpenAI(base_url=s.base_url, max_retries=s.retries, timeout=s.timeout)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Inside the block, SIGTERM raises `SystemExit`, so that what is under way can be awaited."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit("stopped by a signal; the replies so far are kept")

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
