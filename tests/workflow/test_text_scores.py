"""The scores of text that a grid asks for: perplexity and repetition of answers, and perplexity on held-out chats."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from rebend.io.files import read_json
from tests.workflow.checkout import MICRO, Checkout
from tests.workflow.jobs import copy_of

STUDY = f"{MICRO}/text.yaml"
SCORES = "results/scores"
MODELS = ("micro", "micro+micro_adapter")


@pytest.fixture(scope="module")
def scored(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the built checkout in which the study of this test is built, too."""
    checkout = copy_of(built, tmp_path_factory.mktemp("text") / "copy")
    done = checkout.snakemake("--skip-script-cleanup", study=STUDY)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert not any(f"rule {rule}:" in done.stderr for rule in ("decode", "attack", "train_adapter"))
    return checkout


def table(checkout: Checkout, name: str) -> pd.DataFrame:
    return pd.read_csv(checkout.folder / f"results/tables/{name}.csv", keep_default_na=False)


def nlls(checkout: Checkout, model: str) -> pd.Series:
    """Return the mean negative log-likelihood of each held-out dialogue."""
    path = checkout.folder / SCORES / "chat_perplexity/micro_chats" / f"{model}.parquet"
    return pd.read_parquet(path).set_index("row_id")["score"]


def test_every_answer_has_its_perplexity_and_repetition(scored: Checkout) -> None:
    model = "micro+micro_adapter"
    answers = [f"responses/{model}/micro_test/{control}" for control in ("micro_none", "micro_prompting")]
    answers += [f"completions/{model}/micro_safety/{attack}/micro_none" for attack in ("direct", "micro_prefilling")]
    for stage in ("perplexity", "repetition"):
        for name in answers:
            scores = pd.read_parquet(scored.folder / SCORES / stage / f"{name}.parquet")
            written = pd.read_parquet(scored.folder / "results" / f"{name}.parquet")
            assert scores["row_id"].tolist() == written["row_id"].tolist()
            assert scores["score"].notna().any() and (scores["score"].dropna() >= 0).all()
    record = read_json(scored.folder / SCORES / "perplexity" / f"{answers[0]}.run.json")
    assert "results/models/micro" in record["inputs"] and "results/models/micro+micro_adapter" not in record["inputs"]


def test_tables_have_the_metrics_and_their_ratios(scored: Checkout) -> None:
    matrix, gains = table(scored, "matrix"), table(scored, "gains")
    assert set(matrix["metric"]) >= {
        "perplexity", "repetition", "benign_perplexity", "benign_repetition", "chat_perplexity",
        *(f"harmful_{name}{attack}" for name in ("perplexity", "repetition") for attack in ("", "_micro_prefilling")),
    }  # fmt: skip
    base, adapted = (nlls(scored, model) for model in MODELS)
    lines = matrix[matrix["metric"] == "chat_perplexity"].set_index("adapter")
    for adapter, scores in (("none", base), ("micro_adapter", adapted)):
        assert float(lines.loc[adapter, "estimate"]) == pytest.approx(math.exp(scores.mean()), rel=1e-5)
    (ratio,) = gains[gains["metric"] == "chat_perplexity_ratio"].to_dict("records")
    assert float(ratio["estimate"]) == pytest.approx(math.exp((adapted - base).mean()), rel=1e-5)
    assert float(ratio["ci_low"]) <= float(ratio["estimate"]) <= float(ratio["ci_high"])
    assert float(ratio["value"]) == pytest.approx(math.exp(adapted.mean()), rel=1e-5)
    prompted = gains[(gains["metric"] == "perplexity_ratio") & (gains["compares"] == "control")]
    assert set(prompted["control"]) == {"micro_prompting"}


def test_a_second_run_has_nothing_to_do(scored: Checkout) -> None:
    assert "Nothing to be done" in (done := scored.snakemake(study=STUDY)).stdout + done.stderr


def test_chats_that_something_learnt_from_are_refused(checkout: Checkout) -> None:
    """The chats have another name, but are the first rows of those that the adapter retains."""
    same = {
        "datasets": {"micro_chats": {"source": {"world": {"part": "retain", "rows": 10, "seed": 0}}, "without": []}}
    }
    done = checkout.snakemake("results/overlap/micro_chats.json", study=STUDY, change=same)
    assert done.returncode != 0
    log = (checkout.folder / "results/logs/check_overlap/micro_chats.log").read_text(encoding="utf-8")
    assert "are also in 'micro_retain' (adapters.micro_adapter.retain_chats)" in log
