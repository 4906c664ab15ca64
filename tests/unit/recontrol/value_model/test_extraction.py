"""Extraction of responses and hidden states from a small policy."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rebend.config.decoding import Decoding
from rebend.errors import ConfigError, DataError
from rebend.generation.continuous_batching import generate_continuous
from rebend.generation.fixed_batches import generate_batch
from rebend.generation.generate import decode
from rebend.generation.requests import Request, make_requests
from rebend.generation.stopping import end_tokens
from rebend.io.chunks import ChunkStore
from rebend.io.schemas import PROMPTS
from rebend.models.hidden_states import response_states
from rebend.recontrol.methods.value_ascent import ValueAscent
from rebend.recontrol.value_model import extraction
from rebend.recontrol.value_model.activation_store import MANIFEST, RESPONSES_FILE, Activations, key_of
from rebend.recontrol.value_model.examples import HELD_OUT, TRAIN, ValueData
from rebend.recontrol.value_model.extraction import read_chunks
from rebend.recontrol.value_model.labels import Labels
from rebend.recontrol.value_model.network import Shape, new_network
from tests.helpers.extraction_parts import SETTINGS, all_rows, by_response, extract, extract_shard, gather, shard_files
from tests.helpers.small_policy import make_policy, prompt_rows


def test_every_chosen_token_has_one_row_and_the_end_token_a_mark(policy, extracted):
    table = all_rows(extracted).to_pylist()
    responses = extracted.responses().to_pylist()
    assert [r["response_id"] for r in responses] == [f"row{i}/{s}" for i in range(8) for s in range(3)]
    tokens = {(row["response_id"], row["position"]): row["token_id"] for row in table if not row["ends"]}
    assert set(tokens) == {(r["response_id"], t) for r in responses for t in range(r["n_tokens"])}
    ends = {row["response_id"]: row["position"] for row in table if row["ends"]}
    assert len(table) == len(tokens) + len(ends)
    assert ends == {r["response_id"]: r["n_tokens"] for r in responses if r["finish"] == "eos"}
    assert {row["token_id"] for row in table if row["ends"]} <= set(end_tokens(policy))
    assert 0 < len(ends) < len(responses)
    for response in responses:
        ids = [tokens[response["response_id"], t] for t in range(response["n_tokens"])]
        assert policy.tokenizer.decode(ids, skip_special_tokens=True) == response["response"]


def decoded_alone(policy):
    """Return request and response of each sample, decoded in a batch of one row."""
    encoded = make_requests(policy, [row["messages"] for row in prompt_rows()])
    requests = [Request(f"row{i}/{s}", request.prompt_ids) for i, request in enumerate(encoded) for s in range(3)]
    decoded = {}
    for request in requests:
        (response,) = generate_batch(policy, [request], SETTINGS.decoding, keep_states=True)
        decoded[request.key] = (request, response)
    return decoded


def test_stored_states_equal_those_of_each_response_decoded_alone(policy, extracted):
    expected = {name: response for name, (_, response) in decoded_alone(policy).items()}
    stored = by_response(extracted)
    assert set(expected) == set(stored)
    for name, states in stored.items():
        assert states.dtype == torch.float16
        assert len(states) == len(expected[name].token_ids) + (expected[name].finish == "eos")
        torch.testing.assert_close(states.float(), expected[name].states, rtol=2e-3, atol=2e-3)


def test_the_end_tokens_state_is_that_of_the_last_token_in_a_plain_pass(policy, extracted):
    stored = by_response(extracted)
    ended = [name for name, (_, response) in decoded_alone(policy).items() if response.finish == "eos"]
    alone = decoded_alone(policy)
    for name in ended:
        request, response = alone[name]
        with torch.no_grad():
            whole = policy.model.model(torch.tensor([request.prompt_ids + response.token_ids])).last_hidden_state[0]
        torch.testing.assert_close(stored[name][-1].float(), whole[-1], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("continuous", [True, False])
def test_the_first_token_of_a_new_turn_ends_a_response(policy, tmp_path, monkeypatch, continuous):
    monkeypatch.setattr(extraction, "supports_continuous_batching", lambda policy: continuous)
    greedy = SETTINGS.model_copy(update={"samples_per_prompt": 1, "decoding": Decoding(max_new_tokens=20)})
    plain = all_rows(extract(policy, tmp_path / "plain", greedy)).to_pylist()
    first = [row["token_id"] for row in plain if row["response_id"] == plain[0]["response_id"]]
    word = next(w for i in first[2:] if len(w := policy.tokenizer.decode([i])) > 1 and w.isascii())
    stops = greedy.model_copy(update={"decoding": Decoding(max_new_tokens=20, stop=[word])})
    activations = extract(policy, tmp_path / "cut", stops)
    lines = {line["response_id"]: line for line in activations.responses().to_pylist()}
    turns = [name for name, line in lines.items() if line["finish"] == "turn"]
    assert turns
    for name in turns:
        rows = [row for row in all_rows(activations).to_pylist() if row["response_id"] == name]
        whole = [row["token_id"] for row in plain if row["response_id"] == name]
        n = lines[name]["n_tokens"]
        assert [row["token_id"] for row in rows] == whole[: len(rows)]
        assert [row["ends"] for row in rows] == [False] * n + [True] * (len(rows) - n)
        text = policy.tokenizer.decode(whole[: n + 1])
        assert len(rows) == n + 1 if text.endswith(word) or word not in text else len(rows) in (n, n + 1)


def test_a_state_of_the_final_layer_predicts_the_token_that_was_sampled(policy, tmp_path):
    greedy = SETTINGS.model_copy(
        update={"samples_per_prompt": 1, "decoding": Decoding(max_new_tokens=20, batch_size=3)}
    )
    activations = extract(policy, tmp_path, greedy)
    table = all_rows(activations)
    states = torch.cat([activations.states(group) for group in activations.groups()]).float()
    with torch.no_grad():
        assert policy.model.lm_head(states).argmax(-1).tolist() == table["token_id"].to_pylist()


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_the_number_of_shards_changes_no_byte_of_the_result(policy, extracted, tmp_path, shards):
    other = extract(policy, tmp_path, SETTINGS.model_copy(update={"shards": shards}))
    assert len(other.manifest["shards"]) == shards != len(extracted.manifest["shards"])
    assert all_rows(other).equals(all_rows(extracted))
    assert [extracted.names(g)[0] for g in extracted.groups()] == [other.names(g)[0] for g in other.groups()]
    assert (other.directory / RESPONSES_FILE).read_bytes() == (extracted.directory / RESPONSES_FILE).read_bytes()


def test_a_killed_extraction_resumes_after_its_finished_chunks(policy, extracted, tmp_path, monkeypatch):
    calls = []

    def killed(policy, requests, decoding, **changes):
        calls.append(len(requests))
        for number, response in enumerate(generate_continuous(policy, requests, decoding, **changes)):
            if len(calls) == 3 and number == 4:  # in the second chunk of the second shard
                raise KeyboardInterrupt
            yield response

    monkeypatch.setattr(extraction, "generate_continuous", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(policy, tmp_path)
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert not Path(shard_files(tmp_path, 1, 2).states).exists()
    extract_shard(policy, tmp_path, 1)
    gather(tmp_path)
    assert calls == [
        9,
        9,
        6,
        6,
    ]  # eight prompts in chunks of three, three samples; only the last chunk is decoded again
    for file in sorted(path.name for path in extracted.directory.iterdir()):
        assert (tmp_path / "out" / file).read_bytes() == (extracted.directory / file).read_bytes()


def test_a_model_without_continuous_batching_is_decoded_in_fixed_batches(policy, extracted, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "supports_continuous_batching", lambda policy: False)
    other = by_response(extract(policy, tmp_path))
    expected = by_response(extracted)
    assert set(other) == set(expected)
    for name, states in other.items():
        torch.testing.assert_close(states, expected[name], rtol=4e-3, atol=4e-3)


def test_chunks_do_not_depend_on_row_groups(tmp_path):
    table = pa.Table.from_pylist(prompt_rows(), PROMPTS)
    pq.write_table(table, tmp_path / "cut.parquet", row_group_size=2)
    expected = [[f"row{i}" for i in ids] for ids in ([0, 1, 2], [3, 4, 5], [6, 7])]
    for numbers in (range(3), range(1, 3), range(2, 3), range(0)):
        chunks = [[row["row_id"] for row in rows] for rows in read_chunks(tmp_path / "cut.parquet", 3, numbers)]
        assert chunks == [expected[i] for i in numbers]


def test_a_model_that_ends_at_once_gives_responses_without_tokens(tmp_path):
    policy = make_policy()
    head = torch.nn.Linear(32, len(policy.tokenizer))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[policy.tokenizer.eos_token_id] = 1.0e4
    policy.model.lm_head = head
    activations = extract(policy, tmp_path)
    assert all_rows(activations).num_rows == 24
    lines = activations.responses().to_pylist()
    assert {(line["response"], line["n_tokens"], line["finish"]) for line in lines} == {("", 0, "eos")}
    rewards = {line["response_id"]: float(i) for i, line in enumerate(lines)}
    data = ValueData(activations, Labels.of(rewards), 0.2, 0)
    rows = [row for side in (TRAIN, HELD_OUT) for batch in data.batches(side, 5) for row in batch]
    assert {(len(row.states), row.ended, row.n_tokens) for row in rows} == {(1, True, 0)}
    assert sorted(row.reward for row in rows) == sorted(rewards.values())
    control = ValueAscent(new_network(Shape(32, 16, 2), 0).requires_grad_(False), 0.5, 3)
    table, notes = decode(policy, prompt_rows(), Decoding(max_new_tokens=4), control, ChunkStore(None))
    assert set(table["response"].to_pylist()) == {""} and set(table["edit_norm"].to_pylist()) == {0.0}
    assert (notes["tokens"], notes["tokens_clipped"], notes["prompts_without_room"]) == (0, 0, 0)


def test_long_prompts_are_left_out_and_counted(policy, tmp_path):
    lengths = [len(r.prompt_ids) for r in make_requests(policy, [row["messages"] for row in prompt_rows()])]
    limit = sorted(lengths)[3]
    settings = SETTINGS.model_copy(update={"max_prompt_tokens": limit})
    counts = [extract_shard(policy, tmp_path, shard, settings) for shard in range(2)]
    assert gather(tmp_path, settings)["left_out"] == sum(c["prompts_left_out"] for c in counts)
    assert sum(c["prompts_left_out"] for c in counts) == sum(n > limit for n in lengths) > 0
    kept = Activations(tmp_path / "out").responses()["row_id"].to_pylist()
    assert sorted(set(kept)) == [f"row{i}" for i, n in enumerate(lengths) if n <= limit]
    with pytest.raises(DataError, match="all 8 prompts are longer than 1 "):
        extract(policy, tmp_path / "none", SETTINGS.model_copy(update={"max_prompt_tokens": 1}))


def test_a_prompt_without_room_in_the_context_is_left_out(policy, tmp_path):
    settings = SETTINGS.model_copy(
        update={"max_prompt_tokens": 1000, "decoding": Decoding(max_new_tokens=100, temperature=1.0, batch_size=3)}
    )
    activations = extract(policy, tmp_path, settings)
    assert 0 < activations.manifest["left_out"] < 8


def test_a_limit_of_bytes_keeps_the_prompts_with_the_lowest_digests(policy, extracted, tmp_path):
    per_prompt = 3 * 20 * 32 * 2
    small = extract(policy, tmp_path / "a", SETTINGS.model_copy(update={"max_bytes": 5 * per_prompt + 1}))
    kept = sorted(set(small.responses()["row_id"].to_pylist()))
    assert kept == sorted(sorted((f"row{i}" for i in range(8)), key=key_of)[:5])
    assert small.manifest["not_drawn"] == 3
    assert 0 < small.manifest["state_bytes"] <= 5 * per_prompt
    full = by_response(extracted)
    assert all(torch.allclose(full[name], states, rtol=2e-3, atol=2e-3) for name, states in by_response(small).items())
    ample = extract(policy, tmp_path / "b", SETTINGS.model_copy(update={"max_bytes": 100 * per_prompt}))
    assert all_rows(ample).equals(all_rows(extracted))
    with pytest.raises(DataError, match=rf"no room for the states of one prompt: {per_prompt} bytes"):
        extract(policy, tmp_path / "c", SETTINGS.model_copy(update={"max_bytes": per_prompt - 1}))


def test_a_pass_over_whole_responses_gives_the_states_of_decoding(policy):
    pairs = [
        ((request.prompt_ids, response.chosen_ids), response.states)
        for request, response in decoded_alone(policy).values()
    ]
    computed = response_states(policy, [pair for pair, _ in pairs], "final", batch_size=4)
    for states, (_, expected) in zip(computed, pairs, strict=True):
        torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_states_of_a_decoder_block_equal_its_output(policy, tmp_path, layer):
    activations = extract(policy, tmp_path, SETTINGS.model_copy(update={"layer": layer}))
    assert activations.layer == str(layer)
    alone = decoded_alone(policy)
    for name, states in list(by_response(activations).items())[::5]:
        request, response = alone[name]
        ids = torch.tensor([request.prompt_ids + response.token_ids])
        outputs = []
        handle = policy.model.model.layers[layer].register_forward_hook(
            lambda m, i, o, outputs=outputs: outputs.append(o)
        )
        with torch.no_grad():
            policy.model(ids)
        handle.remove()
        expected = (outputs[0] if isinstance(outputs[0], torch.Tensor) else outputs[0][0])[0]
        start = len(request.prompt_ids) - 1
        torch.testing.assert_close(states.float(), expected[start : start + len(states)], rtol=2e-3, atol=2e-3)


def test_a_layer_that_the_model_does_not_have_is_refused_before_decoding(policy, tmp_path):
    with pytest.raises(ConfigError, match="layer 2: the model has decoder blocks 0 to 1"):
        extract(policy, tmp_path, SETTINGS.model_copy(update={"layer": 2}))


def test_states_of_a_bfloat16_policy_are_stored_in_bfloat16(tmp_path):
    policy = make_policy(dtype=torch.bfloat16)
    activations = extract(policy, tmp_path)
    assert activations.dtype == torch.bfloat16
    assert activations.states(0).dtype == torch.bfloat16
    network = new_network(Shape(policy.hidden_size, 24, 2), 0).requires_grad_(False)
    request = make_requests(policy, [prompt_rows()[0]["messages"]])[0]
    (response,) = generate_batch(policy, [request], SETTINGS.decoding, control=ValueAscent(network, 0.5, 5))
    assert response.edit_norm > 0
