"""SCAV: probes on planted states, the closed form of the move, hooks on the blocks, and attacked prompts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rebend.config.decoding import Decoding
from rebend.config.safety import ScavBlock
from rebend.errors import DataError
from rebend.evaluation.attacks import scav
from rebend.evaluation.attacks.attack import run_attack
from rebend.evaluation.attacks.scav import Probe, fit, moved_states
from rebend.generation.generate import generate
from rebend.generation.intervention import NoControl
from rebend.generation.requests import make_requests
from rebend.io.chunks import ChunkStore
from rebend.models.hidden_states import last_states
from rebend.models.layers import decoder_blocks
from rebend.models.loading import Policy
from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows

GREEDY = Decoding(max_new_tokens=8, batch_size=3)
SCAV = ScavBlock(method="scav", probe_prompts="any", accuracy=0.0)
WORDS = ("lamp", "jar", "boat", "rope", "kettle", "door", "coat", "stone")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def attacked_rows() -> list[dict[str, Any]]:
    return [{**row, "harmful": i % 2 == 0, "target": "", "category": ""} for i, row in enumerate(prompt_rows())]


def examples(n: int = 8) -> list[dict[str, Any]]:
    """Return n harmful prompts with one verb and n benign ones with another."""
    asked = [(verb, word) for verb in ("take", "turn") for word in WORDS[:n]]
    return [
        {
            "row_id": verb + word,
            "messages": [{"role": "user", "content": f"{verb} the {word}"}],
            "harmful": verb == "take",
        }
        for verb, word in asked
    ]


def run(policy: Policy, settings: ScavBlock, given: Any, decoding: Decoding = GREEDY) -> Any:
    return run_attack(policy, attacked_rows(), settings, decoding, NoControl(), ChunkStore(None), given)


def test_probe_finds_a_planted_direction_and_its_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.zeros(12, dtype=torch.float64)
    planted[3], planted[7] = 3.0, -4.0
    states = torch.randn(400, 12, generator=generator, dtype=torch.float64) + 5.0
    labels = (states @ planted + 6.0) > 0
    probe = fit(states, labels, penalty=1e-3)
    assert torch.cosine_similarity(probe.weight, planted, dim=0) > 0.995
    # distance of the states' mean from the boundary: 5 · (3 - 4) + 6 = 1, divided by the norm 5
    assert float(probe.logits(torch.full((12,), 5.0).double()) / probe.weight.norm()) == pytest.approx(0.2, abs=0.05)
    fresh = torch.randn(400, 12, generator=generator, dtype=torch.float64) + 5.0
    assert ((probe.logits(fresh) > 0) == ((fresh @ planted + 6.0) > 0)).double().mean() > 0.97


def test_fit_is_the_minimum_of_the_penalised_loss() -> None:
    # one number per state, -1 and 1, once each: w solves w = 2 σ(-w) at penalty 1, b is 0
    probe = fit(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.tensor([False, True]), penalty=1.0)
    w = float(probe.weight)
    assert w == pytest.approx(2 / (1 + math.exp(w)), abs=1e-6) and float(probe.bias) == pytest.approx(0, abs=1e-9)


def test_move_is_the_shortest_one_to_the_probability() -> None:
    probe = Probe(torch.tensor([3.0, 4.0, 0.0]), torch.tensor(1.0))
    states = torch.tensor([[1.0, 1.0, 9.0], [-9.0, 0.0, 0.0]])  # logits 8 and -26; the target is log(1/9999) = -9.21
    target = math.log(1e-4 / (1 - 1e-4))
    step = (8 - target) / 25  # times w
    moved = probe.moved(states, 1e-4)
    assert moved[0].tolist() == pytest.approx([1 - 3 * step, 1 - 4 * step, 9.0], rel=1e-5)
    assert moved[1].tolist() == [-9.0, 0.0, 0.0]
    assert torch.sigmoid(probe.logits(moved[0])).item() == pytest.approx(1e-4, rel=1e-3)
    released = probe.moved(states, 1e-4, always=True)
    assert torch.equal(released[0], moved[0]) and float(probe.logits(released[1])) == pytest.approx(target, rel=1e-5)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_states_at_the_last_token_do_not_depend_on_padding(name: str, policy: Policy) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    other = Policy(model, policy.tokenizer, "f")
    ids = [torch.randint(1, 300, (length,)).tolist() for length in (3, 9, 1, 6)]
    together = last_states(other, ids, batch_size=4)
    for i, one in enumerate(ids):
        outputs = inputs_of_blocks(model, one)
        for layer in range(other.n_layers - 1):  # the output of a block is the input of the next one
            assert torch.allclose(together[i, layer].float(), outputs[layer + 1][0, -1], atol=1e-4)


def inputs_of_blocks(model: Any, ids: list[int]) -> list[torch.Tensor]:
    """Return the states [1, T, D] that each block receives."""
    seen: list[torch.Tensor] = []

    def keep(module: Any, given: Any, named: Any) -> None:
        seen.append((given[0] if given else named["hidden_states"]).clone())

    handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in decoder_blocks(model)]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen


def test_moved_states_change_the_last_position_of_the_chosen_blocks_only(policy: Policy) -> None:
    probe = Probe(torch.ones(policy.hidden_size, dtype=torch.float64), torch.tensor(50.0, dtype=torch.float64))
    ids = make_requests(policy, PROMPTS[:1])[0].prompt_ids
    _, plain = inputs_of_blocks(policy.model, ids)
    with moved_states(policy.model, {0: probe}, 0.01):
        _, moved = inputs_of_blocks(policy.model, ids)
    _, again = inputs_of_blocks(policy.model, ids)
    by_hand = probe.moved(plain[0, -1].double(), 0.01)
    assert not torch.allclose(plain[0, -1].double(), by_hand, atol=1e-2)
    assert torch.allclose(moved[0, -1].double(), by_hand, atol=1e-4)
    assert torch.equal(moved[0, :-1], plain[0, :-1]) and torch.equal(again, plain)


def test_attack_takes_planted_probes_for_harmless_and_changes_harmful_prompts_only(policy: Policy) -> None:
    table, notes = run(policy, SCAV, examples())
    harmful = [row for row in attacked_rows() if row["harmful"]]
    assert table["row_id"].to_pylist() == [row["row_id"] for row in harmful]
    assert notes["moved_blocks"] == list(range(policy.n_layers)) and notes["examples"] == 16
    plain = [r.text for r in generate(policy, [row["messages"] for row in harmful], GREEDY) if r]
    assert table["response"].to_pylist() != plain
    alone = run(policy, SCAV, examples(), GREEDY.model_copy(update={"batch_size": 1}))[0]
    assert alone["response"].to_pylist() == table["response"].to_pylist()
    again = [r.text for r in generate(policy, [row["messages"] for row in harmful], GREEDY) if r]
    assert again == plain  # no hook is left


def test_probe_of_every_generated_token_is_satisfied(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain loop over whole texts, with the moves at every position that was once the last, gives the same tokens."""
    generators = [torch.Generator().manual_seed(layer) for layer in range(policy.n_layers)]
    probes = [
        Probe(torch.randn(policy.hidden_size, generator=g).double(), torch.tensor(3.0).double()) for g in generators
    ]
    monkeypatch.setattr(scav, "fitted_probes", lambda *given: probes)
    table, _ = run(policy, SCAV, examples())
    row = next(row for row in attacked_rows() if row["harmful"])
    ids = list(make_requests(policy, [row["messages"]])[0].prompt_ids)
    first, tokens = len(ids) - 1, []

    def hook_of(probe: Probe) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            ends = probe.moved(hidden[:, first:].double(), SCAV.probability).to(hidden.dtype)
            changed = torch.cat([hidden[:, :first], ends], dim=1)
            return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

        return hook

    blocks = decoder_blocks(policy.model)
    handles = [block.register_forward_hook(hook_of(probe)) for block, probe in zip(blocks, probes, strict=True)]
    with torch.no_grad():
        for _ in range(GREEDY.max_new_tokens):
            token = int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == policy.tokenizer.eos_token_id:
                break
            ids.append(token)
            tokens.append(token)
    for handle in handles:
        handle.remove()
    line = table.to_pylist()[0]
    assert line["n_tokens"] == len(tokens)
    assert line["response"] == policy.tokenizer.decode(tokens, skip_special_tokens=True)


def test_only_blocks_with_an_accurate_probe_are_moved(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted states: block 1 holds the class in one coordinate, block 0 holds noise only."""
    many = [{**row, "row_id": f"{n}{row['row_id']}"} for n in range(8) for row in examples()]
    generator = torch.Generator().manual_seed(1)
    planted = torch.randn(len(many), 2, policy.hidden_size, generator=generator, dtype=torch.float64)
    planted[:, 1, 5] += torch.tensor([6.0 if row["harmful"] else -6.0 for row in many])
    monkeypatch.setattr(scav, "last_states", lambda *given: planted)
    notes = run(policy, SCAV.model_copy(update={"accuracy": 0.9}), many)[1]
    noise, clear = notes["probe_accuracies"]
    assert clear == 1.0 and 0.2 < noise < 0.8  # of held-out examples: on its own 90 examples the noise is separable
    assert notes["moved_blocks"] == [1]


def test_inaccurate_probes_leave_the_prompts_alone(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    probe = Probe(torch.ones(policy.hidden_size), torch.tensor(9.0), accuracy=0.89)
    monkeypatch.setattr(scav, "fitted_probes", lambda *given: [probe, probe])
    table, notes = run(policy, SCAV.model_copy(update={"accuracy": 0.9}), examples())
    harmful = [row for row in attacked_rows() if row["harmful"]]
    plain = [r.text for r in generate(policy, [row["messages"] for row in harmful], GREEDY) if r]
    assert notes["moved_blocks"] == [] and table["response"].to_pylist() == plain
    assert "no probe is accurate enough" in capsys.readouterr().err


def test_attacked_prompts_are_no_examples_and_few_examples_are_an_error(policy: Policy) -> None:
    with pytest.raises(DataError, match="`probe_prompts` has 3 harmful prompts that are not attacked; 4 are needed"):
        run(policy, SCAV, [*examples(3), *attacked_rows()])
    notes = run(policy, SCAV, [*examples(), *(row for row in attacked_rows() if row["harmful"])])[1]
    assert (notes["examples"], notes["examples_left_out"]) == (16, 4)
