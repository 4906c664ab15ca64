from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rebend import activations as activations_module
from rebend.activations import extract_activations, make_plan
from rebend.config.blocks import ActivationsBlock, Decoding
from rebend.controls import ValueAscent
from rebend.decoding import generate_batch
from rebend.errors import DataError
from rebend.shards import MANIFEST, RESPONSES_FILE, Activations, _as_tensor
from rebend.storage import read_json
from rebend.values import Shape, new_network
from tests.unit.small_policy import make_policy, prompt_rows
from tests.unit.state_files import write_activations

SETTINGS = ActivationsBlock(
    dataset="d",
    samples_per_prompt=3,
    prompts_per_shard=2,
    decoding=Decoding(max_new_tokens=20, temperature=1.0, batch_size=3),
)


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def extract(policy, folder: Path, settings: ActivationsBlock = SETTINGS, rows=None) -> Activations:
    extract_activations(policy, rows or prompt_rows(), settings, folder / "out", folder / "parts")
    return Activations(folder / "out")


def all_rows(made: Activations) -> pa.Table:
    return pa.concat_tables([pq.read_table(made.directory / s["file"]) for s in made.manifest["shards"]])


@pytest.fixture(scope="module")
def made(policy, tmp_path_factory):
    return extract(policy, tmp_path_factory.mktemp("extracted"))


def test_every_generated_token_has_one_row_and_its_own_state(policy, made):
    table = all_rows(made).to_pylist()
    responses = made.responses().to_pylist()
    assert [r["response_id"] for r in responses] == [f"row{i}/{s}" for i in range(8) for s in range(3)]
    assert len(table) == sum(r["n_tokens"] for r in responses)
    tokens = {(row["response_id"], row["position"]): row["token_id"] for row in table}
    assert set(tokens) == {(r["response_id"], t) for r in responses for t in range(r["n_tokens"])}
    for response in responses:
        ids = [tokens[response["response_id"], t] for t in range(response["n_tokens"])]
        assert policy.tokenizer.decode(ids, skip_special_tokens=True) == response["response"]


def test_states_come_back_as_they_were_seen(policy, made):
    requests = make_plan(policy, prompt_rows(), SETTINGS).requests
    expected = {
        request.key: response
        for request in requests
        for response in generate_batch(policy, [request], SETTINGS.decoding, keep_states=True)
    }
    found = {name: states for key in made.groups() for name, states in made.read(key).responses()}
    assert {n for n, r in expected.items() if r.token_ids} == set(found)
    for name, states in found.items():
        assert states.dtype == torch.float16
        torch.testing.assert_close(states.float(), expected[name].states, rtol=2e-3, atol=2e-3)


def test_the_number_of_shards_changes_no_byte_of_the_result(policy, made, tmp_path):
    assert len(made.manifest["shards"]) > 2
    one = extract(policy, tmp_path, SETTINGS.model_copy(update={"prompts_per_shard": 1000}))
    assert len(one.manifest["shards"]) == 1
    assert all_rows(one).equals(all_rows(made))
    assert (one.directory / RESPONSES_FILE).read_bytes() == (made.directory / RESPONSES_FILE).read_bytes()


def test_a_killed_extraction_goes_on_after_its_finished_shards(policy, made, tmp_path, monkeypatch):
    calls = []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # in the middle of the second shard
            raise KeyboardInterrupt
        return generate_batch(*args, **kwargs)

    monkeypatch.setattr(activations_module, "generate_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        extract(policy, tmp_path)
    assert not (tmp_path / "out").exists()
    resumed = extract(policy, tmp_path)
    assert len(calls) == 4 + 8 - 2  # eight batches in shards of two; the first shard was kept
    for file in sorted(path.name for path in made.directory.iterdir()):
        assert (resumed.directory / file).read_bytes() == (made.directory / file).read_bytes()


def test_shards_are_plain_and_say_what_they_hold(made):
    path = made.directory / made.manifest["shards"][0]["file"]
    metadata = pq.read_metadata(path)
    column = next(c for i in range(4) if (c := metadata.row_group(0).column(i)).path_in_schema == "state")
    assert column.compression == "UNCOMPRESSED"
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    facts = pq.read_schema(path).metadata
    assert facts[b"dtype"] == b"float16"
    assert facts[b"shape"] == b"[32]"
    assert facts[b"fingerprint"] == b"fingerprint-0"
    assert facts[b"layer"] == b"final"
    assert b"revision" in facts


def test_the_manifest_counts_rows_and_vouches_for_bytes(made):
    manifest = read_json(made.directory / MANIFEST)
    for shard in manifest["shards"]:
        assert pq.read_metadata(made.directory / shard["file"]).num_rows == shard["rows"]
    made.verify()


def test_long_prompts_are_left_out_and_counted(policy, tmp_path):
    lengths = [len(r.prompt_ids) for r in make_plan(policy, prompt_rows(), SETTINGS).requests[::3]]
    limit = sorted(lengths)[3]
    settings = SETTINGS.model_copy(update={"max_prompt_tokens": limit})
    counts = extract_activations(policy, prompt_rows(), settings, tmp_path / "out", tmp_path / "parts")
    assert counts["prompts_left_out"] == sum(n > limit for n in lengths) > 0
    kept = Activations(tmp_path / "out").responses()["row_id"].to_pylist()
    assert sorted(set(kept)) == [f"row{i}" for i, n in enumerate(lengths) if n <= limit]
    with pytest.raises(DataError, match="all 8 prompts are longer than 1 "):
        extract(policy, tmp_path, SETTINGS.model_copy(update={"max_prompt_tokens": 1}))


def test_a_prompt_without_room_in_the_context_is_left_out(policy, tmp_path):
    settings = SETTINGS.model_copy(
        update={"max_prompt_tokens": 1000, "decoding": Decoding(max_new_tokens=100, batch_size=3)}
    )
    plan = make_plan(policy, prompt_rows(), settings)
    assert 0 < plan.left_out < 8


@pytest.fixture
def files(tmp_path):
    rng = torch.Generator().manual_seed(0)
    states = {f"row{i}/0": torch.randn(3, 8, generator=rng) for i in range(9)}
    return write_activations(tmp_path / "a", states, shards=3)


def test_a_damaged_shard_is_named(files):
    path = files / "states-00001.parquet"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(bytes(raw))
    opened = Activations(files)
    opened.read((0, 0))
    with pytest.raises(DataError, match=r"states-00001.parquet: is damaged"):
        opened.read((1, 0))
    with pytest.raises(DataError, match=r"states-00001.parquet"):
        Activations(files).verify()


def test_a_cut_shard_and_damaged_responses_are_named(files):
    path = files / "states-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"states-00002.parquet"):
        Activations(files).read((2, 0))
    (files / RESPONSES_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=RESPONSES_FILE):
        Activations(files).responses()


def test_a_missing_shard_is_named_at_once(files):
    (files / "states-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"states-00001.parquet: is missing"):
        Activations(files)


def test_states_map_into_torch_without_a_copy():
    numbers = torch.arange(12, dtype=torch.float16).view(3, 4)
    array = pa.array([row.numpy().tobytes() for row in numbers], pa.binary(8))
    tensor = _as_tensor(array, torch.float16, 4)
    assert tensor.data_ptr() == array.buffers()[1].address
    assert torch.equal(tensor, numbers)
    assert torch.equal(_as_tensor(array[1:], torch.float16, 4), numbers[1:])


def test_bfloat16_is_stored_as_bfloat16(tmp_path):
    states = {"row0/0": torch.tensor([[1.0e30, -2.5, 3.14159, 0.0]])}
    made = Activations(write_activations(tmp_path / "a", states, dtype=torch.bfloat16))
    assert torch.equal(made.read((0, 0)).states, states["row0/0"].bfloat16())


def test_a_state_beyond_float16_is_an_error_not_infinity(tmp_path):
    with pytest.raises(DataError, match=r"row0/0.*bfloat16"):
        write_activations(tmp_path / "a", {"row0/0": torch.full((1, 4), 1.0e6)})


def test_a_row_group_holds_whole_responses(tmp_path):
    states = {f"row{i}/0": torch.full((1500, 4), float(i)) for i in range(5)}
    made = Activations(write_activations(tmp_path / "a", states))
    groups = [made.read(key) for key in made.groups()]
    assert [group.response_ids for group in groups] == [["row0/0", "row1/0", "row2/0"], ["row3/0", "row4/0"]]
    for group in groups:
        for name, found in group.responses():
            assert torch.equal(found.float(), states[name])


def test_a_bfloat16_policy_is_decoded_and_stored_in_its_own_type(tmp_path):
    policy = make_policy(dtype=torch.bfloat16)
    made = extract(policy, tmp_path)
    assert made.dtype == torch.bfloat16
    ((_, states), *_) = made.read(made.groups()[0]).responses()
    assert states.dtype == torch.bfloat16
    network = new_network(Shape(policy.hidden_size, 24, 2), 0).requires_grad_(False)
    request = make_plan(policy, prompt_rows(), SETTINGS).requests[0]
    (response,) = generate_batch(policy, [request], SETTINGS.decoding, control=ValueAscent(network, 0.5, 5))
    assert response.displacement > 0
