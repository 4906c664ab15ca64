"""A study with a reward model behind an HTTP address: each stage that needs rewards runs, and no file holds the key."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rebend.io.files import read_json, read_parquet
from rebend.io.schemas import SCORES
from tests.helpers.reward_server import TEMPLATE, RewardServer, endpoints_on_call
from tests.workflow.checkout import MICRO, Checkout

SECRET = "reward-planted-51c0"
STUDY = f"{MICRO}/endpoint.yaml"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RewardServer]]:
    with endpoints_on_call(monkeypatch) as start:
        yield start


def with_endpoint(**options: Any) -> dict[str, Any]:
    """Return a change of the catalogue that puts the micro study's reward model behind an address."""
    return {"rewards": {"micro_reward": {"tiny": None, "template": TEMPLATE, "http": {"model": "m-1", **options}}}}


def test_study_is_built_with_rewards_from_an_address(
    checkout: Checkout, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = checkout.snakemake(study=STUDY, change=with_endpoint(key=True))
    output = without.stdout + without.stderr
    assert without.returncode != 0 and "rewards.micro_reward.http: has no `url`, and REWARD_URL is not set" in output
    assert "REWARD_API_KEY is not set" in output and not (checkout.folder / "results/data").exists()

    server = serve()
    monkeypatch.setenv("REWARD_URL", server.url)
    monkeypatch.setenv("REWARD_API_KEY", SECRET)
    done = checkout.snakemake(study=STUDY, change=with_endpoint(key=True, concurrency=1))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-6000:]
    assert {request["key"] for request in server.requests} == {f"Bearer {SECRET}"}
    assert server.most_running <= 2  # two jobs with concurrency 1
    assert SECRET not in output
    assert not [p for p in checkout.folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    with (checkout.folder / "results/tables/recontrol.csv").open() as stream:
        assert {row["control"] for row in csv.DictReader(stream)} == {
            "none",
            "micro_climb",
            "micro_search",
            "micro_best",
        }
    rows = read_parquet(checkout.folder / "results/data/micro_test.parquet").to_pylist()
    responses = read_parquet(checkout.folder / "results/responses/micro/micro_test/micro_none.parquet").to_pylist()
    scores = checkout.folder / "results/scores/reward/micro_reward/micro/micro_test/micro_none.parquet"
    texts = [f"Human: {r['messages'][-1]['content']}\n\nAssistant: " for r in rows]
    expected = server.rewards([text + r["response"] for text, r in zip(texts, responses, strict=True)])
    assert read_parquet(scores, SCORES)["score"].to_pylist() == expected
    attacked = {path.stem: path for path in (checkout.folder / "results/completions").rglob("*.parquet")}
    assert set(attacked) == {"micro_static", "micro_search", "micro_prefix"}
    prefill = read_parquet(attacked["micro_search"])["prefill"][0].as_py()
    assert prefill and any(f"Assistant: {prefill}" in text for sent in server.requests for text in sent["query"])
    assert read_json(checkout.folder / "results/reward_models/micro_reward/endpoint.json")["model"] == "m-1"

    idle = checkout.snakemake(
        "--dry-run", study=STUDY, change=with_endpoint(key=True, concurrency=3, timeout=9, retries=1)
    )
    assert "Nothing to be done" in idle.stdout + idle.stderr


def test_address_without_a_server_stops_the_study_with_an_error(checkout: Checkout, serve: Any) -> None:
    server = serve()
    server.shutdown()
    server.server_close()
    target = "results/reward_models/micro_reward"
    done = checkout.snakemake(target, study=STUDY, change=with_endpoint(url=server.url, retries=0))
    assert done.returncode != 0
    log = (checkout.folder / "results/logs/check_reward_endpoint/micro_reward.log").read_text()
    assert "ModelError: the reward model 'm-1' at its address did not answer in 1 attempts" in log
