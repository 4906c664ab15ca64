"""All of rebend that the parity page runs: if a name in the library changes, this file follows, and no other."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from rebend.config.adapters import NpoBlock, RepBendBlock
from rebend.config.decoding import Decoding
from rebend.config.load import Config, load_config
from rebend.config.models import EncoderBlock
from rebend.config.rewards import RewardBlock
from rebend.config.value_models import ValueModelBlock
from rebend.data.readers.registry import load_reader
from rebend.data.readers.rows import UnusableRowError
from rebend.evaluation.attacks.attack import run_attack
from rebend.evaluation.attacks.attempts import target_of
from rebend.evaluation.attacks.soft_tokens import optimise, split_prompt, start_tokens
from rebend.evaluation.coherence import Coherence, embed_prompts
from rebend.evaluation.diversity import diversity
from rebend.evaluation.judges.safety.classifier import fill as fill_classifier
from rebend.evaluation.judges.safety.harmbench import HARMBENCH, _behaviour, _verdict
from rebend.evaluation.judges.win_rate.prompt import SYSTEM, read_marks, user_text
from rebend.generation.continuous_batching import generate_continuous
from rebend.generation.generate import Request, generate, generate_batch, make_requests
from rebend.generation.intervention import NoControl
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import PROMPTS
from rebend.models.chat import prompt_text
from rebend.models.loading import Policy
from rebend.models.lora import add_adapter
from rebend.models.rewards.model import RegressionHead, RewardModel
from rebend.models.rewards.prompt import fill
from rebend.models.sentence_encoder import Encoder
from rebend.recontrol.methods.ascent import ascend
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model.loss import packed, summed_loss
from rebend.recontrol.value_model.network import Shape, ValueNetwork, new_network
from rebend.repbend.examples import ExampleEncoder, StepExamples, TrainingExample, TrainingExamples
from rebend.repbend.methods.npo import Npo
from rebend.repbend.methods.repbend import RepBend
from rebend.repbend.objective import Loss, StepInfo
from rebend.repbend.train import AdapterTrainer

ROOT = Path(__file__).parents[1]
__all__ = [
    "HARMBENCH",
    "SYSTEM",
    "Loss",
    "Policy",
    "StepExamples",
    "TrainingExample",
    "TrainingExamples",
    "ValueNetwork",
    "diversity",
    "read_marks",
    "start_tokens",
    "user_text",
]
BLOCKS = {"examples": "s", "paired_examples": "p", "retain_chats": "r", "lora_dropout": 0.0, "lora_r": 4}


@cache
def catalogue(study: str = "paper_recontrol") -> Config:
    """Return the catalogue with a study of the papers."""
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    return load_config({**raw, "study": study}, ROOT / "config/studies")


# --- RepBend -----------------------------------------------------------------------------------------------------


def repbend_settings(**changes: Any) -> RepBendBlock:
    """Return settings with the released weights, target layers 1 and 2, and without dropout."""
    layers = {"target_layer_start_idx": 1, "layers_window_size": 2}
    return RepBendBlock.model_validate({"method": "repbend", **BLOCKS, **layers, "batch_size": 2, **changes})


def npo_settings(**changes: Any) -> NpoBlock:
    """Return settings of NPO for groups of two."""
    return NpoBlock.model_validate({"method": "npo", **BLOCKS, "batch_size": 2, **changes})


def with_adapter(model: Any) -> Any:
    """Return a model with an adapter of random weights on all blocks, in float64."""
    wrapped = add_adapter(Policy(model, None, ""), repbend_settings(), range(model.config.num_hidden_layers)).double()
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.2)
    return wrapped


def repbend_loss(model: Any, settings: RepBendBlock, data: TrainingExamples, step: int = 0) -> Loss:
    """Return the loss of a step."""
    info = StepInfo(step, settings.max_step, (step + 1) * settings.batch_size)
    objective = RepBend(settings, data, model.config.num_hidden_layers)
    return objective.loss(model, data.step(step, settings.batch_size, settings.seed), info)


def npo_loss(model: Any, settings: NpoBlock, data: TrainingExamples, group: StepExamples) -> Loss:
    """Return NPO's loss of a group."""
    return Npo(settings, data, model.config.num_hidden_layers).loss(model, group, StepInfo(0, 1, len(group.retain)))


def trained(model: Any, settings: RepBendBlock, data: TrainingExamples, n_steps: int, start: Any) -> list[Tensor]:
    """Return the adapter's weights after some steps of the trainer, from the weights of the adapted model `start`."""
    trainer = AdapterTrainer(Policy(model, None, ""), settings, data)
    trainer.engine.model.double()
    trainer.engine.model.load_state_dict(start.state_dict())
    for _ in range(n_steps):
        trainer.step()
    return [weight.detach() for weight in trainer.engine.model.parameters() if weight.requires_grad]


def training_tokens(tokenizer: Any, prompt: str, response: str, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return the token ids of prompt and response of a training text; None if the row is left out."""
    row = {"row_id": "r", "messages": [{"role": "user", "content": prompt}], "response": response}
    example = ExampleEncoder(tokenizer, max_length).answer(row)
    return example and (example.tokens[: example.n_prompt], example.tokens[example.n_prompt :])


def wildguard_label(row: dict[str, Any], loss_mode: str) -> str:
    """Return the class of a row of WildGuardMix: safe, unsafe, or "" for a row that is left out."""
    del loss_mode  # the reader has one selection for all modes
    try:
        return str(load_reader("wildguardmix").functions["safety"](row)[0]["label"])
    except UnusableRowError:
        return ""


# --- RE-Control: values, ascent, states ---------------------------------------------------------------------------


def value_network(width: int, hidden: int, n_layers: int, seed: int = 0) -> ValueNetwork:
    """Return a random value network in float64."""
    return new_network(Shape(width, hidden, n_layers), seed).double()


def value_loss(network: ValueNetwork, states: Sequence[Tensor], rewards: Sequence[float], variant: str) -> Tensor:
    """Return the objective of responses with states [T, D] each, per response; those without states are left out."""
    settings = ValueModelBlock.model_validate({"activations": "a", "reward": "r", "variant": variant})
    batch = [(one, reward) for one, reward in zip(states, rewards, strict=True) if len(one)]
    joined, lengths, labels = packed(batch, network)
    return summed_loss(network(joined), lengths, labels, settings) / len(batch)


def climbed(network: ValueNetwork, states: Tensor, step_size: float, n_steps: int) -> Tensor:
    """Return states [B, D] after the ascent."""
    return ascend(network.requires_grad_(False), states, step_size, n_steps)


def stored_states(policy: Policy, prompts: Sequence[list[int]], n_tokens: int) -> list[Tensor]:
    """Return the states [T, D] that are stored for value training, of the greedy response to each prompt."""
    requests = [Request(str(i), ids) for i, ids in enumerate(prompts)]
    decoding = Decoding(max_new_tokens=n_tokens)
    found = dict(generate_continuous(policy, requests, decoding, keep_states=True))
    return [states for i in range(len(requests)) if (states := found[i].states) is not None]


def controlled_tokens(
    policy: Policy, prompts: Sequence[list[int]], n_tokens: int, network: ValueNetwork, step_size: float, n_steps: int
) -> list[list[int]]:
    """Return the response of each prompt under `variant: released_code`."""
    control = ValueAscent(network.requires_grad_(False), step_size, n_steps, "released_code")
    requests = [Request(str(i), ids) for i, ids in enumerate(prompts)]
    responses = generate_batch(policy, requests, Decoding(max_new_tokens=n_tokens), control=control)
    return [response.token_ids for response in responses]


# --- Texts --------------------------------------------------------------------------------------------------------


def messages_of(dataset: str, row: dict[str, Any]) -> Any:
    """Return the prompt of a source row under a data set block; None for a row that is left out."""
    block = catalogue()["datasets"][dataset]
    try:
        return load_reader(block.reader).functions["prompts"](row)[0]["messages"]
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
    return fill(catalogue()["rewards"][reward].template, messages, response)


def cut_answer(text: str) -> str:
    """Return a generated text as decoding ends it: before the words that open a turn of the user."""
    places = [at for word in catalogue()["controls"]["none_128"].decoding.stop if (at := text.find(word)) >= 0]
    return text[: min(places, default=len(text))]


# --- Scores -------------------------------------------------------------------------------------------------------


def rewards(config: Any, weights: Any, tokenizer: Any, texts: Sequence[list[int]]) -> list[float]:
    """Return the rewards of token ids by UltraRM's layout with these weights."""
    model = RegressionHead(config).eval()
    model.load_state_dict(weights)
    settings = RewardBlock.model_validate({"local": "x", "head": "regression_head", "template": "{prompt}{response}"})
    return RewardModel(model, tokenizer, settings).forward(texts)


def coherence(encoder: Any, tokenizer: Any, prompts: Sequence[Any], responses: Sequence[str]) -> list[float]:
    """Return the coherence of each response with its prompt, given as messages."""
    import pyarrow as pa

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
    row = {"messages": [{"role": "user", "content": "q"}], "request": None, "response": "An answer.", "prefill": "", "group": ""}
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
    return target_of(row, block.target) + getattr(block, "suffix", "")


def attacked_request(block: Any, row: dict[str, Any]) -> str:
    """Return the request after which the soft tokens of an attack block stand."""
    del block  # the same for all blocks
    return str(row["messages"][-1]["content"])


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


def greedy_texts(policy: Policy, prompts: Sequence[Any], n_tokens: int, stop: Sequence[str] = ()) -> list[str]:
    """Return the greedy response to each prompt, given as messages."""
    responses = generate(policy, prompts, Decoding(max_new_tokens=n_tokens, stop=list(stop)))
    return [response.text for response in responses if response is not None]
