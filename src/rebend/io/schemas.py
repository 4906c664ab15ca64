"""The Parquet schemas: one per kind of data set, and one per kind of result.

A prompt is always in the column `messages`: a list of turns, of which the last is the user's. The answer is in another
column; prompt and answer are separated once, when a data set is prepared. `row_id` is a digest of the row's content
(see `rebend.data.datasets`), so that neither the rows' order nor subsampling changes it.
"""

from __future__ import annotations

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PREFERENCE = pa.schema(
    [("row_id", pa.string()), ("messages", MESSAGES), ("chosen", pa.string()), ("rejected", pa.string())]
)
PROMPTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("reference", pa.string()),  # the data set's preferred answer; null if it has none
        ("group", pa.string()),  # tables have one part per group, e.g. "unseen item"; "" without groups
        ("cluster", pa.string()),  # rows of one cluster are not independent (see `rebend.data.clusters`)
    ]
)
CHAT = pa.schema([("row_id", pa.string()), ("messages", MESSAGES)])  # the last turn is the assistant's
SAFETY = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("response", pa.string()),
        ("label", pa.string()),  # "safe" or "unsafe"; describes the response
        ("pair", pa.string()),  # a name that the two answers to one prompt share; null for a single answer
    ]
)
EVALUATION = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("request", pa.string()),  # the plain request inside a jailbreak; null if the prompt is no jailbreak
        ("target", pa.string()),  # beginning of a compliant answer, used by attacks; "" if the data set has none
        ("harmful", pa.bool_()),
        ("reference", pa.string()),
        ("group", pa.string()),  # e.g. "unseen item, jailbreak"
        ("category", pa.string()),
        ("cluster", pa.string()),
    ]
)
KINDS: dict[str, pa.Schema] = {
    "preference": PREFERENCE,
    "prompts": PROMPTS,
    "chat": CHAT,
    "safety": SAFETY,
    "evaluation": EVALUATION,
}

RESPONSES = pa.schema(
    [
        ("row_id", pa.string()),
        ("response", pa.string()),  # begins with the prefill, if any; cut by the response mask
        ("n_tokens", pa.int32()),
        ("finish", pa.string()),  # "eos", "length" or "turn" (the model started a new user turn)
        ("edit_norm", pa.float32()),  # mean norm of the control's edits of hidden states, per token; 0 without edits
    ]
)
COMPLETIONS = pa.schema(  # responses to attacked prompts: a row per prompt and attempt
    [
        *RESPONSES,
        ("attempt", pa.int32()),  # counted from 0
        ("prefill", pa.string()),  # beginning of `response` that the attack supplied
    ]
)
SCORES = pa.schema(
    [
        ("row_id", pa.string()),
        ("score", pa.float64()),  # null if not scored
        ("not_scored", pa.string()),  # the reason; null if scored
    ]
)
ATTEMPT_SCORES = pa.schema([*SCORES, ("attempt", pa.int32())])  # of completions: a row per prompt and attempt
SAFETY_VERDICTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("attempt", pa.int32()),
        ("verdict", pa.string()),  # harmful, harmless, refusal or incoherent; null if not scored
        ("answered", pa.bool_()),  # the response does what the prompt asks (in the tiny world: exactly)
        ("not_scored", pa.string()),
    ]
)
CAPABILITY = pa.schema(  # a row per question
    [
        *SCORES,  # between 0 and 1; a benchmark's score is the mean
        ("category", pa.string()),  # subject (MMLU), task (BBH), category (TruthfulQA); "" without categories
        ("chance", pa.float64()),  # score of an answer chosen at random; null if the answer is written, not chosen
    ]
)
EMBEDDINGS = pa.schema([("row_id", pa.string()), ("embedding", pa.list_(pa.float32()))])  # of a data set's prompts
VERDICTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("verdict", pa.string()),  # win, tie or lose; null if not scored
        ("not_scored", pa.string()),
    ]
)
