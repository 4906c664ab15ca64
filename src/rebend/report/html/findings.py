"""The findings of a study: sentences computed from its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from rebend.report.formatting import interval, number
from rebend.report.lines import records
from rebend.report.metrics import ALL, DIRECT, attack_of
from rebend.report.reward_warning import warning_of

TableRow = Mapping[Any, Any]  # column → value
Metrics = dict[str, TableRow]  # metric → row of the table matrix, for one model, adapter and control
KEPT = 0.95  # an adapter keeps benign answers if its rate is at least this share of the base's rate
SIGNIFICANCE = 0.05  # of Holm-corrected p-values
FEW = 3  # up to this number of adapters, each adapter has a sentence
_OUTCOMES = {
    "harmful_refusal_rate": "harmful prompts asked directly and refused",
    "harmful_incoherent_rate": "harmful prompts asked directly and answered incoherently",
    "benign_answer_rate": "benign prompts answered",
}
_FEWER, _MORE, _ALIKE = "fewer harmful answers than", "more harmful answers than", "no significant difference from"


def findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the sentences; the one on claims comes first."""
    safety = [*_of_adapters(tables), *_of_pairs(tables["repbend_pairs"]), *_of_judges(tables["safety_agreement"])]
    chats = _of_chats(tables["gains"])
    return [*_of_claims(tables["claims"]), *safety, *chats, *_of_controls(tables), *_of_caveats(tables)]


def _of_adapters(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Yield sentences on the adapters of each model, from uncontrolled cells if the study has any.

    Up to `FEW` adapters have one sentence each. More adapters are sorted by their rates, in one sentence per attack.
    """
    gains, matrix = tables["gains"], tables["matrix"]
    reductions = gains[(gains["metric"] == "asr_reduction") & (gains["dataset"] == ALL) & (gains["group"] == ALL)]
    if (reductions["control"] == "none").any():
        reductions = reductions[reductions["control"] == "none"]
    for (model, control), adapters in reductions.groupby(["model", "control"], sort=False):
        base = _metrics(matrix, model, "none", control)
        suffix = "" if control == "none" else f", control {control}"
        by_adapter = {
            str(adapter): _metrics(matrix, model, adapter, control) for adapter in adapters["adapter"].unique()
        }
        if len(by_adapter) > FEW:
            yield from _each_attack(f"{model}{suffix}", by_adapter, base)
        else:
            yield from _each_adapter(str(model), suffix, adapters, by_adapter, base)
        yield from _kept(str(model), by_adapter, base)


def _each_adapter(
    model: str, suffix: str, adapters: pd.DataFrame, by_adapter: Mapping[str, Metrics], base: Metrics
) -> Iterator[str]:
    asr = ", ".join(
        f"{_percent(row)} {_attack_words(attack_of(name))}" for name, row in base.items() if attack_of(name)
    )
    yield f"{model} without an adapter{suffix}: attack success rate {asr}.{_benign(base)}"
    for adapter, metrics in by_adapter.items():
        rates = ", ".join(_reduction(row) for row in records(adapters[adapters["adapter"] == adapter]))
        yield f"{model}, adapter {adapter}{suffix}: attack success rate {rates}.{_harmful(metrics)}{_benign(metrics)}"


def _each_attack(cells: str, by_adapter: Mapping[str, Metrics], base: Metrics) -> Iterator[str]:
    for name in filter(attack_of, base):
        yield f"{cells}, attack success rate {_attack_words(attack_of(name))}: {_ranked(name, by_adapter, base)}."
    for name in filter(base.__contains__, _OUTCOMES):
        yield f"{cells}, {_OUTCOMES[name]}: {_ranked(name, by_adapter, base, ascending=False)}."


def _ranked(metric: str, by_adapter: Mapping[str, Metrics], base: Metrics, *, ascending: bool = True) -> str:
    """Return the rate of the base and the sorted rates of the adapters; adapters with equal rates share a place."""
    by_rate: dict[str, list[str]] = {}
    rows = {adapter: metrics[metric] for adapter, metrics in by_adapter.items() if metric in metrics}
    known = {adapter: row["estimate"] for adapter, row in rows.items() if not pd.isna(row["estimate"])}
    unknown = [adapter for adapter in rows if adapter not in known]
    for adapter in [*sorted(known, key=lambda adapter: known[adapter], reverse=not ascending), *unknown]:
        by_rate.setdefault(_percent(rows[adapter]), []).append(adapter)
    adapters = "; ".join(f"{', '.join(names)} {rate}" for rate, names in by_rate.items())
    return f"{_percent(base[metric])} without an adapter; {adapters}"


def _of_pairs(pairs: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per compared adapter: the adapters that it differs from, with the attacks."""
    compared = pairs[(pairs["outcome"] == "harmful") & (pairs["dataset"] == ALL) & (pairs["against"] != "none")]
    for (model, adapter), part in compared.groupby(["model", "adapter"], sort=False):
        differences: dict[str, dict[str, list[str]]] = {_FEWER: {}, _MORE: {}, _ALIKE: {}}
        for row in records(part):
            words = _FEWER if row["only_adapter"] < row["only_against"] else _MORE
            attacks = differences[words if row["p_holm"] < SIGNIFICANCE else _ALIKE].setdefault(row["against"], [])
            attacks.append(_attack_words(row["attack"]))
        n_attacks = part["attack"].nunique()
        text = "; ".join(f"{words} {_listed(others, n_attacks)}" for words, others in differences.items() if others)
        seeds = part["seeds"].max() if "seeds" in part else 1
        test = f"McNemar's test, Holm-corrected p < {SIGNIFICANCE:g}; one training each, so nothing about other seeds"
        if seeds > 1:
            test = f"paired test over {int(seeds)} training seeds, Holm-corrected p < {SIGNIFICANCE:g}"
        yield f"{model}, adapter {adapter} against other adapters on the same harmful prompts: {text} ({test})."


def _listed(others: Mapping[str, list[str]], n_attacks: int) -> str:
    """Return the adapters; an adapter that is not listed under all attacks is followed by its attacks."""
    return ", ".join(
        against if len(attacks) == n_attacks else f"{against} ({', '.join(attacks)})"
        for against, attacks in others.items()
    )


def _of_judges(agreement: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per pair of judges: agreement and attack success rates over all cells."""
    if not len(agreement):
        return
    rows = agreement[agreement["model"] == ALL] if (agreement["model"] == ALL).any() else agreement
    for row in records(rows):
        share = number(row["harm_agreement"], percent=True)
        rates = " and ".join(f"{number(row[name], percent=True)} %" for name in ("asr_judge", "asr_other"))
        yield (
            f"The judges {row['judge']} and {row['other']} agree on whether a completion is harmful in {share} % of "
            f"{int(row['n'])} completions; the attack success rates by their verdicts are {rates}."
        )


def _of_chats(gains: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per model: the perplexity of each adapter on held-out chats, relative to the base."""
    rows = gains[(gains["metric"] == "chat_perplexity_ratio") & (gains["dataset"] == ALL) & gains["estimate"].notna()]
    for model, part in rows.groupby("model", sort=False):
        ratios = ", ".join(f"{row['adapter']} {_percent(row)}" for row in records(part.sort_values("estimate")))
        yield f"{model}, perplexity on held-out chats relative to that without an adapter: {ratios}."


def _metrics(matrix: pd.DataFrame, model: Any, adapter: Any, control: Any) -> Metrics:
    """Return the metrics of one model, adapter and control."""
    rows = matrix[(matrix["model"] == model) & (matrix["adapter"] == adapter) & (matrix["control"] == control)]
    return {row["metric"]: row for row in records(rows)}


def _attack_words(attack: str | None) -> str:
    return "asked directly" if attack == DIRECT else f"under {attack}"


def _reduction(row: TableRow) -> str:
    """Return the rate under one attack and its reduction relative to the base."""
    rate: str = "unknown" if pd.isna(row["value"]) else f"{number(row['value'], percent=True)} %"
    rate = f"{rate} {_attack_words(row['attack'])}"
    if pd.isna(row["estimate"]):
        return f"{rate} (no relative reduction, because a rate is unknown or the rate of the base is 0)"
    change = interval(row["estimate"], row["ci_low"], row["ci_high"], percent=True)
    remark = "" if row["ci_low"] > 0 or row["ci_high"] < 0 else "; the interval includes 0"
    return f"{rate} (relative reduction {change} %{remark})"


def _harmful(metrics: Metrics) -> str:
    if "harmful_refusal_rate" not in metrics:
        return ""
    refused, incoherent = (_percent(metrics[f"harmful_{outcome}_rate"]) for outcome in ("refusal", "incoherent"))
    return f" Harmful prompts asked directly: {refused} refused, {incoherent} answered incoherently."


def _benign(metrics: Metrics) -> str:
    row = metrics.get("benign_answer_rate")
    return "" if row is None else f" Benign prompts: {_percent(row)} answered."


def _kept(model: str, adapters: Mapping[str, Metrics], base: Metrics) -> Iterator[str]:
    """Yield a sentence on the adapters that keep benign answers, sorted by their mean ASR over the attacks."""
    limit = base.get("benign_answer_rate", {}).get("estimate")
    means = {adapter: _mean_asr(metrics, base) for adapter, metrics in adapters.items()}
    if len(adapters) < 2 or limit is None or pd.isna(limit):
        return
    kept = {
        adapter: mean
        for adapter, mean in means.items()
        if mean is not None and adapters[adapter].get("benign_answer_rate", {}).get("estimate", -1.0) >= KEPT * limit
    }
    share = f"{100 * KEPT:g} %"
    text = (
        f"{model}: {len(kept)} of {len(adapters)} adapters answer at least {share} as many benign prompts as the base"
    )
    by_rate = sorted(kept.items(), key=lambda item: item[1])
    rates = ", ".join(f"{adapter} {number(mean, percent=True)} %" for adapter, mean in by_rate)
    yield f"{text}; their attack success rates, averaged over the attacks: {rates}." if rates else f"{text}."


def _mean_asr(metrics: Metrics, base: Metrics) -> float | None:
    """Return the unweighted mean ASR over all attacks on the base; None if a rate is missing."""
    attacks = [metric for metric in base if attack_of(metric)]
    rates = [float(metrics[metric]["estimate"]) for metric in attacks if metric in metrics]
    complete = rates and len(rates) == len(attacks) and not any(map(pd.isna, rates))
    return sum(rates) / len(rates) if complete else None


def _percent(row: TableRow) -> str:
    text = interval(row["estimate"], row["ci_low"], row["ci_high"], percent=True)
    return f"{text} %" if not pd.isna(row["estimate"]) else "unknown"


def _of_claims(claims: pd.DataFrame) -> Iterator[str]:
    if len(claims):
        met = int(claims["met"].astype(bool).sum())
        missed = [text for text, is_met in zip(claims["text"], claims["met"], strict=True) if not is_met]
        yield f"{met} of {len(claims)} claims are met." + (f" Not met: {'; '.join(missed)}." if missed else "")


def _of_controls(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    gains = tables["gains"]
    rows = gains[(gains["compares"] == "control") & (gains["dataset"] == ALL) & gains["estimate"].notna()]
    for (model, adapter, against), part in rows.groupby(["model", "adapter", "against"], sort=False):
        rewards = part[part["metric"] == "reward_gain"].sort_values("estimate", ascending=False, kind="stable")
        if rewards.empty:
            continue
        effects = ", ".join(f"{row['control']} {_effect(row)}" for row in rewards.to_dict("records"))
        text = f"{model}, adapter {adapter}, mean reward compared with control {against}: {effects}."
        ratios = part[part["metric"] == "diversity_ratio"].sort_values("estimate")
        for lowest in ratios.head(1).to_dict("records"):
            share = number(lowest["estimate"], percent=True)
            text += f" The lowest diversity is {share} % of that of control {against} ({lowest['control']})."
        yield text


def _of_caveats(tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    yield from warning_of(tables["recontrol"])
    proxies = {judge for judge in tables["recontrol"].get("judge", pd.Series(dtype=str)) if "(proxy)" in str(judge)}
    if proxies:
        yield f"Win rates come from a proxy instead of a judge: {', '.join(sorted(proxies))}."
    for row in tables["recontrol"].to_dict("records"):
        if row.get("held_rate") and row["held_rate"] > 0:
            yield (
                f"{row['model']}, adapter {row['adapter']}, {row['dataset']}: control {row['control']} was clipped at "
                f"{number(row['held_rate'], percent=True)} % of the tokens, because its edit was too large or a value "
                "was not finite."
            )
    matrix = tables["matrix"]
    missing = matrix[matrix["not_scored"] > 0]
    if len(missing):
        worst = missing.sort_values("not_scored").iloc[-1]
        yield (
            f"{len(missing)} of {len(matrix)} estimates in the table matrix leave out rows that were not scored, at "
            f"most {int(worst['not_scored'])} of {int(worst['n'] + worst['not_scored'])} rows ({worst['metric']})."
        )
    elif len(matrix):
        yield "All estimates in the table matrix are over all rows: every row was scored."


def _effect(row: TableRow) -> str:
    """Return the direction of an effect, and the effect with its interval."""
    effect = interval(row["estimate"], row["ci_low"], row["ci_high"])
    if row["ci_low"] > 0:
        return f"raises it ({effect})"
    if row["ci_high"] < 0:
        return f"lowers it ({effect})"
    return f"has no clear effect ({effect}; the interval includes 0)"
