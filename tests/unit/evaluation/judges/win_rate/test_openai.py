"""The judge openai with a tiny language model behind a real server: replies, counts of tokens, states."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rebend.evaluation.judges.win_rate.judge import judge_wins
from rebend.evaluation.judges.win_rate.statistics import win_rates
from tests.helpers.judge_server import Judge, judges_on_call
from tests.helpers.judged_rows import block, rows
from tests.helpers.small_policy import make_policy

CONTEXT = 60  # tokens at the end of a request that the model reads
REPLY = "7 4\nwhy"


class Model:
    """A model that is trained to reply `REPLY` to every request."""

    def __init__(self) -> None:
        policy = make_policy(seed=1)
        self.model, self.tokenizer, self.lock = policy.model, policy.tokenizer, threading.Lock()
        self.counts: list[tuple[int, int]] = []
        self._learn()

    def encoded(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"][-CONTEXT:]

    def _learn(self) -> None:
        torch.manual_seed(0)
        end = [self.tokenizer.eos_token_id]
        answer = self.tokenizer(REPLY, add_special_tokens=False)["input_ids"] + end
        requests = [self.encoded(f"{'answer ' * i}[End of answer 2]\n\nYour judgement:") for i in range(1, 9)]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-3)
        for step in range(120):
            ids = torch.tensor([requests[step % len(requests)] + answer])
            labels = ids.clone()
            labels[:, : -len(answer)] = -100
            loss = self.model.train()(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        self.model.eval()

    def answer(self, text: str, times: int) -> tuple[int, bytes, dict[str, str]]:
        with self.lock, torch.no_grad():
            ids = torch.tensor([self.encoded(text)])
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16
            )[0, ids.shape[1] :]
            self.counts.append((ids.shape[1], len(out)))
        text = self.tokenizer.decode(out, skip_special_tokens=True)
        finish = "stop" if out[-1] == self.tokenizer.eos_token_id else "length"
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(out), "total_tokens": ids.shape[1] + len(out)}
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny",
            "choices": [choice],
            "usage": usage,
        }
        return 200, json.dumps(body).encode(), {}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Model, Judge]]:
    model = Model()
    with judges_on_call(monkeypatch) as start:
        yield model, start(model.answer)


def test_replies_of_a_model_are_parsed_stored_and_counted(served: tuple[Model, Judge], tmp_path: Path) -> None:
    model, server = served
    todo = rows(("a kettle", "a jar"), ("jar", "two boats"), ("soft", "late"))
    table, spent = judge_wins(block(server), todo, tmp_path)
    for line in table.to_pylist():
        assert line["replies"] == [REPLY, REPLY] and line["response_marks"] == [7.0, 4.0]
    rates = win_rates(table)
    assert rates.states["tie"] == rates.ties_of_orders == 3  # the model prefers the first answer
    assert rates.flip_rate.estimate == 1.0 and rates.win_rate.estimate == 0.0
    assert (spent.tokens_in, spent.tokens_out) == tuple(map(sum, zip(*model.counts, strict=True)))
    again, spent = judge_wins(block(server), todo, tmp_path)
    assert again.equals(table) and spent.asked == 0 and set(server.requested.values()) == {1}


def test_replies_of_an_untrained_model_are_unreadable(served: tuple[Model, Judge], tmp_path: Path) -> None:
    model, server = served
    model.model = make_policy(seed=2).model
    table, _ = judge_wins(block(server), rows(("a kettle", "a jar"), ("jar", "boats")), tmp_path)
    assert table["state"].to_pylist() == ["unreadable"] * 2 and table["verdict"].null_count == 2
    assert all(table["replies"].to_pylist()[0])
