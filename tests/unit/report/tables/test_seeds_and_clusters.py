"""Tables over several training seeds and over clusters of prompts, from invented result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from rebend.config.safety import DirectBlock, EmbeddingBlock, GcgBlock
from rebend.evaluation.intervals import paired_gain, rate
from rebend.io.files import read_parquet, write_parquet
from rebend.pipeline.graph.cells import with_tries
from rebend.report.html.page import provenance
from rebend.report.tables.all import note, shown
from tests.helpers.study_factory import evaluation_data, prompts_cell, prompts_data, safety_cell
from tests.helpers.study_tables import make_tables, one_row

HARMFUL = {"0": 2, "1": 2, "2": 30}  # seed → answered harmful prompts of each kind


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return cells of the base, of rmu trained once, and of repbend and a control trained over three seeds."""
    root = tmp_path_factory.mktemp("seeds")
    chats, harm = prompts_data(root), evaluation_data(root)
    cells = [
        safety_cell(root, harm, "tiny", "none", "none", 34, seed=""),
        safety_cell(root, harm, "tiny", "rmu", "none", 20, seed=""),
        prompts_cell(root, chats, "tiny", "none", "none", 0.0, seed=""),
    ]
    for seed, harmful in HARMFUL.items():
        cells.append(safety_cell(root / seed, harm, "tiny", "repbend", "none", harmful, seed=seed))
        cells.append(prompts_cell(root / seed, chats, "tiny", "none", "value", 1.0 + int(seed), seed=seed))
    return cells


@pytest.fixture(scope="module")
def tables(cells: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    return make_tables(cells)


def test_matrix_has_one_row_over_all_seeds(tables: dict[str, pd.DataFrame]) -> None:
    row = one_row(tables["matrix"], adapter="repbend", metric="asr")
    outcomes = [i < harmful for harmful in HARMFUL.values() for _ in range(2) for i in range(39)]
    prompts = [(kind, i) for _ in HARMFUL for kind in range(2) for i in range(39)]
    seeds = [seed for seed in HARMFUL for _ in range(78)]
    found = rate(outcomes, prompts, seeds)
    assert row["estimate"] == pytest.approx(34 / 117) == found.estimate
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(found.ci_low), pytest.approx(found.ci_high))
    assert row["ci_high"] > 0.8  # three seeds that differ so much say little
    assert (row["n"], row["clusters"], row["seeds"], row["not_scored"]) == (234, 78, 3, 6)
    once = one_row(tables["matrix"], adapter="rmu", metric="asr")
    assert (once["n"], once["clusters"], once["seeds"]) == (78, 78, 1)
    text = one_row(shown("matrix", tables["matrix"]), adapter="repbend", control="none")["ASR, %"]
    assert text.endswith("(n 234, 78 clusters, 3 seeds, 6 not scored)")


def test_every_table_folds_the_seeds_of_a_label(tables: dict[str, pd.DataFrame]) -> None:
    for name in ("repbend_asr", "repbend_summary", "repbend_categories", "safety_agreement"):
        table = tables[name]
        keys = [key for key in table if key in ("model", "adapter", "control", "dataset", "attack", "benchmark")]
        keys += [key for key in ("category", "metric", "judge", "other") if key in table]
        assert not table.duplicated(keys).any() and (table["adapter"] == "repbend").any(), name
    row = one_row(tables["repbend"], adapter="repbend", prompts="harmful", group="all")
    assert (row["n"], row["clusters"], row["seeds"]) == (234, 78, 3)
    assert row["asr"] == pytest.approx(34 / 117)
    agreed = one_row(tables["safety_agreement"], adapter="repbend")
    assert agreed["n"] == 3 * (78 + 80) and agreed["clusters"] == 78 + 80
    assert agreed["agreement_low"] < agreed["agreement"] < agreed["agreement_high"]
    assert set(tables["safety_disagreements"]["seed"]) == {"", "0", "1", "2"}


def test_gain_pairs_each_seed_with_the_side_without_seeds(tables: dict[str, pd.DataFrame]) -> None:
    row = one_row(tables["gains"], control="value", metric="reward_gain")
    values = [i / 10 + 1 + s for s in range(3) for i in range(39)]
    base = [i / 10 for _ in range(3) for i in range(39)]
    found = paired_gain(values, base, list(range(39)) * 3, [s for s in range(3) for _ in range(39)])
    assert row["estimate"] == pytest.approx(2.0) and found.estimate == pytest.approx(2.0)
    assert (row["ci_low"], row["ci_high"]) == (pytest.approx(found.ci_low), pytest.approx(found.ci_high))
    # seeds gain 1, 2 and 3 on every prompt: an interval of t with 2 degrees of freedom
    assert row["ci_high"] == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    reduction = one_row(tables["gains"], compares="adapter", adapter="repbend", group="all")
    assert reduction["estimate"] == pytest.approx(1 - (34 / 117) / (34 / 39)) and reduction["seeds"] == 3
    quality = one_row(tables["recontrol"], control="value")
    assert (quality["reward_n"], quality["reward_clusters"], quality["reward_seeds"]) == (117, 39, 3)
    assert quality["relative_time"] == pytest.approx(1.0)
    wins = one_row(tables["win_rates"], control="value")
    assert (wins["win"], wins["clusters"], wins["seeds"]) == (30, 20, 3)
    assert len(tables["frontier"]) == 2


def test_paired_test_is_over_seeds_and_has_the_caveat_otherwise(
    tables: dict[str, pd.DataFrame], cells: list[dict[str, Any]]
) -> None:
    row = one_row(tables["repbend_pairs"], adapter="repbend", against="rmu", outcome="harmful")
    assert (row["only_adapter"], row["only_against"]) == (20, 72) and (row["n"], row["seeds"]) == (234, 3)
    assert row["p_value"] > 0.3  # by McNemar's test of these counts it would be below 0.001
    once = one_row(tables["repbend_pairs"], adapter="rmu", against="none", outcome="harmful")
    assert once["p_value"] == pytest.approx(2 / 2**28)
    single = make_tables([cell for cell in cells if not cell["seed"]])
    assert "One training each: the test says nothing" in note("repbend_pairs", single["repbend_pairs"])
    assert "One training seed: intervals are over prompts" in note("matrix", single["matrix"])
    assert "means over as many trainings" in note("matrix", tables["matrix"])
    base = make_tables([cell for cell in cells if cell["adapter"] == cell["control"] == "none"])
    assert "training" not in note("matrix", base["matrix"])


def test_sources_of_numbers_name_the_seed(cells: list[dict[str, Any]]) -> None:
    assert provenance(cells[3], {})["cell"] == "tiny / repbend / none / harmbench / direct / seed 0"


def test_rows_of_one_question_widen_every_interval(tmp_path: Path) -> None:
    """The rows 0 to 4, 5 to 9 ... of the data are of one question each."""
    cells: dict[bool, list[dict[str, Any]]] = {}
    for clustered in (False, True):
        root = tmp_path / str(clustered)
        chats, harm = prompts_data(root), evaluation_data(root)
        for path in (chats, harm) if clustered else ():
            table = read_parquet(path)
            names = [f"q{i // 5}" for i in range(len(table))]
            write_parquet(path, table.set_column(table.column_names.index("cluster"), "cluster", [names]))
        cells[clustered] = [
            safety_cell(root, harm, "tiny", "none", "none", 20),
            safety_cell(root, harm, "tiny", "repbend", "none", 10),
            prompts_cell(root, chats, "tiny", "none", "none", 0.0),
            prompts_cell(root, chats, "tiny", "none", "value", 1.0),
        ]
    plain, clustered_ = (make_tables(cells[clustered]) for clustered in (False, True))
    for table, where in (
        ("matrix", {"adapter": "none", "metric": "asr"}),
        ("matrix", {"adapter": "none", "control": "none", "metric": "reward"}),
        ("gains", {"compares": "adapter", "group": "all"}),
        ("gains", {"control": "value", "metric": "heldout_reward_gain"}),
    ):
        rows = [one_row(tables[table], **where) for tables in (plain, clustered_)]
        assert rows[0]["estimate"] == rows[1]["estimate"] and rows[0]["n"] == rows[0]["clusters"]
        assert rows[1]["clusters"] == (16 if "asr" in rows[1]["metric"] else 8)
        widths = [row["ci_high"] - row["ci_low"] for row in rows]
        assert widths[1] >= widths[0] and ("heldout" in rows[1]["metric"] or widths[1] > 1.5 * widths[0])
    pairs = [one_row(tables["repbend_pairs"], outcome="harmful") for tables in (plain, clustered_)]
    assert pairs[0]["p_value"] == pytest.approx(2 / 2**20)
    assert pairs[1]["p_value"] == pytest.approx(2 / 2**4)  # the 20 differing rows are of 4 questions
    assert pairs[1]["clusters"] == 16
    wins = [one_row(tables["win_rates"], control="value") for tables in (plain, clustered_)]
    assert (wins[0]["clusters"], wins[1]["clusters"]) == (20, 4) and wins[0]["win_rate"] == wins[1]["win_rate"]


def test_success_over_several_tries_says_so_in_every_table(tmp_path: Path) -> None:
    data = evaluation_data(tmp_path)
    cells = [
        safety_cell(tmp_path, data, "tiny", adapter, "none", harmful, attack)
        for adapter, harmful in (("none", 34), ("repbend", 2))
        for attack in ("direct", "gcg")
    ]
    for cell in cells[1::2]:
        verdicts = read_parquet(cell["scores"]["safety"])
        second = verdicts.set_column(1, "attempt", [[1] * len(verdicts)]).cast(verdicts.schema)
        write_parquet(cell["scores"]["safety"], pa.concat_tables([verdicts, second]))
        cell |= {"judges": {}, "attack": with_tries("gcg", GcgBlock(method="gcg", attempts=2))}
    tables = make_tables(cells)
    for name in ("matrix", "repbend", "repbend_asr", "repbend_summary", "repbend_categories", "repbend_pairs", "gains"):
        text = shown(name, tables[name])
        everything = " ".join([*map(str, text.columns), *(str(value) for value in text.to_numpy().ravel())])
        assert "2 tries)" in everything, name
        assert "Best of n tries" in note(name, tables[name]), name
    assert "ASR, gcg (best of 2 tries), %" in shown("matrix", tables["matrix"])
    single = make_tables(cells[::2])
    assert not any("tries" in note(name, table) for name, table in single.items() if name != "win_rates")


def test_asking_directly_in_several_tries_keeps_the_metrics_of_benign_prompts(tmp_path: Path) -> None:
    cell = safety_cell(tmp_path, evaluation_data(tmp_path), "tiny", "none", "none", 34)
    attack = with_tries("direct", DirectBlock(method="direct", attempts=5))
    matrix = make_tables([{**cell, "attack": attack, "judges": {}}])["matrix"]
    assert {"asr_direct (best of 5 tries)", "benign_answer_rate", "harmful_refusal_rate"} <= set(matrix["metric"])
    assert "ASR, direct (best of 5 tries), %" in shown("matrix", matrix)


def test_attack_with_generations_has_all_its_tries_in_its_label() -> None:
    several = EmbeddingBlock(method="embedding", update="sign", steps=100, generations=3, attempts=3)
    assert with_tries("embedding", several) == "embedding (best of 9 tries)"
    assert with_tries("embedding", EmbeddingBlock(method="embedding")) == "embedding"
    assert with_tries("none", None) == "none"
