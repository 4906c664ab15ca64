"""What the tables of a study say, in plain sentences: computed from the figures, never written beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from rebend.cells import ALL
from rebend.number_text import interval, number
from rebend.safety_findings import of_bends, of_judges, of_pairs

Row = Mapping[Any, Any]  # of a table, by column


def findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the sentences, the claims first."""
    safety = [*of_bends(tables), *of_pairs(tables["repbend_pairs"]), *of_judges(tables["safety_agreement"])]
    return [*_of_claims(tables["claims"]), *safety, *_of_controls(tables), *_of_caveats(tables)]


def _of_claims(claims: pd.DataFrame) -> Iterator[str]:
    if len(claims):
        met = int(claims["met"].astype(bool).sum())
        missed = [text for text, is_met in zip(claims["text"], claims["met"], strict=True) if not is_met]
        yield f"{met} of {len(claims)} claims are met." + (f" Not met: {'; '.join(missed)}." if missed else "")


def _of_controls(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    gains = tables["gains"]
    own = gains[(gains["compares"] == "control") & (gains["dataset"] == ALL) & gains["estimate"].notna()]
    for (model, bend, against), part in own.groupby(["model", "bend", "against"], sort=False):
        rewards = part[part["metric"] == "reward_gain"].sort_values("estimate", ascending=False, kind="stable")
        if rewards.empty:
            continue
        gained = ", ".join(f"{row['control']} {_verb(row)} it by {_amount(row)}" for row in rewards.to_dict("records"))
        text = f"{model}, bend {bend}, mean reward against control {against}: {gained}."
        ratios = part[part["metric"] == "diversity_ratio"].sort_values("estimate")
        for least in ratios.head(1).to_dict("records"):
            text += (
                f" At least {number(least['estimate'], percent=True)} % of its diversity is kept ({least['control']})."
            )
        yield text


def _of_caveats(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    proxies = {judge for judge in tables["recontrol"].get("judge", pd.Series(dtype=str)) if "(proxy)" in str(judge)}
    if proxies:
        yield f"Win rates come from a proxy, not from a judge that reads: {', '.join(sorted(proxies))}."
    for row in tables["recontrol"].to_dict("records"):
        if row.get("held_rate") and row["held_rate"] > 0:
            yield (
                f"{row['model']}, bend {row['bend']}, {row['dataset']}: control {row['control']} was held back at "
                f"{number(row['held_rate'], percent=True)} % of the tokens (its change was too long, or no number)."
            )
    matrix = tables["matrix"]
    missing = matrix[matrix["not_scored"] > 0]
    if len(missing):
        worst = missing.sort_values("not_scored").iloc[-1]
        yield (
            f"{len(missing)} of {len(matrix)} figures of the matrix leave out rows that were not scored, at most "
            f"{int(worst['not_scored'])} of {int(worst['n'] + worst['not_scored'])} ({worst['metric']})."
        )
    elif len(matrix):
        yield "Every row of every figure in the matrix was scored."


def _verb(row: Row) -> str:
    if row["ci_low"] > 0:
        return "raised"
    return "lowered" if row["ci_high"] < 0 else "changed"


def _amount(row: Row) -> str:
    """The effect, and a word where its interval does not tell it from none."""
    doubt = "" if row["ci_low"] > 0 or row["ci_high"] < 0 else " (the interval includes no change)"
    return interval(row["estimate"], row["ci_low"], row["ci_high"]) + doubt
