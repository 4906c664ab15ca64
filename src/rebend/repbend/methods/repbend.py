"""RepBend's objective (arXiv:2504.01550, Algorithm 1): which tokens are looked at, and the loss over them.

The safe group is made of safe samples and safe answers of pairs, the unsafe group of unsafe samples and unsafe
answers to the same prompts, 2B rows each; B retain chats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from peft import PeftModel

from rebend.config.adapters import RepBendBlock
from rebend.models.layers import target_indices
from rebend.models.log_probs import token_kl
from rebend.repbend.examples import Row, StepRows, TrainingExamples
from rebend.repbend.forward import Probe
from rebend.repbend.methods.terms import (
    Terms,
    Weights,
    draw_unsafe,
    gather_unsafe,
    hold_retain,
    keep_safe,
    push_unsafe,
    repbend_loss,
    row_means,
)
from rebend.repbend.objective import Loss, Moment, Passes, run_passes

LossMode = Literal["response_all", "prompt_response", "prompt_all", "prompt_last", "response_R", "response_one"]
PROMPT_MODES = ("prompt_all", "prompt_last")
FIRST_TOKENS = 20  # R, before any shorter answer is met


@dataclass
class RepBend:
    """The five terms on the target tokens of `settings.loss_mode`."""

    settings: RepBendBlock
    data: TrainingExamples
    n_layers: int
    names: tuple[str, ...] = Terms._fields
    _shortest: list[int] = field(default_factory=list)  # over the first i + 1 items drawn

    def __post_init__(self) -> None:
        """Translate the block's layer keys into indices."""
        settings = self.settings
        self.push = target_indices(settings.target_layer_start_idx, settings.layers_window_size, self.n_layers)
        self.keep = self.push if settings.alpha_mode == "target" else list(range(1, self.n_layers + 1))
        # The embeddings are one of the published layers, but nothing moves there.
        self.still = int(settings.variant == "released_code" and settings.alpha_mode == "all")
        self.weights = Weights(settings.alpha, settings.beta, settings.gamma, settings.epsilon, settings.eta)

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group: one reference pass and one adapted pass over all of its rows."""
        wanted = {"safe": self.keep, "unsafe": self.push, "retain": [self.n_layers]}
        before, after = dict(wanted), {**wanted, "ends": self.push}
        if self.settings.eta:
            before["goal"], after["drawn"] = self.push, self.push
        passes = run_passes(model, self.probes(rows, moment), after, before)
        terms = self.terms(passes, len(rows.retain))
        return Loss(repbend_loss(terms, self.weights), terms._asdict())

    def probes(self, rows: StepRows, moment: Moment) -> list[Probe]:
        """Return the texts of a group with their places, each cut behind its last one.

        Where the mode looks at prompts alone, the prompts of pairs are unsafe rows only, as published: the same
        prompt cannot be kept and pushed.
        """
        first = self.first_tokens(moment)
        safe_pairs = [] if self.settings.loss_mode in PROMPT_MODES else [pair[0] for pair in rows.pairs]
        drawn = [self._drawn(pair, first) if self.settings.eta else range(0) for pair in rows.pairs]
        nothing = [range(0)] * len(rows.safe)
        found = []
        for row, goal in zip([*rows.safe, *safe_pairs], [*nothing, *drawn], strict=False):
            found.append(cut(row, {"safe": self.targets(row, first), "goal": goal}))
        for row, own in zip([*rows.unsafe, *(pair[1] for pair in rows.pairs)], [*nothing, *drawn], strict=True):
            end = range(row.n_prompt - 1, row.n_prompt)
            found.append(cut(row, {"unsafe": self.targets(row, first), "ends": end, "drawn": own}))
        found += [cut(row, {"retain": range(len(row.tokens))}) for row in rows.retain]
        return found

    def targets(self, row: Row, first: int) -> range:
        """Positions of the tokens at which the states of a row are compared."""
        end = len(row.tokens)
        return {
            "response_all": range(row.n_prompt, end),
            "prompt_response": range(end),
            "prompt_all": range(row.n_prompt),
            "prompt_last": range(row.n_prompt - 1, row.n_prompt),
            "response_R": range(row.n_prompt, min(row.n_prompt + first, end)),
            "response_one": range(row.n_prompt, row.n_prompt + 1),
        }[self.settings.loss_mode]

    def first_tokens(self, moment: Moment) -> int:
        """Return R, the number of first answer tokens: 20, or (published) the shortest paired answer met so far."""
        if self.settings.variant == "corrected":
            return FIRST_TOKENS
        for item in range(len(self._shortest), moment.items):
            pair = self.data.step(item, 1, self.settings.seed).pairs[0]
            met = self._shortest[-1] if self._shortest else FIRST_TOKENS
            self._shortest.append(min(met, pair[0].n_answer, pair[1].n_answer))
        return self._shortest[moment.items - 1]

    def _drawn(self, pair: tuple[Row, Row], first: int) -> range:
        """The first R places of a pair's answers, from the last prompt token on."""
        start = pair[0].n_prompt - 1
        return range(start, start + min(first, pair[0].n_answer, pair[1].n_answer))

    def terms(self, passes: Passes, n_chats: int) -> Terms:
        """Return the five terms from what both passes have shown."""
        (before, after), published = passes.both(), self.settings.variant == "released_code"
        temperature = 2.0 if published else 1.0
        divergences = token_kl(passes.causal, after.last("retain"), before.last("retain"), temperature)
        unsafe = after.states["unsafe"]
        ends = after.states["ends"] if published else [row_means(s, after.owners["unsafe"]) for s in unsafe]
        return Terms(
            keep=keep_safe(after.states["safe"], before.states["safe"], self.still),
            push=push_unsafe(unsafe, before.states["unsafe"], self.settings.push_limit),
            gather=gather_unsafe(ends),
            hold=hold_retain(divergences, n_chats, self.settings.variant),
            draw=draw_unsafe(after.ordered("drawn"), before.ordered("goal"))
            if self.settings.eta
            else divergences.new_zeros(()),
        )


def cut(row: Row, places: Mapping[str, range]) -> Probe:
    """The row as far as anything is looked at: later tokens cannot change earlier states."""
    there = {name: found for name, found in places.items() if found}
    return Probe(row.tokens[: max(found[-1] for found in there.values()) + 1], there)
