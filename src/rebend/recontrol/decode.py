"""Make a control from its settings and decode with it. This file imports no method: the registry names their code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from rebend.config.controls import CONTROLS, ControlBlock, TunedBlock
from rebend.errors import ConfigError
from rebend.generation.generate import decode
from rebend.generation.intervention import Control
from rebend.io.chunks import ChunkStore
from rebend.io.registry import load_code
from rebend.models.loading import Policy
from rebend.recontrol.resources import ControlResources


@runtime_checkable
class WholeResponseControl(Protocol):
    """A control that acts on finished responses and therefore decodes them itself (best of n)."""

    def decode(
        self, policy: Policy, rows: Sequence[dict[str, Any]], parts: ChunkStore
    ) -> tuple[pa.Table, dict[str, Any]]:
        """Return responses (schema RESPONSES) to the rows, and counts for the run record."""
        ...


def control_block(settings: Mapping[str, Any], strength: Mapping[str, Any] | None = None) -> ControlBlock:
    """Return the block of a control's settings; `strength`, a result of `choose_strength`, replaces `chosen`."""
    block_type = CONTROLS[settings["method"]].block
    values = dict(settings)
    if strength is not None and issubclass(block_type, TunedBlock):
        values |= {block_type.strength: float(strength["step_size"]), "choice": None, "strength_of": None}
        if values.get("n_steps") == "chosen":
            values["n_steps"] = int(strength["n_steps"])
    block = block_type.model_validate(values)
    assert isinstance(block, ControlBlock)
    return block


def make_control(block: ControlBlock, resources: ControlResources) -> Control:
    """Return the control that `block` describes. A strength of 0 is no control.

    Raises `ConfigError` if the strength is still `chosen` or a resource is missing, and `ModelError` if a resource
    belongs to another model.
    """
    if isinstance(block, TunedBlock) and block.is_chosen:
        key = block.strength
        raise ConfigError(f"control '{block.method}' needs a number for `{key}`; run `choose_strength` first")
    control: Control = load_code(CONTROLS[block.method].code)(block, resources)
    return control


def decode_under(
    policy: Policy, rows: Sequence[dict[str, Any]], block: ControlBlock, resources: ControlResources, parts: ChunkStore
) -> tuple[pa.Table, dict[str, Any]]:
    """Return responses (schema RESPONSES) under the control that `block` describes, and counts for the run record.

    `tokens` counts the tokens of the responses, `tokens_generated` also those of discarded samples (best of n), and
    `candidates_scored` the candidate tokens of a search. Raises the errors of `make_control`.
    """
    control = make_control(block, resources)
    if isinstance(control, WholeResponseControl):
        return control.decode(policy, rows, parts)
    table, notes = decode(policy, rows, block.decoding, control, parts)
    ended = sum(finish != "length" for finish in table["finish"].to_pylist() if finish is not None)
    candidates = control.candidates_per_token * (notes["tokens"] + ended)
    return table, {**notes, "tokens_generated": notes["tokens"], "candidates_scored": candidates}
