"""Responses without control, as many at a time as fit: a row that has ended makes room for the next prompt.

Greedy or sampled exactly as `rebend.generation.generate` does it, with the same random numbers per response, so that only
rounding differs. Half of the steps of a fixed batch are spent on rows that have ended; here the batch stays full
until the prompts run out. Keys and values grow in place instead of being copied at every token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rebend.config.decoding import Decoding
from rebend.generation.generate import Request, Response, end_tokens, response_mask
from rebend.generation.sampling import row_seed, samplers, turn_tokens
from rebend.io.memory import give_back
from rebend.models.hooks import before_head
from rebend.models.loading import Policy

_REFILL = 0.875  # new prompts are read when so many of the places, or fewer, are still taken
_ROOM = 64  # tokens that a cache grows by
_POSITIONS = 4096  # of prompts that are read in one pass: many at once take memory and save no time


def can_roll(policy: Policy) -> bool:
    """Whether every layer of the model keeps plain keys and values of all positions."""
    config = policy.model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    plain = not getattr(policy.model, "_is_stateful", False) and not config.is_encoder_decoder
    return plain and kinds == {"full_attention"} and getattr(config, "sliding_window", None) is None


@torch.inference_mode()
def roll(
    policy: Policy, requests: Sequence[Request], decoding: Decoding, *, keep_states: bool = False
) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response) as responses end; up to `decoding.batch_size` are read together.

    Longest prompts first. The order of the yields depends on nothing but requests and settings.
    """
    waiting = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))
    if not waiting:
        return
    reader = _Reader(policy, decoding, keep_states)
    table = reader.read([_Row(i, requests[i]) for i in waiting[: decoding.batch_size]])
    waiting = waiting[decoding.batch_size :]
    while True:
        for row in table.just_ended():
            yield row.number, reader.response(row)
        alive = table.alive()
        if not waiting and not alive:
            return
        if alive > _REFILL * len(table.rows):
            reader.step(table)
        elif not waiting:
            table.shrink()
        else:
            free = len(table.rows) - alive
            new = reader.read([_Row(i, requests[i]) for i in waiting[:free]])
            waiting = waiting[free:]
            table = table.seated(new)


@dataclass
class _Row:
    """A response that is being made."""

    number: int
    request: Request
    tokens: list[int] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    ended: bool = False
    told: bool = False  # its response was handed over


class _Roomy(DynamicLayer):
    """Keys and values [B, heads, T, d] in buffers with room to grow: a token is written, what is there is not copied.

    The newest token's column is the last one in every row; `keys` and `values` are views of the columns in use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.buffers: list[torch.Tensor] = []
        self.first = self.end = 0
        self.keys: Any
        self.values: Any

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Append keys and values [B, heads, T, d]; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states, value_states
        more = key_states.shape[2]
        if not self.buffers or self.buffers[0].shape[2] < self.end + more:
            self._grow(new)
        for buffer, one in zip(self.buffers, new, strict=True):
            buffer[:, :, self.end : self.end + more] = one
        self.end += more
        self._show()
        return self.keys, self.values

    def _grow(self, new: tuple[Any, Any]) -> None:
        held, width = self.buffers, self.end - self.first
        self.buffers = [one.new_empty(*one.shape[:2], width + one.shape[2] + _ROOM, one.shape[3]) for one in new]
        for buffer, old in zip(self.buffers, held, strict=False):
            buffer[:, :, :width] = old[:, :, self.first : self.end]
        self.first, self.end = 0, width

    def _show(self) -> None:
        self.keys, self.values = (buffer[:, :, self.first : self.end] for buffer in self.buffers)

    def drop(self, columns: int) -> None:
        """Leave out so many of the oldest columns."""
        self.first += columns
        self._show()

    def beside(self, others: _Roomy) -> None:
        """Add the rows of `others`, which are no wider, below these; padding goes to the left."""
        shown = zip((self.keys, self.values), (others.keys, others.values), strict=True)
        missing = self.keys.shape[2] - others.keys.shape[2]
        self.buffers = [torch.cat([mine, pad(theirs, (0, 0, missing, 0))]) for mine, theirs in shown]
        self.first, self.end = 0, self.buffers[0].shape[2]
        self._show()

    def keep(self, places: torch.Tensor) -> None:
        """Keep these rows only, in new buffers."""
        self.buffers = [buffer[places, :, self.first : self.end] for buffer in self.buffers]
        self.first, self.end = 0, self.buffers[0].shape[2]
        self._show()

    def seat(self, places: Sequence[int], new: _Roomy) -> None:
        """Write the rows of `new` over these; it is no wider. What stood left of them is masked from now on."""
        width = new.end - new.first
        for buffer, given in zip(self.buffers, (new.keys, new.values), strict=True):
            for place, one in zip(places, given, strict=False):
                buffer[place, :, self.end - width : self.end] = one


@dataclass
class _Table:
    """Rows that are decoded together: their random numbers [B, max_new_tokens], cache and attention mask [B, T]."""

    rows: list[_Row]
    numbers: torch.Tensor
    cache: Any  # of `_Roomy` layers
    mask: torch.Tensor

    def alive(self) -> int:
        """Return how many rows have not ended."""
        return sum(not row.ended for row in self.rows)

    def just_ended(self) -> list[_Row]:
        """Return the rows that ended with their newest token, each once."""
        found = [row for row in self.rows if row.ended and not row.told]
        for row in found:
            row.told = True
        return found

    def shrink(self) -> None:
        """Give up the places of ended rows."""
        kept = [place for place, row in enumerate(self.rows) if not row.ended]
        self._drop(kept)
        places = torch.tensor(kept, device=self.mask.device)
        self.rows, self.numbers, self.mask = [self.rows[i] for i in kept], self.numbers[places], self.mask[places]
        for layer in self.cache.layers:
            layer.keep(places)

    def beside(self, others: _Table) -> _Table:
        """Return the table with the rows of `others`, which are no wider, below its own."""
        missing = self.mask.shape[1] - others.mask.shape[1]
        self.rows = [*self.rows, *others.rows]
        self.numbers = torch.cat([self.numbers, others.numbers])
        self.mask = torch.cat([self.mask, pad(others.mask, (missing, 0))])
        for layer, more in zip(self.cache.layers, others.cache.layers, strict=True):
            layer.beside(more)
        return self

    def seated(self, new: _Table) -> _Table:
        """Return the table with the rows of `new` in places of ended rows.

        Prompts are read longest first, so a row that is alive is at least as wide as they are.
        """
        free = [place for place, row in enumerate(self.rows) if row.ended]
        if len(free) == len(self.rows):
            return new
        self._drop([place for place, row in enumerate(self.rows) if not row.ended])
        for place, row, numbers, mask in zip(free, new.rows, new.numbers, new.mask, strict=False):
            self.rows[place], self.numbers[place] = row, numbers
            self.mask[place] = pad(mask, (self.mask.shape[1] - len(mask), 0))
        for layer, others in zip(self.cache.layers, new.cache.layers, strict=True):
            layer.seat(free, others)
        return self

    def _drop(self, kept: Sequence[int]) -> None:
        """Leave out the oldest columns that are padding in all rows that are kept."""
        columns = int(self.mask[torch.tensor(kept, device=self.mask.device)].any(0).long().argmax())
        self.mask = self.mask[:, columns:]
        for layer in self.cache.layers:
            layer.drop(columns)


class _Reader:
    """Runs the model and chooses tokens."""

    def __init__(self, policy: Policy, decoding: Decoding, keep_states: bool) -> None:
        self.policy, self.decoding, self.keep = policy, decoding, keep_states
        self.ends = set(end_tokens(policy))
        self.turns = turn_tokens(policy.tokenizer, decoding.stop)
        self.window = max((len(word.encode()) for word in decoding.stop), default=0) + 1
        self.warpers = samplers(decoding, [0], 0, policy.device)[:-1]  # without the draw itself

    def read(self, rows: list[_Row]) -> _Table:
        """Read the prompts of new rows, longest first and as many at a time as `_POSITIONS` has room for."""
        size = max(1, _POSITIONS // max(1, len(rows[0].request.prompt_ids)))
        passes = []
        for start in range(0, len(rows), size):
            give_back()  # a pass over prompts takes more than steps do
            passes.append(self._read(rows[start : start + size]))
        return reduce(_Table.beside, passes)

    def _read(self, rows: list[_Row]) -> _Table:
        """Read the prompts of new rows in one pass and choose their first tokens."""
        longest = max(len(row.request.prompt_ids) for row in rows)
        blank = self.policy.tokenizer.pad_token_id
        prompts = [row.request.prompt_ids for row in rows]
        ids = torch.tensor([[blank] * (longest - len(one)) + one for one in prompts], device=self.policy.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=ids.device)
        seeds = [row_seed(self.decoding.seed, row.request.key) for row in rows]
        draws = [
            torch.rand(self.decoding.max_new_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
        cache = DynamicCache(config=self.policy.model.config)
        cache.layers = [_Roomy() for _ in cache.layers]
        table = _Table(rows, 1.0 - torch.stack(draws).to(ids.device), cache, mask)
        self._forward(table, ids)
        return table

    def step(self, table: _Table) -> None:
        """Read the newest token of every row and choose the next."""
        newest = torch.tensor([[row.tokens[-1]] for row in table.rows], device=self.policy.device)
        table.mask = pad(table.mask, (0, 1), value=1)
        self._forward(table, newest)

    def response(self, row: _Row) -> Response:
        """Return what a row that has ended says."""
        n, text, finish = response_mask(self.policy.tokenizer, row.request, row.tokens, self.ends, self.decoding.stop)
        states = torch.stack(row.states[:n]).cpu() if self.keep and n else None
        return Response(text=row.request.prefill + text, token_ids=row.tokens[:n], finish=finish, states=states)

    def _forward(self, table: _Table, ids: torch.Tensor) -> None:
        seen: list[torch.Tensor] = []
        positions = (table.mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        with before_head(self.policy.model, lambda states: seen.append(states)):
            output = self.policy.model(
                input_ids=ids,
                attention_mask=table.mask,
                position_ids=positions,
                past_key_values=table.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        tokens = self._chosen(table, output.logits[:, -1])
        for row, token, state in zip(table.rows, tokens, seen[-1], strict=True):
            if row.ended:
                continue
            row.tokens.append(token)
            if self.keep:
                row.states.append(state)
            row.ended = self._has_ended(row)

    def _chosen(self, table: _Table, logits: torch.Tensor) -> list[int]:
        """Return a token per row from logits [B, V]: the likeliest, or the one that the row's own number falls on."""
        if self.decoding.temperature == 0:
            return logits.argmax(-1).tolist()
        for warp in self.warpers:
            logits = warp(None, logits)
        cumulative = logits.double().softmax(-1).cumsum(-1)
        most = self.decoding.max_new_tokens - 1  # what an ended row would draw is read by nobody
        steps = torch.tensor([min(len(row.tokens), most) for row in table.rows], device=logits.device)
        wanted = table.numbers.gather(1, steps[:, None]) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, wanted).squeeze(1).tolist()

    def _has_ended(self, row: _Row) -> bool:
        token = row.tokens[-1]
        if token in self.ends or token in self.turns or len(row.tokens) == self.decoding.max_new_tokens:
            return True
        if not self.decoding.stop:
            return False
        tail = self.policy.tokenizer.decode(row.tokens[-self.window :], skip_special_tokens=True)
        return any(word in tail for word in self.decoding.stop)
