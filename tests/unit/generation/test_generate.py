"""Decoding in fixed batches: no effect of batch, order or checkpoint settings; edits, prefills, stop texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.generation import generate as decoding_module
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.generate import decode, generate
from rebend.generation.intervention import Edit, NoControl
from rebend.generation.requests import make_requests
from rebend.io.chunks import ChunkStore
from rebend.models.chat import prompt_text
from rebend.models.hooks import before_head
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows, tokenizer

GREEDY = Decoding(max_new_tokens=16, batch_size=8)
SAMPLED = Decoding(max_new_tokens=40, temperature=1.0, batch_size=8)


@dataclasses.dataclass(frozen=True)
class Shift(NoControl):
    """Adds a constant to the state."""

    amount: float

    def begin(self, seeds: Sequence[int]) -> Edit:
        return lambda states, rows: states + self.amount


@dataclasses.dataclass(frozen=True)
class WholePrompt(Shift):
    """Adds a constant to all states of the prompt, too."""

    whole_prompt = True


@dataclasses.dataclass(frozen=True)
class Breaks(NoControl):
    """Raises an error at the first edit."""

    def begin(self, seeds: Sequence[int]) -> Edit:
        def edit(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken on purpose")

        return edit


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def tokens(responses):
    return [response.token_ids for response in responses]


def test_only_the_newest_position_is_edited(policy):
    ids = torch.tensor([tokenizer()("how do I fold a boat")["input_ids"]])
    with torch.no_grad():
        plain = policy.model(ids).logits
        with before_head(policy.model, lambda newest: newest + 1.0):
            edited = policy.model(ids).logits
    assert torch.equal(edited[:, :-1], plain[:, :-1])
    assert not torch.allclose(edited[:, -1], plain[:, -1])


def test_the_hook_is_removed_when_decoding_fails(policy):
    with pytest.raises(RuntimeError, match="broken"):
        generate(policy, PROMPTS, GREEDY, control=Breaks())
    assert not policy.model.get_output_embeddings()._forward_pre_hooks


def test_the_checkpoints_settings_are_restored_when_decoding_fails(policy):
    settings = policy.model.generation_config
    with pytest.raises(RuntimeError, match="broken"):
        generate(policy, PROMPTS, GREEDY, control=Breaks())
    assert policy.model.generation_config is settings


def test_the_checkpoints_sampling_settings_have_no_effect(policy):
    plain = tokens(generate(policy, PROMPTS, GREEDY))
    other = make_policy()
    other.model.generation_config.repetition_penalty = 5.0
    other.model.generation_config.do_sample = True
    other.model.generation_config.temperature = 3.0
    assert tokens(generate(other, PROMPTS, GREEDY)) == plain


def test_greedy_tokens_are_those_of_the_unbatched_unpadded_model(policy):
    batched = generate(policy, PROMPTS, GREEDY)
    for request, response in zip(make_requests(policy, PROMPTS), batched, strict=True):
        ids = list(request.prompt_ids)
        for _ in range(len(response.token_ids)):
            with torch.no_grad():
                ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert ids[len(request.prompt_ids) :] == response.token_ids


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_response_does_not_depend_on_batch_or_order(policy, decoding):
    keys = [f"row{i}" for i in range(len(PROMPTS))]
    together = tokens(generate(policy, PROMPTS, decoding, keys=keys))
    alone = tokens(generate(policy, PROMPTS, decoding.model_copy(update={"batch_size": 1}), keys=keys))
    backwards = tokens(generate(policy, PROMPTS[::-1], decoding, keys=keys[::-1]))[::-1]
    assert together == alone == backwards


def test_samples_differ_by_key_and_by_seed(policy):
    twice = tokens(generate(policy, [PROMPTS[0]] * 2, SAMPLED, keys=["row0/0", "row0/1"]))
    other_seed = tokens(generate(policy, [PROMPTS[0]], SAMPLED.model_copy(update={"seed": 1}), keys=["row0/0"]))
    assert twice[0] != twice[1]
    assert other_seed[0] != twice[0]


def test_top_k_of_one_is_greedy(policy):
    sampled = generate(policy, PROMPTS, SAMPLED.model_copy(update={"top_k": 1, "max_new_tokens": 16}))
    assert tokens(sampled) == tokens(generate(policy, PROMPTS, GREEDY))


def test_decoding_stops_a_row_at_a_stop_text_and_leaves_the_others(policy):
    plain = generate(policy, PROMPTS, GREEDY)
    stop = plain[0].text[6:9]
    stopped = generate(policy, PROMPTS, GREEDY.model_copy(update={"stop": [stop]}))
    assert stopped[0].finish == "turn"
    assert stopped[0].text == plain[0].text[: plain[0].text.index(stop)]
    assert len(stopped[0].token_ids) < len(plain[0].token_ids)
    for before, after in zip(plain, stopped, strict=True):
        assert after.text == before.text.split(stop)[0]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_every_row_ends_where_its_text_first_contains_the_stop_text(policy, width):
    # Stop texts are pieces of the model's responses: some have spaces or incomplete letters.
    for row, response in enumerate(generate(policy, PROMPTS, GREEDY)):
        for start in range(0, min(len(response.text) - width, 24), 5):
            stop = response.text[start : start + width]
            stopped = generate(policy, PROMPTS, GREEDY.model_copy(update={"stop": [stop]}))[row]
            assert (stopped.text, stopped.finish) == (response.text.split(stop)[0], "turn")
            assert len(stopped.token_ids) <= len(response.token_ids)
        if row == 2:
            break


def test_decoding_ends_when_all_rows_contain_the_stop_text(policy, monkeypatch):
    passes = []
    forward = type(policy.model).forward
    monkeypatch.setattr(type(policy.model), "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    request = make_requests(policy, PROMPTS[:1])
    (plain,) = generate_batch(policy, request, GREEDY)
    whole, stop = len(passes), plain.text[4:6]
    passes.clear()
    (stopped,) = generate_batch(policy, request, GREEDY.model_copy(update={"stop": [stop]}))
    assert len(stopped.token_ids) < len(passes) < whole


def test_a_prefill_begins_the_response_and_is_continued(policy):
    (response,) = generate(policy, PROMPTS[:1], GREEDY, prefills=["Sure, here is"])
    ids = tokenizer()(prompt_text(tokenizer(), PROMPTS[0]) + "Sure, here is", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        first = int(policy.model(torch.tensor([ids])).logits[0, -1].argmax())
    assert response.text.startswith("Sure, here is" + tokenizer().decode([first]))


def test_other_columns_of_a_prompts_data_set_have_no_effect(policy):
    plain, _ = decode(policy, prompt_rows(), GREEDY, NoControl(), ChunkStore(None))
    rows = [{**row, "prefill": "Sure, here is", "target": "Sure, here is"} for row in prompt_rows()]
    assert decode(policy, rows, GREEDY, NoControl(), ChunkStore(None))[0].equals(plain)


def test_a_prompt_without_room_has_no_response_and_is_counted(policy):
    rows = prompt_rows()
    rows[1] = {**rows[1], "messages": [{"role": "user", "content": "word " * 200}]}
    table, notes = decode(policy, rows, GREEDY, NoControl(), ChunkStore(None))
    assert table["response"].null_count == 1
    assert table["response"][1].as_py() is None
    assert notes["prompts_without_room"] == 1
    assert table["row_id"].to_pylist() == [row["row_id"] for row in rows]


@pytest.mark.parametrize(
    ("way", "control"), [("generate_continuous", Shift(0.5)), ("generate_batch", WholePrompt(0.5))]
)
def test_finished_chunks_are_not_decoded_again(policy, tmp_path, monkeypatch, way, control):
    decoding = SAMPLED.model_copy(update={"batch_size": 2 if way == "generate_batch" else 1})
    undisturbed, _ = decode(policy, prompt_rows(), decoding, control, ChunkStore(None))
    real, calls = getattr(decoding_module, way), []

    def fails_at_the_second(policy, requests, *args, **kwargs):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(policy, requests, *args, **kwargs)

    monkeypatch.setattr(decoding_module, way, fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        decode(policy, prompt_rows(), decoding, control, ChunkStore(tmp_path))
    resumed, _ = decode(policy, prompt_rows(), decoding, control, ChunkStore(tmp_path))
    assert calls == ([2] * 5 if way == "generate_batch" else [4] * 3)  # the first of four, or two, was stored
    assert resumed.equals(undisturbed)


def test_each_batch_of_ended_responses_is_a_lap(policy):
    laps = []
    parts = ChunkStore(None, lambda: laps.append(1))
    generate(policy, PROMPTS, SAMPLED.model_copy(update={"batch_size": 3}), parts=parts)
    assert len(laps) == 3  # 8 responses


def test_each_stored_state_is_the_one_its_token_was_sampled_from(policy):
    requests = make_requests(policy, PROMPTS)
    for request, response in zip(requests, generate_batch(policy, requests, GREEDY, keep_states=True), strict=True):
        n = len(response.token_ids) + (response.finish == "eos")
        assert response.states.shape == (n, policy.hidden_size)
        assert response.chosen_ids[:-1] == response.token_ids or response.finish == "length"
        with torch.no_grad():
            assert policy.model.lm_head(response.states).argmax(-1).tolist() == response.chosen_ids
            whole = policy.model.model(torch.tensor([request.prompt_ids + response.token_ids])).last_hidden_state[0]
        start = len(request.prompt_ids) - 1
        torch.testing.assert_close(response.states, whole[start : start + n], rtol=1e-4, atol=1e-4)


def test_an_edit_does_not_change_the_cache(policy):
    # The states before each edit equal those of a plain pass over prompt and response.
    requests = make_requests(policy, PROMPTS[:2])
    controlled = generate_batch(policy, requests, GREEDY, control=Shift(0.7), keep_states=True)
    plain = generate_batch(policy, requests, GREEDY)
    assert tokens(controlled) != tokens(plain)
    for request, response in zip(requests, controlled, strict=True):
        with torch.no_grad():
            whole = policy.model.model(torch.tensor([request.prompt_ids + response.token_ids])).last_hidden_state[0]
            chosen = policy.model.lm_head(response.states + 0.7).argmax(-1).tolist()
        start = len(request.prompt_ids) - 1
        torch.testing.assert_close(
            response.states, whole[start : start + len(response.token_ids)], rtol=1e-4, atol=1e-4
        )
        assert chosen == response.token_ids


def test_edit_norm_is_the_mean_norm_of_the_edit(policy):
    for response in generate(policy, PROMPTS, SAMPLED, control=Shift(0.5)):
        expected = 0.5 * policy.hidden_size**0.5 if response.token_ids else 0.0
        assert response.edit_norm == pytest.approx(expected, rel=1e-4)
    assert all(r.edit_norm == 0 for r in generate(policy, PROMPTS, GREEDY))


def test_ended_rows_are_not_edited(policy):
    edited: list[int] = []  # rows per step

    @dataclasses.dataclass(frozen=True)
    class Counts(NoControl):
        def begin(self, seeds):
            def edit(states, rows):
                edited.append(len(rows))
                return states

            return edit

    responses = generate(policy, PROMPTS, SAMPLED, control=Counts())
    ended = sum(response.finish == "eos" for response in responses)
    assert ended > 0
    tokens_with_ends = sum(len(response.token_ids) for response in responses) + ended
    assert sum(edited) == tokens_with_ends  # an end token is sampled from an edited state too
