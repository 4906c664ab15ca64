"""RepBend, representation bending (arXiv:2504.01550, Algorithm 1), and the fifth term of its released code.

    loss = α·‖v_s‖ - β·‖v_u‖ + γ·cos(A_u) + ε·KL + η·‖pairs‖      (the released code's letters; paper: 1/2, α, β, γ, 0)

v_s and v_u are (adapted - reference) states of safe and unsafe answers, A_u the adapted states of unsafe answers, KL
the divergence on retain chats, and `pairs` the distance of unsafe answers from the safe answers to the same prompts.
The safe group holds safe answers and the safe answers of pairs, the unsafe group unsafe answers and the unsafe answers
of pairs: 2B texts each; and B retain chats.

The variant `released_code` has the reductions of the released code, `corrected` has cleaner ones:

| term | released_code | corrected |
|---|---|---|
| safe_norm | mean over tokens and all indices, with the embeddings, which cannot move | without the embeddings |
| unsafe_norm | mean over tokens and target indices | the same |
| unsafe_cosine | of the states at the last prompt token | of the mean states over each text's target tokens |
| retain_kl | at temperature 2, times 4, sum over tokens / number of chats | at temperature 1, mean over tokens |
| pair_norm | over R tokens, R the shortest paired answer of the group (at most 20) | R of each pair separately |
| tokens of `response_R` | R of the group before (20 at first), padding behind short answers counts | the first 20 |
| unsafe tokens of `prompt_last` | of single unsafe answers alone | also of pairs |
| prompts over `max_length` | cut on the right | left out |

In the released code, `response_R` reads R before it is set and stops in its first step: here R starts at 20.

The adapted pass of the released code has dropout in the adapter. `corrected` needs `lora_dropout: 0.0`, because the
noise of dropout counts as a move away from the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize

from rebend.config.adapters import RepBendBlock
from rebend.models.layers import target_indices
from rebend.models.log_probs import token_kl
from rebend.repbend.examples import Pair, Reading, StepExamples, TrainingExample, TrainingExamples
from rebend.repbend.forward import Example
from rebend.repbend.methods.terms import at_least_float32, mean_shift_norm, shift_norms
from rebend.repbend.objective import Loss, Objective, Passes, StepInfo, run_passes

Variant = Literal["released_code", "corrected"]
PROMPT_MODES = ("prompt_all", "prompt_last")
FIRST_TOKENS = 20  # largest R, a number of first answer tokens


class Terms(NamedTuple):
    """The five terms, scalars, without weight and sign."""

    safe_norm: Tensor
    unsafe_norm: Tensor
    unsafe_cosine: Tensor
    retain_kl: Tensor
    pair_norm: Tensor


class Weights(NamedTuple):
    """Weights of the terms, in their order, under the released code's names (paper: 1/2, α, β, γ, and none)."""

    alpha: float
    beta: float
    gamma: float
    epsilon: float
    eta: float = 0.0


class RepBend(Objective[RepBendBlock]):
    """The five terms on the target tokens of `settings.loss_mode`."""

    term_names: ClassVar[tuple[str, ...]] = Terms._fields

    def __init__(self, settings: RepBendBlock, examples: TrainingExamples, n_layers: int) -> None:
        """Raise `ConfigError` for target layers that the model does not have."""
        super().__init__(settings, examples, n_layers)
        self.unsafe_layers = target_indices(settings.target_layer_start_idx, settings.layers_window_size, n_layers)
        self.safe_layers = self.unsafe_layers if settings.alpha_mode == "target" else list(range(1, n_layers + 1))
        # The released code also counts the embeddings, which do not move.
        self.n_frozen_layers = int(settings.variant == "released_code" and settings.alpha_mode == "all")
        self.weights = Weights(settings.alpha, settings.beta, settings.gamma, settings.epsilon, settings.eta)
        self.released = settings.variant == "released_code"

    @classmethod
    def reading(cls, settings: RepBendBlock) -> Reading:
        """Return how rows are read: the released code cuts long prompts, and some modes need no answers."""
        return Reading(cut_prompts=settings.variant == "released_code", prompts_only=settings.loss_mode in PROMPT_MODES)

    def loss(self, model: PeftModel, step_examples: StepExamples, info: StepInfo) -> Loss:
        """Return the loss of a group, from one reference pass and one adapted pass over all of its texts."""
        reference = {"safe": self.safe_layers, "unsafe": self.unsafe_layers, "retain": [self.n_layers]}
        adapted = {**reference, "last_prompt": self.unsafe_layers}
        if self.settings.eta:
            reference["safe_of_pair"], adapted["unsafe_of_pair"] = self.unsafe_layers, self.unsafe_layers
        passes = run_passes(model, self.texts(step_examples, info), adapted, reference)
        terms = self.terms(passes, len(step_examples.retain))
        return Loss(repbend_loss(terms, self.weights), terms._asdict())

    def texts(self, step_examples: StepExamples, info: StepInfo) -> list[Example]:
        """Return the texts of a group with their positions, each text cut after its last position.

        If the mode reads prompts only, the prompts of pairs are in the unsafe group only, as in the released code: one
        prompt cannot be kept and pushed away.
        """
        first = self.first_tokens(info, len(step_examples.pairs))
        safe_of_pairs = [] if self.settings.loss_mode in PROMPT_MODES else [safe for safe, _ in step_examples.pairs]
        of_pairs = self._compared_tokens(step_examples.pairs)
        compared = [*[range(0)] * len(step_examples.safe), *of_pairs]  # positions of single answers, then of pairs
        return [
            *self._safe_texts([*step_examples.safe, *safe_of_pairs], compared, first),
            *self._unsafe_texts(step_examples, compared, first),
            *(cut_text(chat, {"retain": range(len(chat.tokens))}) for chat in step_examples.retain),
        ]

    def _safe_texts(self, answers: Sequence[TrainingExample], compared: Sequence[range], first: int) -> list[Example]:
        padding = self.examples.padding
        return [
            cut_text(answer, {"safe": self.target_tokens(answer, first), "safe_of_pair": tokens}, padding)
            for answer, tokens in zip(answers, compared, strict=False)  # with prompts only, `answers` has no pairs
        ]

    def _unsafe_texts(self, step_examples: StepExamples, compared: Sequence[range], first: int) -> list[Example]:
        answers = step_examples.all_unsafe()
        singles_only = self.released and self.settings.loss_mode == "prompt_last"
        n_read = len(step_examples.unsafe) if singles_only else len(answers)
        return [
            cut_text(
                answer,
                {
                    "unsafe": self.target_tokens(answer, first) if number < n_read else range(0),
                    "last_prompt": range(answer.n_prompt - 1, answer.n_prompt),
                    "unsafe_of_pair": tokens,
                },
                self.examples.padding,
            )
            for number, (answer, tokens) in enumerate(zip(answers, compared, strict=True))
        ]

    def target_tokens(self, example: TrainingExample, first: int) -> range:
        """Return the positions of the tokens whose states are compared; `first` is R.

        With `response_R`, those of the released code may lie behind the end of the text: there it reads padding.
        """
        start, end = example.n_prompt, len(example.tokens)
        return {
            "response_all": range(start, end),
            "prompt_response": range(end),
            "prompt_all": range(start),
            "prompt_last": range(start - 1, start),
            "response_R": range(start, start + first if self.released else min(start + first, end)),
            "response_one": range(start, start + 1),
        }[self.settings.loss_mode]

    def first_tokens(self, info: StepInfo, n_items: int) -> int:
        """Return R of `response_R` for a group of `n_items`: 20, or (released code) R of the group before.

        The released code computes R of a group, `shortest_answer` of its pairs, only after it has used R.
        """
        before = range(info.n_items - 2 * n_items, info.n_items - n_items)
        if not self.released or before.start < 0:
            return FIRST_TOKENS
        return shortest_answer([self.examples.step(item, 1, self.settings.seed).pairs[0] for item in before])

    def _compared_tokens(self, pairs: Sequence[Pair]) -> list[range]:
        """Return the first R positions of each pair's answers, from the last prompt token on; none without `eta`."""
        if not self.settings.eta:
            return [range(0)] * len(pairs)
        firsts = [shortest_answer(pairs if self.released else [pair]) for pair in pairs]
        starts = [safe.n_prompt - 1 for safe, _ in pairs]
        return [range(start, start + first) for start, first in zip(starts, firsts, strict=True)]

    def terms(self, passes: Passes, n_chats: int) -> Terms:
        """Return the five terms from the states of both passes."""
        adapted, reference, variant = passes.adapted, passes.reference, self.settings.variant
        temperature = 2.0 if variant == "released_code" else 1.0
        divergences = token_kl(passes.causal, adapted.last("retain"), reference.last("retain"), temperature)
        unsafe, no_pairs = adapted.states["unsafe"], divergences.new_zeros(())
        return Terms(
            safe_norm=mean_shift_norm(adapted.states["safe"], reference.states["safe"], self.n_frozen_layers),
            unsafe_norm=unsafe_norm(unsafe, reference.states["unsafe"], self.settings.push_limit),
            unsafe_cosine=unsafe_cosine(
                adapted.states["last_prompt"]
                if variant == "released_code"
                else [mean_by_index(states, adapted.example_index["unsafe"]) for states in unsafe]
            ),
            retain_kl=retain_kl(divergences, n_chats, variant),
            pair_norm=pair_norm(adapted.ordered("unsafe_of_pair"), reference.ordered("safe_of_pair"))
            if self.settings.eta
            else no_pairs,
        )


def shortest_answer(pairs: Sequence[Pair]) -> int:
    """Return the number of tokens of the shortest answer, at most 20: R of these pairs."""
    return min(FIRST_TOKENS, *(answer.n_answer for pair in pairs for answer in pair))


def cut_text(example: TrainingExample, positions: Mapping[str, range], padding: int = 0) -> Example:
    """Return a text with its positions, cut after the last one: later tokens cannot change earlier states.

    A text that is shorter is filled up with the token `padding`.
    """
    used = {name: in_text for name, in_text in positions.items() if in_text}
    length = max(in_text[-1] for in_text in used.values()) + 1
    n_padding = max(length - len(example.tokens), 0)
    return Example([*example.tokens[:length], *[padding] * n_padding], used, n_padding)


def repbend_loss(terms: Terms, weights: Weights) -> Tensor:
    """Return the weighted sum of the terms: `unsafe_norm` with minus, all others with plus."""
    return (
        weights.alpha * terms.safe_norm
        - weights.beta * terms.unsafe_norm
        + weights.gamma * terms.unsafe_cosine
        + weights.epsilon * terms.retain_kl
        + weights.eta * terms.pair_norm
    )


def unsafe_norm(adapted: Sequence[Tensor], reference: Sequence[Tensor], limit: float | None = None) -> Tensor:
    """The paper's ‖v_u‖: mean length of (adapted - reference) states of unsafe texts, a scalar.

    Enters the loss with minus. Averaged over tokens and layers, as `mean_shift_norm` of the safe texts, ‖v_s‖, which
    enters with plus. The published term has no upper bound; with `limit`, a longer move of a token counts as `limit`
    and has no gradient.
    """
    norms = shift_norms(adapted, reference)
    return (norms if limit is None else norms.clamp(max=limit)).mean()


def unsafe_cosine(adapted: Sequence[Tensor]) -> Tensor:
    """The cosine term over A_u: how different the directions of unsafe texts are, a scalar.

    Enters the loss with plus, so training pulls unsafe texts into one direction. Per layer, mean of
    1 - cos over the ordered pairs of different texts; then mean over layers. `adapted` has one `[B, D]` per layer, one
    adapted state per unsafe text. A single text makes no pair: the term is 0.
    """
    n_texts = adapted[0].shape[0]
    if n_texts < 2:
        return adapted[0].sum() * 0.0
    n_pairs = n_texts * (n_texts - 1)
    per_layer = []
    for states in adapted:
        directions = normalize(at_least_float32(states), dim=-1)
        cosines = directions @ directions.T
        per_layer.append(1 - (cosines.sum() - cosines.diagonal().sum()) / n_pairs)
    return torch.stack(per_layer).mean()


def retain_kl(divergences: Tensor, n_chats: int, variant: Variant = "released_code") -> Tensor:
    """The KL term: change of the next-token distributions on retain chats, from the divergence at each token `[N]`.

    Enters the loss with plus. `rebend.models.log_probs.token_kl` computes the divergences,
    KL(reference || adapted): at temperature 2, times 4 (released code), or at temperature 1 (corrected). All turns of a
    chat count.
    * released_code: sum over tokens, divided by the number of chats, so that the weight grows with their length (the
      released code sets logits of padding to 0, which makes equal distributions and adds nothing);
    * corrected: mean over tokens.
    """
    return divergences.sum() / (n_chats if variant == "released_code" else max(len(divergences), 1))


def pair_norm(adapted: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """The released code's fifth term: distance of unsafe answers from the safe answers to the same prompts, a scalar.

    Enters the loss with plus. Mean length of (adapted state of the unsafe answer - reference state of
    the safe answer) over the first tokens of each pair, from the last prompt token on, and over layers: one `[N, D]`
    each, positions of both in the same order.
    """
    return shift_norms(adapted, reference).mean()


def mean_by_index(states: Tensor, index: Tensor) -> Tensor:
    """Return the mean state of each text, `[B, D]`, from states `[N, D]` and the text of each, `[N]`."""
    texts, text_of = index.unique(return_inverse=True)
    wide = at_least_float32(states)
    sums = wide.new_zeros(len(texts), states.shape[1]).index_add(0, text_of, wide)
    return sums / text_of.bincount(minlength=len(texts))[:, None]
