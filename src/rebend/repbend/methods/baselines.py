"""Objectives of the methods that RepBend is compared with: which tokens they look at, and their losses.

All see the same items as RepBend. Unsafe rows are the unsafe samples and the unsafe answers of pairs. Circuit
breakers, RMU and NPO retain the retain chats, the safe samples and the safe answers of pairs, all in one mean, as in
the RepBend authors' code of these baselines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from rebend.config.adapters import (
    CircuitBreakersBlock,
    DpoBlock,
    NpoBlock,
    RmuBlock,
    SftBlock,
)
from rebend.models.log_probs import token_logps
from rebend.repbend.examples import Row, StepRows
from rebend.repbend.forward import Probe, Seen
from rebend.repbend.methods.baseline_losses import (
    BaselineTerms,
    PairLogps,
    circuit_breakers,
    dpo,
    npo,
    rerouting_schedule,
    rmu,
    segment_sum,
    sft,
    steering_vector,
)
from rebend.repbend.objective import Loss, Moment, Passes, run_passes

TERMS = ("change", "retain")


def unsafe_rows(rows: StepRows) -> list[Row]:
    """Unsafe samples and unsafe answers of pairs."""
    return [*rows.unsafe, *(unsafe for _, unsafe in rows.pairs)]


def safe_rows(rows: StepRows) -> list[Row]:
    """Safe samples and safe answers of pairs."""
    return [*rows.safe, *(safe for safe, _ in rows.pairs)]


def whole(name: str, rows: Sequence[Row]) -> list[Probe]:
    """Rows looked at in every token."""
    return [Probe(row.tokens, {name: range(len(row.tokens))}) for row in rows]


@dataclass
class CircuitBreakers:
    """Unsafe rows are turned away from their reference at the target layers, retain rows kept at all."""

    settings: CircuitBreakersBlock
    n_layers: int
    names: tuple[str, ...] = TERMS

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group; the weights of its two terms go with the steps that are done."""
        layers = {"unsafe": self.settings.target_layers, "retain": list(range(1, self.n_layers + 1))}
        probes = [*whole("unsafe", unsafe_rows(rows)), *whole("retain", [*safe_rows(rows), *rows.retain])]
        before, after = run_passes(model, probes, layers, layers).both()
        return _loss(
            circuit_breakers(
                after.states["unsafe"],
                before.states["unsafe"],
                after.states["retain"],
                before.states["retain"],
                rerouting_schedule(moment.step + 1, moment.of, self.settings.coefficient),
                still=1,  # the released code counts the embeddings
            )
        )


@dataclass
class Rmu:
    """Unsafe rows are led to one random vector at one layer, retain rows kept there."""

    settings: RmuBlock
    n_layers: int
    names: tuple[str, ...] = TERMS

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group; the vector is a function of the seed."""
        layer = [self.settings.target_layer]
        probes = [*whole("unsafe", unsafe_rows(rows)), *whole("retain", [*safe_rows(rows), *rows.retain])]
        passes = run_passes(model, probes, {"unsafe": layer, "retain": layer}, {"retain": layer})
        before, after = passes.both()
        unsafe = after.last("unsafe")
        target = steering_vector(unsafe.shape[1], self.settings.steering, self.settings.seed)
        weight = self.settings.retain_weight
        return _loss(rmu(unsafe, target, after.last("retain"), before.last("retain"), weight))


@dataclass
class Npo:
    """Unsafe answers become unlikely, compared with the reference."""

    settings: NpoBlock
    n_layers: int
    names: tuple[str, ...] = TERMS

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group: log-probabilities of whole answers under both models."""
        probes = [*answers(unsafe_rows(rows)), *answers(safe_rows(rows), "retain"), *chats(rows.retain)]
        passes = run_passes(model, probes, _final(self.n_layers, "answer", "retain"), _final(self.n_layers, "answer"))
        before, after = passes.both()
        retain = logps(passes, after, probes, "retain")
        ours, theirs = (answer_logps(passes, seen, probes) for seen in (after, before))
        return _loss(npo(ours, theirs, retain, self.settings.npo_beta, self.settings.retain_weight))


@dataclass
class Dpo:
    """The safe answer of each pair becomes likelier than the unsafe one, compared with the reference."""

    settings: DpoBlock
    n_layers: int
    names: tuple[str, ...] = TERMS

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group; single samples are not looked at."""
        safe, unsafe = (answers([pair[side] for pair in rows.pairs]) for side in (0, 1))
        probes = [*safe, *unsafe, *(chats(rows.retain) if self.settings.retain_weight else [])]
        names = ["answer", "retain"] if self.settings.retain_weight else ["answer"]
        passes = run_passes(model, probes, _final(self.n_layers, *names), _final(self.n_layers, "answer"))
        before, after = passes.both()
        retain = logps(passes, after, probes, "retain") if "retain" in names else before.last("answer").new_zeros(0)
        ours, theirs = (PairLogps(*answer_logps(passes, seen, probes).split(len(safe))) for seen in (after, before))
        return _loss(dpo(ours, theirs, retain, self.settings.dpo_beta, self.settings.retain_weight))


@dataclass
class Sft:
    """Answers become likely: safe ones, or, for task arithmetic, unsafe ones."""

    settings: SftBlock
    n_layers: int
    names: tuple[str, ...] = TERMS

    def loss(self, model: PeftModel, rows: StepRows, moment: Moment) -> Loss:
        """Return the loss of a group; there is no reference."""
        settings = self.settings
        learnt = safe_rows(rows) if settings.answers == "safe" else unsafe_rows(rows)
        probes = [*answers(learnt), *(chats(rows.retain) if settings.retain_weight else [])]
        names = ["answer", "retain"] if settings.retain_weight else ["answer"]
        passes = run_passes(model, probes, _final(self.n_layers, *names))
        answer = logps(passes, passes.after, probes, "answer")
        retain = logps(passes, passes.after, probes, "retain") if "retain" in names else answer.new_zeros(0)
        return _loss(sft(answer, retain, settings.retain_weight))


def answers(rows: Sequence[Row], name: str = "answer") -> list[Probe]:
    """Rows looked at where each token of the answer is about to come."""
    return [Probe(row.tokens, {name: range(row.n_prompt - 1, len(row.tokens) - 1)}) for row in rows]


def chats(rows: Sequence[Row]) -> list[Probe]:
    """Chats looked at where each token but the first is about to come."""
    return [Probe(row.tokens, {"retain": range(len(row.tokens) - 1)}) for row in rows]


def logps(passes: Passes, seen: Seen, probes: Sequence[Probe], name: str) -> Tensor:
    """Log-probability `[N]` of the token that follows each place of this name, in the order of the probes."""
    states = seen.ordered(name)[0]
    following = [probe.tokens[place + 1] for probe in probes for place in probe.places.get(name, [])]
    return token_logps(passes.causal, states, torch.tensor(following, device=states.device))


def answer_logps(passes: Passes, seen: Seen, probes: Sequence[Probe]) -> Tensor:
    """Log-probability of each whole answer, in the order of the probes that have one."""
    lengths = [len(probe.places["answer"]) for probe in probes if "answer" in probe.places]
    tokens = logps(passes, seen, probes, "answer")
    owners = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(tokens.device)
    return segment_sum(tokens, owners, len(lengths))


def _final(n_layers: int, *names: str) -> dict[str, list[int]]:
    """The state before the head, under each name."""
    return {name: [n_layers] for name in names}


def _loss(found: BaselineTerms) -> Loss:
    return Loss(found.total, {"change": found.change, "retain": found.retain})
