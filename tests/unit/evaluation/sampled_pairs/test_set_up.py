"""The set-up of the jobs that sample: `least` and the judge's options come from the job's resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from rebend.config.base import settings
from rebend.config.datasets import SampledChatsBlock
from rebend.evaluation.sampled_pairs.chats import sample_chats
from rebend.evaluation.sampled_pairs.set_up import set_up
from rebend.io.files import write_parquet
from rebend.io.schemas import PROMPTS as SCHEMA
from tests.helpers.small_policy import make_policy, prompt_rows


class Files(dict[str, Any]):
    """The inputs of a job: by key and by attribute."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


def test_set_up_gives_what_sampling_needs_and_least_of_the_resources(tmp_path: Path) -> None:
    policy = make_policy()
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    rows = [*prompt_rows(), prompt_rows()[0] | {"row_id": "again"}]
    write_parquet(tmp_path / "prompts.parquet", pa.Table.from_pylist(rows, schema=SCHEMA), {"kind": "prompts"})
    decoding = {"max_new_tokens": 8, "seed": 5}
    names = {"kind": "chat", "reader": "sampled_chats", "model": "m", "prompts": ["p"], "judge": "j"}
    plain = {**names, "decoding": decoding, "seed": 2}
    job = {
        "block": settings(SampledChatsBlock.model_validate(plain), without=("least",)),
        "safety_judge": {"method": "refusal_matcher"},
        "dtype": "float32",
    }
    files = Files(model=tmp_path / "model", prompts=[tmp_path / "prompts.parquet"], without=[], judge=[])
    block, prompts, left_out, sampler = set_up(
        SampledChatsBlock, job, files, {"least": "3"}, tmp_path / "progress", harmful=False
    )
    assert (block.least, left_out) == (3, {"repeated prompt": 1})
    assert [row["row_id"] for row in prompts] == [row["row_id"] for row in prompt_rows()]
    assert (sampler.decoding.seed, sampler.judge.model) == (7, None)
    table, facts = sample_chats(block.model_copy(update={"least": 1}), prompts, sampler)
    assert table.num_rows == facts["rows"]
    assert sampler.judge.folder == tmp_path / "progress/judged" and list((tmp_path / "progress/sampled").iterdir())
