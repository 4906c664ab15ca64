"""Running an attack, with the attacks direct and prefilling: completions, attempts, private files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rebend.config.controls import ControlBlock
from rebend.config.decoding import Decoding
from rebend.config.safety import DirectBlock, PrefillingBlock
from rebend.evaluation.attacks.attack import run_attack
from rebend.generation.generate import decode, generate
from rebend.generation.intervention import NoControl
from rebend.io.chunks import ChunkStore
from rebend.io.files import read_parquet, write_parquet
from rebend.io.schemas import COMPLETIONS, EVALUATION, RESPONSES
from rebend.models.loading import Policy
from rebend.recontrol.methods.prompting import Prompting
from tests.helpers.small_policy import PROMPTS, make_policy, prompt_rows

GREEDY = Decoding(max_new_tokens=12, batch_size=8)
SAMPLED = Decoding(max_new_tokens=12, temperature=1.0, batch_size=3)
DIRECT = DirectBlock(method="direct")
PREFILLING = PrefillingBlock(method="prefilling", target="Sure, here is", suffix=": ")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return make_policy()


def evaluation_rows() -> list[dict[str, Any]]:
    """Alternate harmful and benign prompts; every second harmful row has its own target."""
    return [
        {**row, "harmful": i % 2 == 0, "target": "First take the lamp," if i % 4 == 0 else "", "category": ""}
        for i, row in enumerate(prompt_rows())
    ]


def attacked(policy: Policy, attack: Any, decoding: Decoding = GREEDY, control: Any = None, **rest: Any) -> Any:
    rows = rest.pop("rows", None) or evaluation_rows()
    return run_attack(policy, rows, attack, decoding, control or NoControl(), rest.pop("parts", ChunkStore(None)))


def test_direct_equals_decoding_of_the_prompts(policy: Policy) -> None:
    for decoding in (GREEDY, SAMPLED):
        table, notes = attacked(policy, DIRECT, decoding)
        plain, plain_notes = decode(policy, evaluation_rows(), decoding, NoControl(), ChunkStore(None))
        assert table.select(RESPONSES.names).equals(plain)
        assert table.schema == COMPLETIONS
        assert set(table["attempt"].to_pylist()) == {0} and set(table["prefill"].to_pylist()) == {""}
        assert plain_notes.items() <= notes.items()


def test_prefilling_begins_responses_to_harmful_prompts_with_the_target(policy: Policy) -> None:
    table, notes = attacked(policy, PREFILLING)
    harmful = [row for row in evaluation_rows() if row["harmful"]]
    assert table["row_id"].to_pylist() == [row["row_id"] for row in harmful]
    assert notes["prompts_attacked"] == len(harmful)
    expected = [(row["target"] or "Sure, here is") + ": " for row in harmful]
    assert table["prefill"].to_pylist() == expected
    by_hand = generate(policy, [row["messages"] for row in harmful], GREEDY, prefills=expected)
    assert table["response"].to_pylist() == [response.text for response in by_hand if response]
    plain = attacked(policy, DIRECT)[0].to_pylist()
    continued = {line["row_id"]: line["response"].removeprefix(line["prefill"]) for line in table.to_pylist()}
    assert any(continued[line["row_id"]] != line["response"] for line in plain if line["row_id"] in continued)


def test_released_prefilling_keeps_the_answer_alone_for_judges(policy: Policy) -> None:
    whole = attacked(policy, PREFILLING)[0].to_pylist()
    alone = attacked(policy, PREFILLING.model_copy(update={"variant": "released_code"}))[0].to_pylist()
    assert [line["row_id"] for line in alone] == [line["row_id"] for line in whole]
    for one, other in zip(alone, whole, strict=True):
        assert one["prefill"] == "" and other["response"] == other["prefill"] + one["response"]
        assert (one["n_tokens"], one["finish"]) == (other["n_tokens"], other["finish"])


def test_attempts_differ_and_attempt_0_equals_a_single_attempt(policy: Policy) -> None:
    for attack in (DIRECT, PREFILLING):
        thrice = attack.model_copy(update={"attempts": 3})
        table, _ = attacked(policy, thrice, SAMPLED)
        assert table.equals(attacked(policy, thrice, SAMPLED.model_copy(update={"batch_size": 8}))[0])
        lines = table.to_pylist()
        n = len(lines) // 3
        assert [line["attempt"] for line in lines] == [0, 1, 2] * n
        assert [line for line in lines if line["attempt"] == 0] == attacked(policy, attack, SAMPLED)[0].to_pylist()
        texts_by_prompt = [{line["response"] for line in lines[start : start + 3]} for start in range(0, 3 * n, 3)]
        assert sum(len(texts) == 3 for texts in texts_by_prompt) > n / 2
        reseeded = attacked(policy, thrice.model_copy(update={"seed": 1}), SAMPLED)[0]
        assert reseeded["response"] != table["response"]


def test_prompt_beyond_the_context_has_a_null_response_in_every_attempt(policy: Policy) -> None:
    rows = evaluation_rows()
    rows[2] = {**rows[2], "messages": [{"role": "user", "content": "word " * 200}]}
    table, notes = attacked(policy, PREFILLING.model_copy(update={"attempts": 2}), SAMPLED, rows=rows)
    lost = [line for line in table.to_pylist() if line["response"] is None]
    assert [(line["row_id"], line["attempt"]) for line in lost] == [("row2", 0), ("row2", 1)]
    assert {line["finish"] for line in lost} == {None} and {line["n_tokens"] for line in lost} == {0}
    assert notes["prompts_without_room"] == 1


def test_data_set_without_harmful_prompts_gives_an_empty_table(policy: Policy) -> None:
    rows = [{**row, "harmful": False} for row in evaluation_rows()]
    table, notes = attacked(policy, PREFILLING, rows=rows)
    assert table.num_rows == 0 and table.schema == COMPLETIONS
    assert notes["prompts_attacked"] == 0


def test_completions_are_decoded_under_the_control(policy: Policy) -> None:
    control = Prompting("Be kind.")
    table, _ = attacked(policy, DIRECT, control=control)
    by_hand = generate(policy, PROMPTS, GREEDY, control=control)
    assert table["response"].to_pylist() == [response.text for response in by_hand if response]


STAGE = """
import json, os, runpy, sys
from types import SimpleNamespace

class Named(list):
    def __init__(self, names):
        super().__init__(names.values())
        self.__dict__.update(names)
    def get(self, name, default=None):
        return self.__dict__.get(name, default)

os.umask(0o022)
job = json.load(open(sys.argv[1]))
snakemake = SimpleNamespace(**{k: Named(job[k]) for k in ("input", "output", "params")}, log=[job["log"]], threads=1)
snakemake.rule = "attack"
snakemake.resources = Named({"gpu": 0, "endpoint_options": "{}"})
runpy.run_path(job["script"], init_globals={"snakemake": snakemake})
"""


def test_files_of_the_stage_are_private(policy: Policy, tmp_path: Path) -> None:
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    rows = [{**row, "reference": None} for row in evaluation_rows()]
    write_parquet(tmp_path / "data.parquet", pa.Table.from_pylist(rows, EVALUATION))
    results = tmp_path / "results"
    control = ControlBlock(method="none", decoding=GREEDY)
    settings = {
        "attack": PREFILLING.model_dump(),
        "control": control.model_dump(),
        "guidance_reward": None,
        "dtype": "float32",
    }
    job = {
        "input": {"model": str(tmp_path / "model"), "data": str(tmp_path / "data.parquet")},
        "output": {"completions": str(results / "c.parquet"), "record": str(results / "c.json")},
        "params": {"settings": settings, "code": "x", "progress": str(results / "progress"), "private": True},
        "log": str(results / "log"),
        "script": str(Path(__file__).parents[4] / "workflow/scripts/evaluation/attack.py"),
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    environment = {**os.environ, "REBEND_WARM": "off"}
    subprocess.run([sys.executable, "-c", STAGE, str(tmp_path / "job.json")], check=True, env=environment)
    table = read_parquet(results / "c.parquet", COMPLETIONS)
    assert table.equals(attacked(policy, PREFILLING)[0].replace_schema_metadata(table.schema.metadata))
    files = [file for file in results.rglob("*") if file.is_file()]
    kept = [file for file in files if (results / "progress") in file.parents]
    assert [file.suffix for file in kept] == [".lock"]  # only the lock file remains
    assert {file.name for file in files if file not in kept} == {"c.parquet", "c.json", "log"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
