"""Shards of hidden states: plain Parquet, read without a copy; damaged files are named."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rebend.errors import DataError
from rebend.recontrol.value_model.activation_store import RESPONSES_FILE, Activations, _as_tensor, key_of
from tests.helpers.state_files import write_activations


@pytest.fixture
def states():
    rng = torch.Generator().manual_seed(0)
    return {f"row{i}/0": torch.randn(3, 8, generator=rng) for i in range(9)}


@pytest.fixture
def files(states, tmp_path) -> Path:
    return write_activations(tmp_path / "a", states, shards=3)


def shard(files: Path, number: int) -> Path:
    return files / f"states-{number:05d}-of-00003.parquet"


def test_a_damaged_shard_is_an_error_that_names_it_and_the_remedy(files):
    raw = bytearray(shard(files, 1).read_bytes())
    raw[100] ^= 1
    shard(files, 1).write_bytes(bytes(raw))
    opened = Activations(files)
    opened.read(0)
    with pytest.raises(DataError, match=r"states-00001-of-00003.parquet: is damaged.*only this file is made again"):
        opened.read(1)
    with pytest.raises(DataError, match=r"states-00001-of-00003.parquet"):
        Activations(files).verify()


def test_a_truncated_shard_and_a_damaged_file_of_responses_are_named(files):
    shard(files, 2).write_bytes(shard(files, 2).read_bytes()[:-20])
    with pytest.raises(DataError, match=r"states-00002-of-00003.parquet"):
        Activations(files).read(2)
    (files / RESPONSES_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=RESPONSES_FILE):
        Activations(files).responses()


def test_a_missing_shard_is_named_when_the_folder_is_opened(files):
    shard(files, 1).unlink()
    with pytest.raises(DataError, match=r"states-00001-of-00003.parquet: is missing"):
        Activations(files)


def test_states_are_stored_without_compression_and_dictionary(files):
    metadata = pq.read_metadata(shard(files, 0))
    column = next(c for i in range(5) if (c := metadata.row_group(0).column(i)).path_in_schema == "state")
    assert column.compression == "UNCOMPRESSED"
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)


def test_the_two_lines_for_pandas_in_the_docstring_read_the_states(files, states):
    column = pandas.read_parquet(shard(files, 0))["state"]
    array = np.frombuffer(b"".join(column), "float16").reshape(len(column), -1)
    assert torch.equal(torch.from_numpy(array.copy()), torch.cat(list(states.values())[:3]).half())


def test_duckdb_and_polars_read_the_states(files, states):
    every = str(files / "states-*.parquet")
    expected = torch.cat(list(states.values())).half().numpy().tobytes()
    rows = duckdb.sql(f"select state from read_parquet('{every}', filename = true) order by filename, file_row_number")
    assert b"".join(row[0] for row in rows.fetchall()) == expected
    assert b"".join(polars.read_parquet(every)["state"].to_list()) == expected
    tokens = duckdb.sql(f"select response_id, count(*) from '{every}' group by 1").fetchall()
    assert dict(tokens) == dict.fromkeys(states, 3)


def test_states_become_tensors_without_a_copy():
    numbers = torch.arange(12, dtype=torch.float16).view(3, 4)
    array = pa.array([row.numpy().tobytes() for row in numbers], pa.binary(8))
    tensor = _as_tensor(array, torch.float16, 4)
    assert tensor.data_ptr() == array.buffers()[1].address
    assert torch.equal(tensor, numbers)
    assert torch.equal(_as_tensor(array[1:], torch.float16, 4), numbers[1:])


def test_bfloat16_is_stored_as_bfloat16(tmp_path):
    states = {"row0/0": torch.tensor([[1.0e30, -2.5, 3.14159, 0.0]])}
    folder = write_activations(tmp_path / "a", states, dtype=torch.bfloat16)
    assert torch.equal(Activations(folder).read(0).states, states["row0/0"].bfloat16())
    column = pq.read_table(folder / "states-00000-of-00001.parquet")["state"].to_pylist()
    stored = torch.frombuffer(bytearray(b"".join(column)), dtype=torch.bfloat16)
    assert torch.equal(stored, states["row0/0"].bfloat16().flatten())


def test_a_state_beyond_the_range_of_float16_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"row0/0.*bfloat16"):
        write_activations(tmp_path / "a", {"row0/0": torch.full((1, 4), 1.0e6)})


def test_a_row_group_holds_whole_responses(tmp_path):
    states = {f"row{i}/0": torch.full((1500, 4), float(i)) for i in range(5)}
    activations = Activations(write_activations(tmp_path / "a", states))
    groups = [activations.read(number) for number in activations.groups()]
    assert [group.response_ids for group in groups] == [["row0/0", "row1/0", "row2/0"], ["row3/0", "row4/0"]]
    for group in groups:
        for name, stored in group.responses():
            assert torch.equal(stored.float(), states[name])


def test_the_index_lists_ids_lengths_and_row_groups_of_all_responses(tmp_path):
    states = {f"row{i}/0": torch.full((2 + i % 3, 4), float(i)) for i in range(7)}
    index = Activations(write_activations(tmp_path / "a", states, shards=2, chunk=3)).index()
    assert index.keys.tolist() == [key_of(name) for name in states]
    assert index.lengths.tolist() == [len(response) for response in states.values()]
    assert index.first.tolist() == [0, 3, 6, 7]
