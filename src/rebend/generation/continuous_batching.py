"""Decode by continuous batching: when responses end, new prompts take their rows.

In a fixed batch half of the row steps can belong to ended responses. Sampling, random numbers, edits of states and
stopping are the same as in `rebend.generation.fixed_batches`, so the responses differ by rounding only. Rows of very
different lengths are decoded in groups (`rebend.generation.grouped_attention`), so that no prompt is padded to a much
longer one. A token search holds a cache of its own and needs fixed batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from math import inf
from typing import Any

import torch

from rebend.config.decoding import Decoding
from rebend.generation.grouped_attention import GroupedCache, in_groups, supports_groups
from rebend.generation.growing_cache import GrowingCache, has_ordinary_cache
from rebend.generation.intervention import Control, NoControl, edited
from rebend.generation.requests import Request, Response, anchor_of, left_padded
from rebend.generation.row_group import Row, RowGroup
from rebend.generation.sampling import row_seed, sample, uniform_numbers, warpers, with_checkpoint
from rebend.generation.stopping import StopTexts, cut_response, end_token, end_tokens
from rebend.io.memory import give_back
from rebend.models.batching import batches_by_length, cuts
from rebend.models.hooks import before_head
from rebend.models.loading import Policy

_REFILL_SHARE = 0.875  # new prompts are read when at most this share of the rows is still alive
_POSITIONS = 4096  # maximum of prompt positions per forward pass: more need memory and save no time
_GROUP_COST = 1024  # positions of padding in a step's attention that take longer than one more group
_ROW_PADDING = 64  # positions of padding of a new row that is placed among longer ones, which copies nothing


def supports_continuous_batching(policy: Policy, control: Control | None = None) -> bool:
    """Return whether every layer of the model has an ordinary cache, and the control acts row by row.

    A token search does not, nor an edit of whole prompts, which in the released code includes the padding.
    """
    control = control or NoControl()
    return has_ordinary_cache(policy.model) and not control.candidates_per_token and not control.whole_prompt


@torch.inference_mode()
def generate_continuous(
    policy: Policy,
    requests: Sequence[Request],
    decoding: Decoding,
    *,
    control: Control | None = None,
    keep_states: bool = False,
) -> Iterator[tuple[int, Response]]:
    """Yield (number of the request, response) as responses end.

    At most `decoding.batch_size` are decoded together, and at most as many as have `decoding.batch_tokens` tokens in
    prompt and longest response. The longest prompts are decoded first. The order of the results depends on requests and
    settings only.
    """
    decoder = _Decoder(policy, requests, decoding, control or NoControl(), keep_states)
    waiting = sorted(range(len(requests)), key=lambda i: -len(requests[i]))
    groups: list[RowGroup] = []
    while True:
        for row in [row for group in groups for row in group.take_ended()]:
            yield row.number, decoder.response(row)
        alive = [row for group in groups for row in group.rows if not row.ended]
        if not waiting and not alive:
            return
        if len(alive) > _REFILL_SHARE * sum(len(group.rows) for group in groups):
            decoder.step(groups)
            continue
        admitted = decoder.admitted(waiting, alive)
        waiting = waiting[len(admitted) :]
        groups = decoder.placed(groups, decoder.start([Row(i, requests[i]) for i in admitted]))


class _Decoder:
    """Runs the model and chooses tokens."""

    def __init__(
        self, policy: Policy, requests: Sequence[Request], decoding: Decoding, control: Control, keep_states: bool
    ) -> None:
        self.policy, self.requests, self.keep_states = policy, requests, keep_states
        self.decoding = decoding = with_checkpoint(decoding, policy.model.generation_config)
        self.ends = set(end_tokens(policy))
        self.texts = StopTexts(policy.tokenizer, decoding.stop)
        self.warpers = warpers(decoding) if decoding.temperature else []
        self.seeds = [row_seed(decoding.seed, request.key) for request in requests]
        self.edit, self.norm_limit = control.begin(self.seeds), control.norm_limit
        grouped = supports_groups(policy.model)
        self.group_cost: float = _GROUP_COST if grouped else inf
        self.row_padding: float = _ROW_PADDING if grouped else inf

    def admitted(self, waiting: Sequence[int], alive: Sequence[Row]) -> Sequence[int]:
        """Return the first of the waiting requests that fit beside the rows that are alive; at least one in all."""
        free, most = self.decoding.batch_size - len(alive), self.decoding.batch_tokens
        if most is None:
            return waiting[:free]
        held = [self._longest(row.number) for row in alive]
        n, padded = 0, self.row_padding == inf  # padded: every row is as long as the longest
        for number in waiting[:free]:
            held.append(self._longest(number))
            if (max(held) * len(held) if padded else sum(held)) > most and len(held) > 1:
                break
            n += 1
        return waiting[:n]

    def _longest(self, number: int) -> int:
        """Return the positions of a request with the longest response."""
        return len(self.requests[number]) + self.decoding.max_new_tokens

    def start(self, rows: list[Row]) -> list[RowGroup]:
        """Read the prompts of new rows, sorted longest first, and choose their first tokens; return their groups."""
        parts = cuts([len(row.request) for row in rows], self.group_cost)
        return [self._started(rows[first:end]) for first, end in parts]

    def _started(self, rows: list[Row]) -> RowGroup:
        """Read the prompts of a group, in passes of at most `_POSITIONS` positions."""
        groups = []
        for batch in batches_by_length([len(row.request) for row in rows], len(rows), _POSITIONS):
            give_back()  # a pass over prompts takes more memory than a step
            groups.append(self._read_prompts([rows[i] for i in batch]))
        return reduce(RowGroup.joined, groups)

    def _read_prompts(self, rows: list[Row]) -> RowGroup:
        """Read the prompts of new rows in one pass and choose their first tokens."""
        prompts = left_padded(self.policy, [row.request for row in rows])
        seeds = [self.seeds[row.number] for row in rows]
        numbers = uniform_numbers(seeds, self.decoding.max_new_tokens, self.policy.device)
        group = RowGroup(rows, numbers, GrowingCache(self.policy.model.config), prompts["attention_mask"])
        self._pass([group], prompts["input_ids"], group.positions(), group.mask, group.cache)
        return group

    def placed(self, groups: Sequence[RowGroup], new: Sequence[RowGroup]) -> list[RowGroup]:
        """Return the groups without their ended rows, and the new ones; those of similar width are joined.

        The longest prompts are read first, so an alive row has at least as many columns as a new one.
        """
        groups = [group for group in groups if group.n_alive()]
        if len(groups) == len(new) == 1 and groups[0].can_take(new[0], self.row_padding):
            return [groups[0].refilled(new[0])]
        for group in groups:
            group.shrink()
        ordered = sorted([*groups, *new], key=lambda group: -group.width)
        placed = ordered[:1]
        for group in ordered[1:]:
            if len(group.rows) * (placed[-1].width - group.width) <= self.group_cost:
                placed[-1] = placed[-1].joined(group)
            else:
                placed.append(group)
        return placed

    def step(self, groups: Sequence[RowGroup]) -> None:
        """Read the newest token of every row and choose the next one."""
        newest = torch.tensor([[row.tokens[-1]] for group in groups for row in group.rows], device=self.policy.device)
        for group in groups:
            group.add_column()
        positions = torch.cat([group.positions()[:, -1:] for group in groups])
        if len(groups) == 1:
            self._pass(groups, newest, positions, groups[0].mask, groups[0].cache)
            return
        cache = GroupedCache(self.policy.model.config, [g.cache for g in groups], [g.mask for g in groups])
        unused = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.policy.device)  # the cache has the masks
        with in_groups(self.policy.model):
            self._pass(groups, newest, positions, unused, cache)

    def response(self, row: Row) -> Response:
        """Return the response of an ended row."""
        request, tokenizer = row.request, self.policy.tokenizer
        n, text, finish = cut_response(tokenizer, anchor_of(request), row.tokens, self.ends, self.decoding.stop)
        return Response(
            text=request.prefill + text,
            token_ids=row.tokens[:n],
            finish=finish,
            edit_norm=float(torch.tensor(row.edit_norms[:n]).mean()) if row.edit_norms and n else 0.0,
            n_clipped=sum(row.clipped[:n]),
            end_token=end_token(tokenizer, row.tokens, n, finish, self.ends, self.decoding.stop),
            states=torch.stack(row.states[: n + 1]).cpu() if self.keep_states else None,
        )

    def _pass(
        self, groups: Sequence[RowGroup], ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Any
    ) -> None:
        """Run the model on token ids [B, T] of the groups' rows, and append each row's next token to it."""
        rows = [row for group in groups for row in group.rows]
        with before_head(self.policy.model, lambda states: self._act(rows, states)):
            output = self.policy.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        numbers = torch.cat([group.numbers for group in groups]) if len(groups) > 1 else groups[0].numbers
        for row, token in zip(rows, self._choose(rows, numbers, output.logits[:, -1]), strict=True):
            if not row.ended:
                row.tokens.append(token)
                row.ended = self._has_ended(row)

    def _act(self, rows: Sequence[Row], states: torch.Tensor) -> torch.Tensor | None:
        """Store the states [B, D] of the rows and return the edited ones; None without an edit.

        Ended rows are not edited, to save time; on a GPU a fixed shape saves more.
        """
        if self.keep_states:
            for row, state in zip(rows, states, strict=True):
                if not row.ended:
                    row.states.append(state)
        if self.edit is None:
            return None
        chosen = [i for i, row in enumerate(rows) if not row.ended or states.device.type != "cpu"]
        index = torch.tensor(chosen, device=states.device)
        numbers = torch.tensor([rows[i].number for i in chosen], device=states.device)
        whole = len(chosen) == len(rows)
        after, norms, clipped = edited(self.edit, states if whole else states[index], numbers, self.norm_limit)
        for i, norm, is_clipped in zip(chosen, norms.tolist(), clipped.tolist(), strict=True):
            rows[i].edit_norms.append(norm)
            rows[i].clipped.append(is_clipped)
        return after if whole else states.index_copy(0, index, after)

    def _choose(self, rows: Sequence[Row], numbers: torch.Tensor, logits: torch.Tensor) -> list[int]:
        """Return one token per row from logits [B, V]."""
        if self.decoding.temperature == 0:
            return logits.argmax(-1).tolist()
        for warp in self.warpers:
            logits = warp(None, logits)
        last = self.decoding.max_new_tokens - 1  # an ended row's token is never used
        steps = torch.tensor([min(len(row.tokens), last) for row in rows], device=logits.device)
        return sample(logits, numbers.gather(1, steps[:, None])).squeeze(1).tolist()

    def _has_ended(self, row: Row) -> bool:
        token = row.tokens[-1]
        if token in self.ends or token in self.texts.turns or len(row.tokens) == self.decoding.max_new_tokens:
            return True
        return self.texts.may_complete(token) and self.texts.in_tails([row.tokens[-self.texts.window :]])[0]
