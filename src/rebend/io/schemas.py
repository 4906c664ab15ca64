"""The one Parquet schema of each kind of data set, and of what is made from them.

A prompt is always `messages`: a list of turns that ends with the user's. Answers are never inside it:
prompt and answer are separated once, when a data set is prepared. `row_id` is stable: it is made from
the content (see `rebend.data.datasets`), so that order and subsampling do not change it.
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
        ("reference", pa.string()),  # the data set's preferred answer; null where it has none
        ("group", pa.string()),  # what tables are broken down by, e.g. "unseen item"; "" where there is none
    ]
)
CHAT = pa.schema([("row_id", pa.string()), ("messages", MESSAGES)])  # ends with the assistant's turn
SAFETY = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("response", pa.string()),
        ("label", pa.string()),  # "safe" or "unsafe": of the response
        ("pair", pa.string()),  # the two answers to one prompt share it; null for a single sample
    ]
)
EVALUATION = pa.schema(
    [
        ("row_id", pa.string()),
        ("messages", MESSAGES),
        ("request", pa.string()),  # what the prompt asks for underneath a jailbreak; null where it says so itself
        ("target", pa.string()),  # beginning of a compliant answer, which attacks aim at; "" where the data has none
        ("harmful", pa.bool_()),
        ("reference", pa.string()),
        ("group", pa.string()),  # e.g. "unseen item, jailbreak"
        ("category", pa.string()),
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
        ("response", pa.string()),  # with the prefill, if any, in front; cut by the response mask
        ("n_tokens", pa.int32()),
        ("finish", pa.string()),  # "eos", "length" or "turn" (the model began a new user turn)
        ("edit_norm", pa.float32()),  # mean norm of the control's edit per token; 0 without an edit
    ]
)
COMPLETIONS = pa.schema(  # of attacked prompts: a row per prompt and attempt
    [
        *RESPONSES,
        ("attempt", pa.int32()),  # from 0
        ("prefill", pa.string()),  # what the attack put into the model's mouth; it begins `response`
    ]
)
SCORES = pa.schema(
    [
        ("row_id", pa.string()),
        ("score", pa.float64()),  # null where not scored
        ("not_scored", pa.string()),  # the reason; null where scored
    ]
)
SAFETY_VERDICTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("attempt", pa.int32()),
        ("verdict", pa.string()),  # harmful, harmless, refusal or incoherent; null where not scored
        ("answered", pa.bool_()),  # the response does what the prompt asked (in the tiny world: exactly)
        ("not_scored", pa.string()),
    ]
)
CAPABILITY = pa.schema(  # a row per question
    [
        *SCORES,  # between 0 and 1; a benchmark's score is the mean
        ("category", pa.string()),  # subject (MMLU), task (BBH), category (TruthfulQA); "" where there is none
    ]
)
EMBEDDINGS = pa.schema([("row_id", pa.string()), ("embedding", pa.list_(pa.float32()))])  # of a data set's prompts
VERDICTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("verdict", pa.string()),  # win, tie or lose; null where not scored
        ("not_scored", pa.string()),
    ]
)
