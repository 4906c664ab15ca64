"""Decode without control by continuous batching: when responses end, new prompts take their rows.

In a fixed batch half of the row steps can belong to ended responses. Sampling, random numbers and stopping are the same
as in `rebend.generation.generate`, so the responses differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch.nn.functional import pad

from rebend.config.decoding import Decoding
from rebend.generation.generate import Request, Response, anchor_of, left_padded
from rebend.generation.growing_cache import GrowingCache
from rebend.generation.sampling import row_seed, sample, uniform_numbers, warpers, with_checkpoint
from rebend.generation.stopping import StopTexts, cut_response, end_token, end_tokens
from rebend.io.memory import give_back
from rebend.models.hooks import before_head
from rebend.models.loading import Policy

_REFILL_SHARE = 0.875  # new prompts are read when at most this share of the rows is still alive
_POSITIONS = 4096  # maximum of prompt positions per forward pass: more need memory and save no time


def supports_continuous_batching(policy: Policy) -> bool:
    """Return whether every layer of the model has an ordinary cache of all positions."""
    config = policy.model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    ordinary = not getattr(policy.model, "_is_stateful", False) and not config.is_encoder_decoder
    return ordinary and kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None


@torch.inference_mode()
def generate_continuous(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, *, keep_states: bool = False
) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response) as responses end; at most `decoding.batch_size` are decoded together.

    The longest prompts are decoded first. The order of the results depends on requests and settings only.
    """
    waiting = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
    if not waiting:
        return
    decoder = _Decoder(policy, decoding, keep_states)
    batch = decoder.start([_Row(i, requests[i]) for i in waiting[: decoding.batch_size]])
    waiting = waiting[decoding.batch_size :]
    while True:
        for row in batch.take_ended():
            yield row.number, decoder.response(row)
        n_alive = batch.n_alive()
        if not waiting and not n_alive:
            return
        if n_alive > _REFILL_SHARE * len(batch.rows):
            decoder.step(batch)
        elif not waiting:
            batch.shrink()
        else:
            free = len(batch.rows) - n_alive
            new = decoder.start([_Row(i, requests[i]) for i in waiting[:free]])
            waiting = waiting[free:]
            batch = batch.refilled(new)


@dataclass
class _Row:
    """An unfinished response."""

    number: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    ended: bool = False
    yielded: bool = False


@dataclass
class ActiveBatch:
    """Rows that are decoded together."""

    rows: list[_Row]
    numbers: torch.Tensor  # [B, max_new_tokens], random numbers of each row
    cache: GrowingCache
    mask: torch.Tensor  # attention mask [B, T]

    def n_alive(self) -> int:
        """Return the number of rows that have not ended."""
        return sum(not row.ended for row in self.rows)

    def take_ended(self) -> list[_Row]:
        """Return the rows that have ended since the last call."""
        ended = [row for row in self.rows if row.ended and not row.yielded]
        for row in ended:
            row.yielded = True
        return ended

    def shrink(self) -> None:
        """Remove the ended rows."""
        alive = [i for i, row in enumerate(self.rows) if not row.ended]
        self._drop_padding(alive)
        index = torch.tensor(alive, device=self.mask.device)
        self.rows, self.numbers, self.mask = [self.rows[i] for i in alive], self.numbers[index], self.mask[index]
        for layer in self.cache.layers:
            layer.keep_rows(index)

    def joined(self, others: ActiveBatch) -> ActiveBatch:
        """Return this batch with the rows of `others`, which has at most as many columns, appended."""
        missing = self.mask.shape[1] - others.mask.shape[1]
        self.rows = [*self.rows, *others.rows]
        self.numbers = torch.cat([self.numbers, others.numbers])
        self.mask = torch.cat([self.mask, pad(others.mask, (missing, 0))])
        for layer, more in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.append_rows(more)
        return self

    def refilled(self, new: ActiveBatch) -> ActiveBatch:
        """Return this batch with the rows of `new` in place of ended rows.

        The longest prompts are read first, so an alive row has at least as many columns as a new one.
        """
        free = [i for i, row in enumerate(self.rows) if row.ended]
        if len(free) == len(self.rows):
            return new
        self._drop_padding([i for i, row in enumerate(self.rows) if not row.ended])
        for i, row, numbers, mask in zip(free, new.rows, new.numbers, new.mask, strict=False):
            self.rows[i], self.numbers[i] = row, numbers
            self.mask[i] = pad(mask, (self.mask.shape[1] - len(mask), 0))
        for layer, new_layer in zip(self.cache.layers, new.cache.layers, strict=True):
            layer.replace_rows(free, new_layer)
        return self

    def _drop_padding(self, alive: Sequence[int]) -> None:
        """Remove the oldest columns that are padding in all rows of `alive`."""
        columns = int(self.mask[torch.tensor(alive, device=self.mask.device)].any(0).long().argmax())
        self.mask = self.mask[:, columns:]
        for layer in self.cache.layers:
            layer.drop(columns)


class _Decoder:
    """Runs the model and chooses tokens."""

    def __init__(self, policy: Policy, decoding: Decoding, keep_states: bool) -> None:
        self.policy, self.keep_states = policy, keep_states
        self.decoding = decoding = with_checkpoint(decoding, policy.model.generation_config)
        self.ends = set(end_tokens(policy))
        self.texts = StopTexts(policy.tokenizer, decoding.stop)
        self.warpers = warpers(decoding) if decoding.temperature else []

    def start(self, rows: list[_Row]) -> ActiveBatch:
        """Read the prompts of new rows, sorted longest first, in passes of at most `_POSITIONS` positions."""
        size = max(1, _POSITIONS // max(1, len(rows[0].request.prompt_ids)))
        batches = []
        for first in range(0, len(rows), size):
            give_back()  # a pass over prompts takes more memory than a step
            batches.append(self._read_prompts(rows[first : first + size]))
        return reduce(ActiveBatch.joined, batches)

    def _read_prompts(self, rows: list[_Row]) -> ActiveBatch:
        """Read the prompts of new rows in one pass and choose their first tokens."""
        prompts = left_padded(self.policy, [row.request for row in rows])
        seeds = [row_seed(self.decoding.seed, row.request.key) for row in rows]
        numbers = uniform_numbers(seeds, self.decoding.max_new_tokens, self.policy.device)
        batch = ActiveBatch(rows, numbers, GrowingCache(self.policy.model.config), prompts["attention_mask"])
        self._forward(batch, prompts["input_ids"])
        return batch

    def step(self, batch: ActiveBatch) -> None:
        """Read the newest token of every row and choose the next one."""
        newest = torch.tensor([[row.tokens[-1]] for row in batch.rows], device=self.policy.device)
        batch.mask = pad(batch.mask, (0, 1), value=1)
        self._forward(batch, newest)

    def response(self, row: _Row) -> Response:
        """Return the response of an ended row."""
        request, tokenizer = row.request, self.policy.tokenizer
        n, text, finish = cut_response(tokenizer, anchor_of(request), row.tokens, self.ends, self.decoding.stop)
        states = torch.stack(row.states[: n + 1]).cpu() if self.keep_states else None
        end = end_token(tokenizer, row.tokens, n, finish, self.ends, self.decoding.stop)
        return Response(request.prefill + text, row.tokens[:n], finish, end_token=end, states=states)

    def _forward(self, batch: ActiveBatch, ids: torch.Tensor) -> None:
        newest: list[torch.Tensor] = []
        positions = (batch.mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with before_head(self.policy.model, lambda states: newest.append(states)):
            output = self.policy.model(
                input_ids=ids,
                attention_mask=batch.mask,
                position_ids=positions,
                past_key_values=batch.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        tokens = self._choose(batch, output.logits[:, -1])
        for row, token, state in zip(batch.rows, tokens, newest[-1], strict=True):
            if row.ended:
                continue
            row.tokens.append(token)
            if self.keep_states:
                row.states.append(state)
            row.ended = self._has_ended(row)

    def _choose(self, batch: ActiveBatch, logits: torch.Tensor) -> list[int]:
        """Return one token per row from logits [B, V]."""
        if self.decoding.temperature == 0:
            return logits.argmax(-1).tolist()
        for warp in self.warpers:
            logits = warp(None, logits)
        last = self.decoding.max_new_tokens - 1  # an ended row's token is never used
        steps = torch.tensor([min(len(row.tokens), last) for row in batch.rows], device=logits.device)
        return sample(logits, batch.numbers.gather(1, steps[:, None])).squeeze(1).tolist()

    def _has_ended(self, row: _Row) -> bool:
        token = row.tokens[-1]
        if token in self.ends or token in self.texts.turns or len(row.tokens) == self.decoding.max_new_tokens:
            return True
        return self.texts.may_complete(token) and self.texts.in_tails([row.tokens[-self.texts.window :]])[0]
