"""Estimate time, disk, and tokens and cost of judges per rule before the first job; refuse a run above a cap.

The time of a job is computed from the five earlier jobs of its rule that are nearest in work
(`rebend.pipeline.cost.work`): the median of their times, each times the ratio of the amounts of work. A job that needs
a GPU is compared only with jobs that ran on row. Without measured jobs, the time per unit of work is a guess, and the
table marks it. The bytes of weights, hidden states and downloads are computed; those of other results are the median
of earlier jobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tabulate import tabulate

from rebend.config.judges import money
from rebend.config.study import Caps
from rebend.errors import ConfigError
from rebend.pipeline.checks.before_run import check_before_jobs
from rebend.pipeline.cost.history import Measured, measured_jobs
from rebend.pipeline.cost.judges import requests_of
from rebend.pipeline.cost.sizes import Facts
from rebend.pipeline.cost.work import PlannedJob, Work, bytes_of, work_of
from rebend.pipeline.graph.plan import Plan

# Seconds per unit of work without measurements: (on a GPU, on a CPU). An 80 GB GPU that decodes 8e9 parameters at
# 500 tokens a second and passes tokens through at 1.5e14 operations a second; one processor core at 5e10.
_GUESS = {
    "decode": (2.5e-13, 2e-10),
    "forward": (1.3e-14, 4e-11),
    "rows": (1e-3, 1e-3),
    "requests": (0.5, 0.5),
    "bytes": (2e-9, 2e-9),
    "download": (2e-8, 2e-8),
    "job": (10.0, 10.0),
}
_START = 5.0  # seconds added to a guessed time, for the start of a job
_RESULT = 1e6  # bytes of a result of unknown size
_NEAREST = 5


@dataclass
class Estimate:
    """The estimate for the jobs of one rule."""

    rule: str
    jobs: int = 0
    hours: float = 0.0
    gpu_hours: float = 0.0
    disk_gb: float = 0.0
    tokens: float = 0.0
    dollars: float = 0.0
    unpriced: bool = False  # whether a judge has no prices
    measured: set[int] = field(default_factory=set)  # numbers of the earlier jobs that the time is computed from
    guessed: int = 0  # number of jobs with a guessed time

    @property
    def basis(self) -> str:
        """The source of the time: measured jobs, a guess, or both."""
        measured = f"measured, {len(self.measured)} job{'s' if len(self.measured) > 1 else ''}" if self.measured else ""
        if not self.guessed:
            return measured
        return f"{measured}; {self.guessed} of {self.jobs} guess" if measured else "guess"


def estimate(jobs: Iterable[PlannedJob], facts: Facts, history: Mapping[str, Sequence[Measured]]) -> list[Estimate]:
    """Return one estimate per rule, in descending order of time."""
    estimates: dict[str, Estimate] = {}
    times: dict[tuple[str, Work, int], tuple[float, set[int]]] = {}  # many jobs have the same work
    works: dict[str, list[Work | None]] = {}
    for job in jobs:
        row = estimates.setdefault(job.rule, Estimate(job.rule))
        done = history.get(job.rule, [])
        if job.rule not in works:
            works[job.rule] = [_earlier_work(earlier, facts) for earlier in done]
        key = (job.rule, work_of(job, facts), job.gpus)
        if key not in times:
            times[key] = _seconds(key[1], job.gpus, done, works[job.rule])
        seconds, used = times[key]
        row.jobs += 1
        row.hours += seconds / 3600
        row.gpu_hours += job.gpus * seconds / 3600
        row.measured |= used
        row.guessed += not used
        row.disk_gb += _bytes(job, facts, done) / 1e9
        if requests := requests_of(job, facts, done):
            row.tokens += requests.tokens
            row.dollars += requests.cost or 0.0
            row.unpriced |= requests.cost is None
    return sorted(estimates.values(), key=lambda row: (-row.hours, row.rule))


def check_caps(caps: Caps, estimates: Sequence[Estimate]) -> None:
    """Raise `ConfigError` naming each cap below the estimates, both numbers, and the rule with the largest share."""
    mistakes = []
    for name, cap in caps.given().items():
        total = sum(getattr(row, name) for row in estimates)
        if name == "dollars" and any(row.unpriced for row in estimates):
            mistakes.append(f"budget.{name}: a judge has no `price_in` and `price_out`, so the cap cannot be checked")
        elif total > cap:
            most = max(estimates, key=lambda row: float(getattr(row, name)))
            share = f"{_number(getattr(most, name))} of it by {most.rule} ({most.basis})"
            mistakes.append(f"budget.{name}: about {_number(total)} is above the cap {_number(cap)}; {share}")
    if mistakes:
        raise ConfigError("no job was started:\n  " + "\n  ".join(mistakes))


def budget_table(estimates: Sequence[Estimate], facts: Facts) -> list[str]:
    """Return the lines of a table with a row per rule and a total, followed by the guessed sizes."""
    heads = ("rule", "jobs", "hours", "GPU-hours", "disk GB", "judge tokens", "dollars", "time rests on")
    total = Estimate("total")
    for row in estimates:
        for name in ("jobs", "hours", "gpu_hours", "disk_gb", "tokens", "dollars"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        total.unpriced |= row.unpriced
    rows = [*(_cells(row) for row in estimates), (*_cells(total)[:-1], "")]
    sides = ("left", *("right" for _ in heads[2:]), "left")
    table = tabulate(rows, heads, tablefmt="simple", colalign=sides, disable_numparse=True)
    return [line.rstrip() for line in table.splitlines()] + _guesses(facts)


def _guesses(facts: Facts) -> list[str]:
    """Return a line per guessed size, with the names of the models and data that have it."""
    names_of_size: dict[str, list[str]] = {}
    for name, size in sorted(facts.guesses.items()):
        names_of_size.setdefault(size, []).append(name)
    lines = []
    for size, names in names_of_size.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"guessed: {size} for {', '.join(names[:4])}{more}")
    return [*lines, "sizes are read instead of guessed after `snakemake fetch`"] if lines else []


def _cells(row: Estimate) -> tuple[str, ...]:
    tokens = _number(row.tokens) if row.tokens else "-"
    dollars = "no prices" if row.unpriced else money(row.dollars) if row.tokens else "-"
    numbers = (_shown(row.hours), _shown(row.gpu_hours) if row.gpu_hours else "-", _shown(row.disk_gb))
    return (row.rule, str(row.jobs), *numbers, tokens, dollars, row.basis)


def _shown(value: float) -> str:
    return "<0.01" if 0 < value < 0.01 else _number(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(work: Work, gpus: int, done: Sequence[Measured], works: Sequence[Work | None]) -> tuple[float, set[int]]:
    """Return the seconds of a job, and the numbers of the earlier jobs that they are computed from."""
    nearest = sorted(
        (abs(math.log(known.amount / work.amount)), number)
        for number, known in enumerate(works)
        if known is not None and known.kind == work.kind and (not gpus or done[number].device != "cpu")
    )[:_NEAREST]
    if not nearest:
        return _START + _GUESS[work.kind][0 if gpus else 1] * work.amount / max(1, gpus), set()
    used = {number for _, number in nearest}
    return median(done[number].seconds * work.amount / _amount(works[number]) for number in used), used


def _amount(work: Work | None) -> float:
    return work.amount if work is not None else 1.0


def _earlier_work(done: Measured, facts: Facts) -> Work | None:
    """Return the work of a finished job; None if its record has an older format."""
    try:
        return work_of(PlannedJob(done.stage, done.settings, done.inputs, done.outputs), facts)
    except (KeyError, TypeError, IndexError, AttributeError):
        return None


def _bytes(job: PlannedJob, facts: Facts, done: Sequence[Measured]) -> float:
    known = bytes_of(job, facts)
    if known is not None:
        return known
    sizes = [measured.bytes for measured in done if measured.bytes]
    return median(sizes) if sizes else _RESULT


def check_budget(plan: Plan, jobs: Sequence[PlannedJob]) -> None:
    """Raise `ConfigError` if the estimate is above a cap of the configuration; without caps nothing is computed."""
    if plan.config.budget.given():
        check_caps(plan.config.budget, estimate(jobs, Facts(plan), measured_jobs()))


def print_budget(plan: Plan, jobs: Sequence[PlannedJob]) -> None:
    """Print the estimate of jobs, and why a run would be refused. Raises `ConfigError` above a cap."""
    facts = Facts(plan)
    estimates = estimate(jobs, facts, measured_jobs())
    print("\n".join(budget_table(estimates, facts)))
    try:
        check_before_jobs(plan)
    except ConfigError as mistakes:
        print(f"missing before a run can start:{mistakes}")
    check_caps(plan.config.budget, estimates)
