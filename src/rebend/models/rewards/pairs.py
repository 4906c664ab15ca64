"""Preference pairs as token ids: cut at their beginning, without pairs that are alike, divided into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rebend.config.rewards import TrainedReward
from rebend.errors import DataError
from rebend.io.prompts import prompts_in
from rebend.models.chat import conversation_text

_MOST = 500  # pairs of a part that is not trained on: enough for an accuracy to two places


class Pair(NamedTuple):
    """Token ids of the chosen and of the rejected conversation, the chosen one's extra tokens, and the prompt.

    `longer_by` is counted before the conversations are cut. Both have the same prompt, so that it is the difference of
    the answers.
    """

    chosen: list[int]
    rejected: list[int]
    longer_by: int
    prompt: str = ""  # its key of `rebend.io.prompts`

    @property
    def length(self) -> int:
        """Tokens of the longer conversation."""
        return max(len(self.chosen), len(self.rejected))


class Parts(NamedTuple):
    """Pairs to train on, pairs that choose the checkpoint, pairs that are reported, and the number left out."""

    train: list[Pair]
    choice: list[Pair]
    held_out: list[Pair]
    alike: int  # pairs whose conversations are equal after cutting, left out of all parts
    unbalanced: int = 0  # pairs left out of those to train on, for `balance_length`


def encode_pairs(tokenizer: Any, rows: Sequence[Mapping[str, Any]], context: int) -> list[Pair]:
    """Return every row of schema PREFERENCE as a pair, each conversation cut to its last `context` tokens."""
    texts = [conversation_text(tokenizer, row["messages"], row[key]) for row in rows for key in ("chosen", "rejected")]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return [
        Pair(chosen[-context:], rejected[-context:], len(chosen) - len(rejected), next(prompts_in(row["messages"])))
        for row, chosen, rejected in zip(rows, ids[::2], ids[1::2], strict=True)
    ]


def divide(
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    held_out_rows: Sequence[Mapping[str, Any]] | None,
    settings: TrainedReward,
    context: int,
) -> Parts:
    """Divide `rows` at random (with the block's seed) into the parts of a training; a prompt is in one part only.

    With `held_out_rows` those are the held-out pairs; otherwise they are drawn from `rows`. Pairs that choose the
    checkpoint are always drawn from `rows`, so that no held-out pair chooses anything. Raises `DataError` for fewer
    than two pairs, for no pair to train on, and for a prompt that is in both data sets.
    """
    pairs, alike = _distinct(encode_pairs(tokenizer, rows, context))
    if len(pairs) < 2:
        raise DataError(
            f"the preference data set holds {len(pairs)} pairs whose two conversations differ in their last {context} "
            f"tokens ({alike} more do not); at least 2 are needed"
        )
    pairs = _by_prompt([pairs[i] for i in np.random.default_rng([settings.seed, 1]).permutation(len(pairs))])
    held_out: list[Pair] = []
    first = 0  # of the pairs that are not held out
    if held_out_rows is None:
        first = _end_of_prompt(pairs, _count(settings.held_out_share, len(pairs)))
        held_out = pairs[:first]
    else:
        _check_apart(rows, held_out_rows)
        held_out, more = _distinct(encode_pairs(tokenizer, held_out_rows, context))
        alike += more
    n_choice = _count(settings.choice_share, len(pairs)) if settings.eval_every else 0
    last = _end_of_prompt(pairs, first + n_choice) if n_choice else first
    choice, train = pairs[first:last], pairs[last:]
    if not train or not held_out:
        raise DataError(
            f"of {len(pairs)} preference pairs, {len(train)} would be left to train on, with {len(choice)} to choose "
            f"the checkpoint and {len(held_out)} held out; each part needs at least one"
        )
    kept = _balanced(train) if settings.balance_length else train
    return Parts(kept, choice, held_out, alike, len(train) - len(kept))


def _balanced(train: Sequence[Pair]) -> list[Pair]:
    """Return the pairs without the last ones of the commoner kind: chosen answer longer, or shorter than the other.

    Raises `DataError` if there are none of one kind.
    """
    rarer = min(sum(pair.longer_by * sign > 0 for pair in train) for sign in (1, -1))
    if not rarer:
        raise DataError(
            "balance_length: in all pairs to train on the longer answer is preferred, or in all the shorter"
        )
    left = {True: rarer, False: rarer}  # the chosen answer is longer → pairs that may still be kept
    kept = []
    for pair in train:
        if pair.longer_by:
            left[pair.longer_by > 0] -= 1
        if not pair.longer_by or left[pair.longer_by > 0] >= 0:
            kept.append(pair)
    return kept


def _by_prompt(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs in their order, those with one prompt behind the first of them."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    return [pair for group in groups.values() for pair in group]


def _end_of_prompt(pairs: Sequence[Pair], count: int) -> int:
    """Return `count`, or more, so that the first pairs of this number share no prompt with the others."""
    while 0 < count < len(pairs) and pairs[count].prompt == pairs[count - 1].prompt:
        count += 1
    return count


def _count(share: float, n_pairs: int) -> int:
    return min(_MOST, max(1, round(share * n_pairs)))


def _distinct(pairs: Sequence[Pair]) -> tuple[list[Pair], int]:
    """Return the pairs whose conversations differ, and the number of the others."""
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    return kept, len(pairs) - len(kept)


def _check_apart(rows: Sequence[Mapping[str, Any]], held_out_rows: Sequence[Mapping[str, Any]]) -> None:
    prompts, others = ({next(prompts_in(row["messages"])) for row in part} for part in (rows, held_out_rows))
    if shared := len(prompts & others):
        raise DataError(
            f"{shared} prompts of the reward model's `held_out` data set are also in its `dataset`: name the first in "
            "the key `without` of the second"
        )
