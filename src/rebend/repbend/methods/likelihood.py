"""Log-probabilities of answers and chats, for the methods that train likelihoods (NPO, DPO, SFT).

Log-probabilities are natural, one number per token or per answer, without padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rebend.models.log_probs import token_logps
from rebend.repbend.examples import TrainingExample
from rebend.repbend.forward import Example, HiddenStates, Layers
from rebend.repbend.methods.terms import at_least_float32, mean
from rebend.repbend.objective import Passes


def answer_examples(examples: Sequence[TrainingExample], name: str = "answer") -> list[Example]:
    """Return the texts with the positions before each token of the answer."""
    return [
        Example(example.tokens, {name: range(example.n_prompt - 1, len(example.tokens) - 1)}) for example in examples
    ]


def chat_examples(chats: Sequence[TrainingExample]) -> list[Example]:
    """Return the chats with the positions before each token but the first, under the name `retain`."""
    return [Example(chat.tokens, {"retain": range(len(chat.tokens) - 1)}) for chat in chats]


def final_layers(n_layers: int, *names: str) -> Layers:
    """Return the index of the state before the language model head, under each name."""
    return {name: [n_layers] for name in names}


def log_probs_at(passes: Passes, states: HiddenStates, examples: Sequence[Example], name: str) -> Tensor:
    """Return the log-probability `[N]` of the token after each position of a name, in the order of the examples."""
    following = [example.tokens[i + 1] for example in examples for i in example.positions.get(name, [])]
    final_states = states.ordered(name)[0]
    return token_logps(passes.causal, final_states, torch.tensor(following, device=final_states.device))


def answer_log_probs(passes: Passes, states: HiddenStates, examples: Sequence[Example]) -> Tensor:
    """Return the log-probability of each whole answer, in the order of the examples that have one."""
    lengths = [len(example.positions["answer"]) for example in examples if "answer" in example.positions]
    tokens = log_probs_at(passes, states, examples, "answer")
    answer_index = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(tokens.device)
    return sum_by_index(tokens, answer_index, len(lengths))


def sum_by_index(values: Tensor, index: Tensor, n_sums: int) -> Tensor:
    """Sum `values` `[N]` by `index` `[N]`: `[n_sums]`, float32 or wider.

    An answer without tokens has 0, the log-probability of an empty answer.
    """
    values = at_least_float32(values)
    return values.new_zeros(n_sums).index_add(0, index, values)


def negative_log_likelihood(log_probs: Tensor) -> Tensor:
    """Return minus the mean log-probability of tokens `[N]`.

    Mean over the tokens of all texts together, so a long text weighs more, as in the loss of transformers.
    """
    return mean(-at_least_float32(log_probs))
