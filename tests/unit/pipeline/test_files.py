"""Local files of data sets are checked before any job: each mistake gives one message."""

import gzip
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rebend.data.assets import token_mistake
from rebend.pipeline.checks.files import check_source


def saved(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def one(mistakes):
    (mistake,) = mistakes
    return mistake


HH_LINE = json.dumps({"chosen": "\n\nHuman: Hi\n\nAssistant: A.", "rejected": "\n\nHuman: Hi\n\nAssistant: B."}) + "\n"


def test_valid_sources_give_no_message(tmp_path):
    hh = saved(tmp_path / "hh.jsonl.gz", gzip.compress(HH_LINE.encode()))
    table = saved(tmp_path / "t.csv", "prompt,harmful\nWhy?,0\n")
    posts, answers = saved(tmp_path / "p.json", '{"history": "x"}'), saved(tmp_path / "a.json", '{"prefer": "y"}')
    pq.write_table(pa.table({"prompt": ["Why?"], "harmful": [True]}), tmp_path / "t.parquet")
    assert check_source("datasets.a", "hh_rlhf", "prompts", hh) == []
    assert check_source("datasets.a", "table", "evaluation", table) == []
    assert check_source("datasets.a", "table", "evaluation", tmp_path / "t.parquet") == []
    assert check_source("datasets.a", "recontrol", "prompts", posts, answers) == []


def test_missing_file_is_named_with_the_likely_typo(tmp_path):
    saved(tmp_path / "train.jsonl.gz", b"x")
    mistake = one(check_source("datasets.hh", "hh_rlhf", "prompts", tmp_path / "trian.jsonl.gz"))
    assert mistake.startswith(f"datasets.hh: {tmp_path}/trian.jsonl.gz: there is no such file.")
    assert mistake.endswith("Did you mean 'train.jsonl.gz'?")
    mistake = one(check_source("datasets.hh", "hh_rlhf", "prompts", tmp_path / "nowhere" / "train.jsonl.gz"))
    assert f"its folder {tmp_path}/nowhere does not exist" in mistake
    assert "a folder; name the file in it" in one(check_source("datasets.hh", "hh_rlhf", "prompts", tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "the file is empty"),
        ("a.jsonl", "\n\n", "the file holds no rows"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "the file holds no rows"),
        ("a.csv", "prompt,harmful\n", "the file holds no rows"),
        ("a.json", "[]", "the file holds no rows"),
        ("a.txt", "x", "unknown file type. Allowed: .jsonl"),
        ("a.jsonl.gz", b"not compressed at all", "cannot be read"),
        ("a.parquet", b"PAR1 cut off", "not a complete Parquet file"),
        ("a.jsonl", '{"prompt": "x", "harmful": 0}\n{"prompt"\n', "a.jsonl:2: not a JSON object"),
        ("a.csv", "prompt,harmful\nx,1\ny,2\n", "a.csv:3: 'harmful' is '2'. Allowed: true"),
        ("a.csv", "promt,harmful\nx,1\n", "a.csv:1: column 'prompt' is missing"),
        ("a.csv", "promt,harmful\n", "a.csv:1: column 'prompt' is missing"),
        ("a.csv", "prompt,harmful\n,1\n ,1\n", "none of the first 2 rows can be used as evaluation by reader 'table'"),
    ],
)
def test_each_mistake_gives_one_message_with_file_and_line(tmp_path, name, content, message):
    mistake = one(check_source("datasets.mine", "table", "evaluation", saved(tmp_path / name, content)))
    assert mistake.startswith("datasets.mine: ") and str(tmp_path / name) in mistake and message in mistake


def test_missing_column_is_named_with_the_existing_ones_and_the_likely_typo(tmp_path):
    path = saved(tmp_path / "a.jsonl", '{"promt": "x", "id": 3}\n')
    mistake = one(check_source("datasets.mine", "table", "prompts", path))
    assert "a.jsonl:1: column 'prompt' is missing" in mistake
    assert "Found: promt, id. Did you mean 'promt'?" in mistake


def test_missing_column_of_a_parquet_file_is_detected_in_its_footer(tmp_path):
    pq.write_table(pa.table({"prompt": ["x"], "prompt_harm_labels": ["harmful"]}), tmp_path / "a.parquet")
    mistake = one(check_source("datasets.mine", "wildguardmix", "evaluation", tmp_path / "a.parquet"))
    assert "a.parquet: column 'prompt_harm_label' is missing" in mistake


def test_file_without_selected_rows_is_valid(tmp_path):
    row = {
        "prompt": "x",
        "response": None,
        "prompt_harm_label": "harmful",
        "response_harm_label": None,
        "response_refusal_label": None,
    }
    path = saved(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    assert check_source("datasets.mine", "wildguardmix", "safety", path) == []


def test_second_file_is_checked(tmp_path):
    posts = saved(tmp_path / "posts.jsonl", '{"history": "x"}\n')
    answers = saved(tmp_path / "prefer.jsonl", '{"preferred": "y"}\n')
    mistake = one(check_source("datasets.shp", "recontrol", "prompts", posts, answers))
    assert "prefer.jsonl:1: column 'prefer' is missing" in mistake and "Did you mean 'preferred'" in mistake
    assert "there is no such file" in one(check_source("datasets.shp", "recontrol", "prompts", posts, tmp_path / "no"))


def test_files_with_one_json_object_and_a_shared_key_are_checked(tmp_path):
    header = "Behavior,FunctionalCategory,SemanticCategory,ContextString,BehaviorID\n"
    behaviours = saved(tmp_path / "b.csv", header + "zor it,standard,a,,zor\n")
    targets = saved(tmp_path / "t.json", json.dumps({"zor": "Sure, zor"}, indent=2))
    cases = saved(tmp_path / "test_cases.json", json.dumps({"zor": ["Zorv! zor it"]}, indent=2))
    assert check_source("datasets.a", "harmbench", "evaluation", behaviours, targets) == []
    assert check_source("datasets.a", "harmbench_cases", "evaluation", cases, behaviours) == []
    keyless = saved(tmp_path / "k.csv", "Behavior,FunctionalCategory\nzor it,standard\n")
    assert check_source("datasets.a", "harmbench", "evaluation", keyless) == []
    assert "column 'BehaviorID' is missing" in one(
        check_source("datasets.a", "harmbench", "evaluation", keyless, targets)
    )
    assert "not a JSON object" in one(
        check_source("datasets.a", "harmbench_cases", "evaluation", saved(tmp_path / "c.json", '{"zor": ['), behaviours)
    )


def test_column_that_selects_rows_must_exist(tmp_path):
    table = saved(tmp_path / "t.csv", "prompt,harmful,part\nWhy?,0,a\n")
    assert check_source("datasets.a", "table", "evaluation", table, only=["part"]) == []
    mistake = one(check_source("datasets.a", "table", "evaluation", table, only=["parts"]))
    assert "column 'parts' is missing" in mistake and "Did you mean 'part'" in mistake


def test_only_the_first_rows_of_a_large_file_are_read(tmp_path):
    path = saved(tmp_path / "big.jsonl", HH_LINE * 400_000)
    start = time.perf_counter()
    assert check_source("datasets.big", "hh_rlhf", "chat", path) == []
    assert time.perf_counter() - start < 0.5  # reading the whole file would take seconds


def test_missing_token_for_a_gated_repository_is_reported(tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    mistake = token_mistake("datasets.guard", "allenai/wildguardmix", "0123456789", "train/data.parquet")
    assert mistake is not None and mistake.startswith("datasets.guard: allenai/wildguardmix is gated")
    assert "https://huggingface.co/datasets/allenai/wildguardmix and set HF_TOKEN" in mistake
    model = token_mistake("models.llama", "meta-llama/Llama", "0123456789")
    assert model is not None and "https://huggingface.co/meta-llama/Llama and" in model

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert token_mistake("models.llama", "meta-llama/Llama", "0123456789") is None
    monkeypatch.delenv("HF_TOKEN")
    cached = tmp_path / "hub" / "datasets--allenai--wildguardmix" / "snapshots" / "0123456789" / "train"
    cached.mkdir(parents=True)
    assert token_mistake("datasets.guard", "allenai/wildguardmix", "0123456789", "train/data.parquet")
    (cached / "data.parquet").write_bytes(b"x")
    assert token_mistake("datasets.guard", "allenai/wildguardmix", "0123456789", "train/data.parquet") is None
    (tmp_path / "token").write_text("hf_x")
    assert token_mistake("models.llama", "meta-llama/Llama", "0123456789") is None
