"""Client for a judge at an OpenAI-compatible address; it writes each reply to the store on arrival."""

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

from rebend.config.judges import ChatEndpointBlock
from rebend.errors import JudgeError
from rebend.evaluation.judges.costs import Spent, budget_of, estimate_cost
from rebend.evaluation.judges.replies import KEY, Form, Reply, failure, kept_reply, read_reply, without_key
from rebend.evaluation.judges.reply_store import ReplyStore, digest_of
from rebend.io.progress import progress


class JudgeClient:
    """A judge at an address. Replies are stored in `folder`; a stored reply is never requested again."""

    def __init__(self, settings: ChatEndpointBlock, form: Form, folder: str | Path) -> None:
        self.settings = settings
        self.form = form
        self.budget = budget_of(settings)
        self.store = ReplyStore(folder)
        self.spent = Spent(self.budget)
        self._left_out: set[str] = set()  # request keys that the address has rejected

    def ask_all(self, questions: Sequence[str]) -> list[Reply]:
        """Return a reply per question, in order; at most `concurrency` requests run at a time.

        Raises `JudgeError` before the first request if there is no API key or the estimate exceeds a cap; later if the
        address refuses all requests (key, model, credit), if the paid tokens exceed a cap, or if no question was
        answered. On SIGTERM, running requests are completed and their replies are stored.
        """
        unique = list(dict.fromkeys(questions))
        kept = {question: reply for question in unique if (reply := self.store.read(self.key(question))) is not None}
        replies = {question: read_reply(reply, self.form) for question, reply in kept.items()}
        self.spent.reuse(len(kept))
        if waiting := [question for question in unique if question not in kept]:
            expected = estimate_cost(self.form.system, unique, waiting, self.settings.max_tokens)
            print(expected.text(self.budget), flush=True)
            expected.check(self.budget)
            self._openai  # noqa: B018  (raises without a key or the package)
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
        replies = dict.fromkeys(waiting, failure("the batch has no answer to the request"))

        def keep(key: str, result: Any) -> None:
            question = questions[key]
            if (kept := self.store.read(key)) is not None:  # another job waited for the same batch
                self.spent.reuse(1)
                replies[question] = read_reply(kept, self.form)
            else:
                replies[question] = failure(result) if isinstance(result, str) else self._keep(question, result)

        keys = list(questions)
        for start in range(0, len(keys), MOST):
            bodies = {key: self.body(questions[key]) for key in keys[start : start + MOST]}
            ask_by_batch(self._openai, bodies, self.store.folder / "batches", keep)
        return replies

    def _ask(self, question: str) -> Reply:
        """Return and store the judge's reply to one question. Errors are not stored, so the next run asks again."""
        with self.store.held(self.key(question)):
            if (kept := self.store.read(self.key(question))) is not None:  # from another job
                self.spent.reuse(1)
                return read_reply(kept, self.form)
            result = self._request(question)
            reply = result if isinstance(result, Reply) else self._keep(question, result)
        self.spent.check()
        return reply

    def _keep(self, question: str, completion: Any) -> Reply:
        """Write a completion to the store, count its tokens, and parse it."""
        reply = kept_reply(completion)
        if reply is None:
            return failure("a reply without a message")
        self.store.write(self.key(question), self.identity(question), reply)
        self.spent.add(reply.tokens_in, reply.tokens_out)
        return read_reply(reply, self.form)

    def _request(self, question: str) -> Any:
        """Return the completion, or a reply of state "error"."""
        import openai

        model, body = self.settings.model, self.body(question)
        try:
            return self._openai.chat.completions.create(**body)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._request(question) if self._leave_out(body, str(error)) else failure(error)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            # no cause: its text may contain the API key
            raise JudgeError(f"the judge '{model}' cannot be asked: {without_key(str(error))}") from None
        except openai.OpenAIError as error:
            if getattr(error, "code", None) == "insufficient_quota":
                raise JudgeError(f"the judge '{model}' cannot be asked: {without_key(str(error))}") from None
            return failure(error)
        except ValueError as error:  # the body is not JSON
            return failure(error)

    def body(self, question: str) -> dict[str, Any]:
        """Return the request for one question."""
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": "system", "content": self.form.system}, {"role": "user", "content": question}],
            "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens": self.settings.max_tokens,
        }
        if self.settings.temperature is not None:
            body["temperature"] = self.settings.temperature
        if self.form.response_format is not None and "response_format" not in self._left_out:
            body["response_format"] = dict(self.form.response_format)
        return body

    def _leave_out(self, body: Mapping[str, Any], message: str) -> bool:
        """Leave out the keys that the error message rejects in all later requests; return whether there are any."""
        rejected = {name for name in ("response_format", "max_tokens") if name in body and name in message}
        if "max_completion_tokens" not in message:  # the other name of `max_tokens`
            rejected.discard("max_tokens")
        for name in sorted(rejected - self._left_out):
            print(f"judge: the address rejects `{name}`; it is left out", file=sys.stderr, flush=True)
        self._left_out |= rejected
        return bool(rejected)

    def identity(self, question: str) -> dict[str, Any]:
        """Return all values that a reply depends on, without an address from the environment (it may be a proxy)."""
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
        """Return the digest of a question, the name of its reply in the store."""
        return digest_of(self.identity(question))

    @cached_property
    def _openai(self) -> Any:
        """The client of the package `openai`; it retries 429, 5xx and lost connections with growing pauses."""
        if not os.environ.get(KEY):
            raise JudgeError(
                f"{KEY} is not set; nothing was sent. Export it (any text for a local server that needs no key), "
                "or use a judge without an address"
            )
        try:
            import openai
        except ImportError as error:
            raise JudgeError("a judge at an address needs the package openai: pip install 'rebend[judge]'") from error
        settings = self.settings
        return openai.OpenAI(base_url=settings.base_url, max_retries=settings.retries, timeout=settings.timeout)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raise `SystemExit` on SIGTERM inside the block, so that running requests can be completed."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit("stopped by a signal; the replies so far are stored")

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
