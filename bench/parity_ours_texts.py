"""What the parity page runs of rebend, part 2: texts, scores, judges and attacks, with the catalogue's blocks.

If a name in the library changes, this file and `parity_ours.py` follow, and no other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from torch import Tensor

from rebend.config.decoding import Decoding
from rebend.config.load import Config, load_config
from rebend.config.models import EncoderBlock
from rebend.config.rewards import RewardBlock
from rebend.data.readers.raw import SourceRow
from rebend.data.readers.registry import load_reader
from rebend.data.readers.rows import UnusableRowError
from rebend.evaluation.attacks.attack import run_attack
from rebend.evaluation.attacks.attempts import target_of, without_context
from rebend.evaluation.attacks.embedding import RELEASED_SUFFIX
from rebend.evaluation.attacks.soft_tokens import optimise, split_prompt, start_tokens
from rebend.evaluation.coherence import Coherence, embed_prompts
from rebend.evaluation.diversity import cut, diversity
from rebend.evaluation.judges.safety.classifier import fill as fill_classifier
from rebend.evaluation.judges.safety.harmbench import HARMBENCH, _behaviour, _verdict
from rebend.evaluation.judges.win_rate.prompt import SYSTEM, read_marks, user_text
from rebend.evaluation.reward_scores import cut_text
from rebend.evaluation.words.punkt import words
from rebend.generation.intervention import NoControl
from rebend.generation.requests import make_requests
from rebend.generation.sampling import with_checkpoint
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import PROMPTS
from rebend.models.chat import prompt_text
from rebend.models.loading import Policy
from rebend.models.rewards.model import RegressionHead, RewardModel
from rebend.models.rewards.prompt import scored_text
from rebend.models.sentence_encoder import Encoder

ROOT = Path(__file__).parents[1]
__all__ = ["SYSTEM", "Policy", "diversity", "read_marks", "user_text", "words"]


@cache
def catalogue(study: str = "paper_recontrol") -> Config:
    """Return the catalogue with a study of the papers."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    return load_config({**raw, "study": study}, ROOT / "config/studies")


def messages_of(dataset: str, row: dict[str, Any]) -> Any:
    """Return the prompt of a source row under a data set block; None for a row that is left out."""
    block = catalogue()["datasets"][dataset]
    try:
        word = (block.user_word or "Human") if block.variant == "released_code" else None
        return load_reader(block.reader).convert("prompts", SourceRow(1, "a row", row), word)[0]["messages"]
    except UnusableRowError:
        return None


def prompt_tokenizer(tokenizer: Any, model: str) -> Any:
    """Return the tokenizer with the chat template that a model block gives it."""
    tokenizer.chat_template = (ROOT / catalogue()["models"][model].chat_template).read_text(encoding="utf-8")
    return tokenizer


def prompt_of(tokenizer: Any, model: str, messages: Any) -> str:
    """Return the text of a prompt for a model block."""
    return prompt_text(prompt_tokenizer(tokenizer, model), messages)


def prompt_ids(tokenizer: Any, model: str, messages: Any) -> list[int]:
    """Return the token ids of a prompt for a model block, as decoding and extraction make them."""
    return make_requests(Policy(None, prompt_tokenizer(tokenizer, model), ""), [messages])[0].prompt_ids


def reward_text(reward: str, messages: Any, response: str) -> str:
    """Return the text that a reward block reads."""
    return scored_text(catalogue()["rewards"][reward], messages, response)


def measured_text(reward: str, control: str, messages: Any, response: str) -> str:
    """Return the text that a reward block reads of a response decoded under a control block."""
    return reward_text(reward, messages, cut_text(cut_answer(response), catalogue()["controls"][control].reward_stop))


def cut_answer(text: str) -> str:
    """Return a generated text as decoding ends it: before the words of `stop`, of which the released form has none."""
    places = [at for word in catalogue()["controls"]["none_128_released"].decoding.stop if (at := text.find(word)) >= 0]
    return text[: min(places, default=len(text))]


def scored_answer(text: str) -> str:
    """Return a generated text as diversity reads it."""
    return cut(cut_answer(text))


def own_sampling(checkpoint: Any) -> tuple[str, float]:
    """Return how the released form in the paper study decodes a checkpoint with these generation settings."""
    decoding = with_checkpoint(catalogue()["controls"]["none_128_released"].decoding, checkpoint)
    return "sampled" if decoding.temperature else "greedy", decoding.top_p


# --- Scores -------------------------------------------------------------------------------------------------------


def rewards(config: Any, weights: Any, tokenizer: Any, texts: Sequence[list[int]]) -> list[float]:
    """Return the rewards of token ids by UltraRM's layout with these weights."""
    model = RegressionHead(config).eval()
    model.load_state_dict(weights)
    settings = RewardBlock.model_validate({"local": "x", "head": "regression_head", "template": "{prompt}{response}"})
    return RewardModel(model, tokenizer, settings).forward(texts)


def coherence(encoder: Any, tokenizer: Any, prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Return the coherence of each response with its prompt, given as messages."""
    settings = EncoderBlock.model_validate({"local": "x", "pooling": "pooler"})
    ours, names = Encoder(encoder, tokenizer, settings), [str(i) for i in range(len(prompts))]
    rows = [
        {"row_id": name, "messages": messages, "reference": None, "group": ""}
        for name, messages in zip(names, prompts, strict=True)
    ]
    return Coherence(ours, embed_prompts(ours, pa.Table.from_pylist(rows, PROMPTS)))(names, responses)


def classifier_prompt(behaviour: str, context: str, response: str) -> str:
    """Return the question that HarmBench's 13B classifier is asked."""
    group = "contextual" if context else "standard"
    text = f"{context}\n\n---\n\n{behaviour}" if context else behaviour
    row = {"messages": [{"role": "user", "content": text}], "request": None, "group": group}
    return fill_classifier(HARMBENCH, {"style": "llama2", **_behaviour(row), "response": response})


def classifier_rate(replies: Sequence[str]) -> float:
    """Return the attack success rate from replies of HarmBench's classifier."""
    row = {
        "messages": [{"role": "user", "content": "q"}],
        "request": None,
        "response": "An answer.",
        "prefill": "",
        "group": "",
    }
    verdicts = [_verdict(row, reply) for reply in replies]
    scored = [verdict.answered for verdict in verdicts if not verdict.not_scored]
    return sum(map(bool, scored)) / len(scored)


# --- Attacks ------------------------------------------------------------------------------------------------------


def harmbench_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of HarmBench's file as an evaluation row; None for a row that is left out."""
    try:
        return {"row_id": row["BehaviorID"], **load_reader("harmbench").functions["evaluation"](row)[0]}
    except UnusableRowError:
        return None


def attack_block(name: str, **changes: Any) -> Any:
    """Return an attack block of the catalogue with changes."""
    return catalogue()["attacks"][name].model_copy(update=changes)


def attack_target(block: Any, row: dict[str, Any]) -> str:
    """Return the text that an attack block aims at."""
    suffix = RELEASED_SUFFIX if block.method == "embedding" and block.variant == "released_code" else ""
    return target_of(row, block.target) + getattr(block, "suffix", suffix)


def attacked_request(block: Any, row: dict[str, Any]) -> str:
    """Return the request after which the soft tokens of an attack block stand."""
    messages = without_context(row) if block.variant == "released_code" else row["messages"]
    return str(messages[-1]["content"])


def soft_tokens(policy: Policy, messages: Any, target: str, block: Any) -> tuple[list[float], Tensor]:
    """Return losses and final soft tokens of the embedding attack on one prompt."""
    prompt = split_prompt(policy.tokenizer, messages, target)
    start = start_tokens(policy, block.start, block.n_tokens)
    (found,) = optimise(policy, [prompt], start[None], block)
    return found.losses, found.points[-1]


def completions(policy: Policy, rows: Sequence[dict[str, Any]], block: Any, n_tokens: int) -> list[dict[str, Any]]:
    """Return the completions of an attack as a judge gets them."""
    with tempfile.TemporaryDirectory() as folder:
        parts = ChunkStore(Path(folder) / "parts")
        table, _ = run_attack(policy, rows, block, Decoding(max_new_tokens=n_tokens), NoControl(), parts)
    return table.to_pylist()
