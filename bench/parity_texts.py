"""RE-Control's texts: prompts, their token ids, and what reward models read, on real rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parity_ours_texts as ours
from parity_code import Released
from parity_item import Sides, items
from parity_models import lines, tokenizer

# data set of the released code, its file, model of the released code, our data set, our model block, BOS
# (ours: the blocks of `variant: released_code`)
CASES: list[tuple[str, str, str, str, str, bool]] = [
    ("shp", "shp/test.jsonl", "vicuna_7B", "paper_shp_test_released", "vicuna_7b_released", True),
    ("shp", "shp/test.jsonl", "llama3_8B", "paper_shp_test_released_user", "llama3_8b_released", True),
    ("hh_rlhf", "hh_rlhf/test.jsonl.gz", "vicuna_7B", "paper_hh_test_released", "vicuna_7b_released", True),
    ("hh_rlhf", "hh_rlhf/test.jsonl.gz", "falcon_7B", "paper_hh_test_released_user", "falcon_7b_released", False),
]
REWARDS = {"shp": "ultrarm_13b_released", "hh_rlhf": "llama_7b_rm_released"}
CONTROLS = {"llama3_8B": "none_128_user_released"}  # the others: none_128_released, as in the paper's study
COLLECT, DECODE, MEASURE = "get_activations_only.py", "inference_intervention.py", "measure_reward.py"


@cache
def kept_rows(path: Path, dataset: str) -> list[tuple[dict[str, Any], Any]]:
    """Return the rows of a file that our reader keeps, each with its prompt as messages."""
    read = [(row, ours.messages_of(dataset, row)) for row in lines(path)]
    return [(row, messages) for row, messages in read if messages is not None]


def begin_word(released: Released, model: str) -> str:
    """Return the word before the user's text that the released code chooses for a model."""
    given = {"args": SimpleNamespace(model_name=model)}
    return str(
        released.run(DECODE, "if args.model_name == 'vicuna_7B'", "prompting = ", given, whole=False)["begin_word"]
    )


@cache
def preparation(released: Released, dataset: str, model: str) -> Any:
    """Return the function of the released decoder that makes a prompt of a row."""
    word = begin_word(released, model)
    given = {"args": SimpleNamespace(dataset_name=dataset, model_name=model), "begin_word": word}
    return released.take(DECODE, ["preprocessing"], given).preprocessing


def pairs(sides: Sides, case: Sequence[Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield the released prompt, our messages and the row, for each row that our reader keeps."""
    dataset, file, model, ours_dataset = case[:4]
    for row, messages in kept_rows(sides.data / file, ours_dataset):
        told = {"prompt": row.get("chosen"), "history": row.get("history")}
        yield str(preparation(sides.released, dataset, model)(told)["prompt"]), messages, row


@items(
    "recontrol",
    CASES,
    "Prompt text, {0}, {2}",
    0.0,
)
def prompt_texts(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """The text that is decoded from."""
    found = list(pairs(sides, case))
    pieces = tokenizer(2, case[5])
    return [text for text, _, _ in found], [ours.prompt_of(pieces, case[4], m).removeprefix("<s>") for _, m, _ in found]


@items(
    "recontrol",
    CASES,
    "Prompt token ids, {0}, {2} (begin-of-sequence token: {5})",
    0.0,
)
def prompt_ids(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """The released collection encodes the prompt with the tokenizer's special tokens."""
    dataset, model = case[0], case[2]
    pieces = tokenizer(2, case[5])
    given = {"args": SimpleNamespace(dataset_name=dataset, model_name=model), "tokenizer": pieces}
    given["begin_word"] = begin_word(sides.released, model)
    encode = sides.released.take(COLLECT, ["tokenize"], given).tokenize
    found = list(pairs(sides, case))
    released = [
        encode({"prompt": row.get("chosen"), "history": row.get("history")})["input_ids"] for _, _, row in found
    ]
    return released, [ours.prompt_ids(pieces, case[4], messages) for _, messages, _ in found]


ANSWERS = (" Yes, of course.", " No.\n\nThere is a reason: it is late.", " One.\nHuman: and then?", " Two.\nUser: why?")


@items(
    "recontrol",
    CASES,
    "Text that the reward is measured on, {0}, {2}",
    0.0,
)
def measured_texts(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """Prompt and generated text of the evaluation."""
    dataset, model = case[0], case[2]
    given = {"args": SimpleNamespace(dataset_name=dataset, model_name=model), "re": re}
    extract = sides.released.take(MEASURE, ["data_process", "extract_out"], given).extract_out
    released, found = [], []
    for number, (prompt, messages, _) in enumerate(pairs(sides, case)):
        answer = ANSWERS[number % len(ANSWERS)]
        released.append(extract({"prompt": prompt, "response": prompt + answer}))
        found.append(ours.measured_text(REWARDS[dataset], CONTROLS.get(model, "none_128_released"), messages, answer))
    return released, found


@items(
    "recontrol",
    CASES,
    "Text that a training response's reward is read from, {0}, {2}",
    0.0,
)
def label_texts(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """Prompt and generated text of value training."""
    collate = sides.released.take("reward_label.py", ["data_collactor"], {}).data_collactor
    released, found = [], []
    for prompt, messages, _ in pairs(sides, case):
        released.append(collate([{"response": prompt + ANSWERS[0]}])[0])
        found.append(ours.reward_text(f"{REWARDS[case[0]]}_labels", messages, ANSWERS[0]))
    return released, found


@items(
    "recontrol",
    [case for case in CASES if case[2] == "vicuna_7B" and case[0] == "hh_rlhf"],
    "Reward text of a dialogue of several turns, hh_rlhf: the data set's own",
    0.0,
)
def whole_dialogues(sides: Sides, *case: Any) -> tuple[Any, Any]:
    """Not the released code's: the chosen dialogue as it is in the file, which reward models were trained on."""
    rows = [(row, m) for row, m in kept_rows(sides.data / case[1], "paper_hh_test") if len(m) > 1]
    answers = [row["chosen"].rpartition("\n\nAssistant:")[2] for row, _ in rows]
    found = [ours.reward_text("llama_7b_rm", m, answer) for (_, m), answer in zip(rows, answers, strict=True)]
    return [row["chosen"] for row, _ in rows], found
