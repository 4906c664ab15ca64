"""Client for a judge at an OpenAI-compatible address; it writes each reply to the store on arrival."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
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
from rebend.evaluation.judges.replies import KEY, Form, Rejected, Reply, failure, kept_reply, read_reply, without_key
from rebend.evaluation.judges.reply_store import KeptReply, ReplyStore, digest_of
from rebend.io.address_errors import BUSY, FirstReplies, concerns_one_text, own_reason, shortened
from rebend.io.progress import progress

_STOPPED = (401, 402, 403, 404)  # status codes of a missing key, credit, permission or model: no request will succeed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds between repeated requests, as the package openai has them


class JudgeClient:
    """A judge at an address. Replies are stored in `folder`; a stored reply is never requested again."""

    def __init__(self, settings: ChatEndpointBlock, form: Form, folder: str | Path) -> None:
        self.settings = settings
        self.form = form
        self.budget = budget_of(settings)
        self.store = ReplyStore(folder)
        self.spent = Spent(self.budget)
        self._first = FirstReplies(f"judge '{settings.model}'")
        self._left_out: set[str] = set()  # request keys that the address has rejected

    def ask_all(self, questions: Sequence[str]) -> list[Reply]:
        """Return a reply per question, in order; at most `concurrency` requests run at a time.

        Raises `JudgeError` before the first request if there is no API key or the estimate exceeds a cap; later if the
        address refuses all requests (key, model, credit), if the paid tokens exceed a cap, or if no question was
        answered. On SIGTERM, running requests are completed and their replies are stored.
        """
        unique = list(dict.fromkeys(questions))
        kept = {question: reply for question in unique if (reply := self._stored(question)) is not None}
        replies = dict(kept)
        self.spent.reuse(len(kept))
        if waiting := [question for question in unique if question not in kept]:
            expected = estimate_cost(self.form.system, unique, waiting, self.settings.max_tokens)
            print(expected.text(self.budget), flush=True)
            expected.check(self.budget)
            self._openai  # noqa: B018  (raises without a key or the package)
            with _exit_on_sigterm():
                replies |= self._by_batch(waiting) if self.settings.batch else self._one_by_one(waiting, len(kept))
            self._first.end()
        if questions and all(reply.state in ("error", "too_long") for reply in replies.values()):
            reason = replies[questions[0]].detail
            raise JudgeError(f"the judge answered none of {len(questions)} questions; the first: {reason}")
        return [replies[question] for question in questions]

    def _one_by_one(self, waiting: Sequence[str], done: int) -> dict[str, Reply]:
        replies = {}
        pool = ThreadPoolExecutor(max_workers=self.settings.concurrency)
        try:
            futures = {pool.submit(self._ask, question): question for question in waiting}
            for future in progress(as_completed(futures), "judge", total=done + len(waiting), done=done):
                replies[futures[future]] = self._watched(future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return replies

    def _by_batch(self, waiting: Sequence[str]) -> dict[str, Reply]:
        from rebend.evaluation.judges.batch import MOST, ask_by_batch

        questions = {self.key(question): question for question in waiting}
        replies = dict.fromkeys(waiting, failure("the batch has no answer to the request"))

        def keep(key: str, result: Any) -> None:
            question = questions[key]
            if (kept := self._stored(question)) is not None:  # another job waited for the same batch
                self.spent.reuse(1)
                replies[question] = kept
            else:
                replies[question] = self._watched(self._keep(question, result))

        keys = list(questions)
        for start in range(0, len(keys), MOST):
            bodies = {key: self.body(questions[key]) for key in keys[start : start + MOST]}
            ask_by_batch(self._openai, bodies, self.store.folder / "batches", keep)
        return replies

    def _ask(self, question: str) -> Reply:
        """Return and store the judge's reply to one question. Errors are not stored, so the next run asks again."""
        with self.store.held(self.key(question)):
            if (kept := self._stored(question)) is not None:  # from another job
                self.spent.reuse(1)
                return kept
            reply = self._keep(question, self._request(question))
        self.spent.check()
        return reply

    def _stored(self, question: str) -> Reply | None:
        """Return the parsed reply in the store; None without one, and for one whose cause may have passed."""
        kept = self.store.read(self.key(question))
        reply = None if kept is None else read_reply(kept, self.form)
        return None if reply is None or reply.state == "error" else reply

    def _keep(self, question: str, result: Any) -> Reply:
        """Parse the result of a request, count its tokens, and write it to the store unless its cause may pass."""
        kept = result if isinstance(result, Rejected) else kept_reply(result)
        if isinstance(kept, Rejected):
            if kept.state != "refused":
                self.spent.lose(kept.tokens_in, kept.tokens_out)
                return Reply(kept.state, None, None, shortened(without_key(kept.reason)))
            kept = KeptReply("", "content_filter", without_key(kept.reason), None, None, None)
        reply = read_reply(kept, self.form)
        if reply.state != "error":
            self.store.write(self.key(question), self.identity(question), kept)
        self.spent.add(kept.tokens_in, kept.tokens_out)
        return reply

    def _watched(self, reply: Reply) -> Reply:
        """Count a reply among the first of this run, which cause a warning if none of them has marks."""
        self._first.add(reply.marks is not None, f"{reply.state}: {reply.detail}; {shortened(reply.text or '')!r}")
        return reply

    def _request(self, question: str) -> Any:
        """Return the completion, or `Rejected`; a busy address is asked again, also if it says so in a status 200."""
        for attempt in range(self.settings.retries + 1):
            result = self._send(question)
            code, reason = _stated_by(result)
            if code in _STOPPED:
                raise self._cannot_be_asked(reason)
            if code not in BUSY or attempt == self.settings.retries:
                return result
            time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))
        raise AssertionError("unreachable")

    def _send(self, question: str) -> Any:
        import openai

        body = self.body(question)
        try:
            return self._openai.chat.completions.create(**body)
        except openai.APIStatusError as error:
            code, reason = own_reason(error.body)
            reason = f"{type(error).__name__}: status {error.status_code}: {reason or error}"
            if state := concerns_one_text(error.status_code, f"{error.body}"):
                return Rejected(error.status_code, reason, code, state)
            if error.status_code in (400, 422) and self._leave_out(body, f"{error.body}"):
                return self._send(question)
            if error.status_code in _STOPPED or error.code == "insufficient_quota":
                # no cause: its text may contain the API key
                raise self._cannot_be_asked(reason) from None
            return Rejected(error.status_code, reason, code)
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is not JSON
            return Rejected(None, f"{type(error).__name__}: {error}")

    def _cannot_be_asked(self, reason: str) -> JudgeError:
        return JudgeError(f"the judge '{self.settings.model}' cannot be asked: {shortened(without_key(reason))}")

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


def _stated_by(result: Any) -> tuple[int | None, str]:
    """Return the status code and the reason that a reply of status 200 without a choice states; None without them."""
    kept = None if isinstance(result, Rejected) or getattr(result, "choices", None) else kept_reply(result)
    return (int(kept.code), kept.reason) if isinstance(kept, Rejected) and kept.code.isdecimal() else (None, "")
