"""The stopwatch measures processor time on a CPU and wall time on an accelerator."""

import time

import pytest
import torch

from rebend.io.progress import Stopwatch


def test_waiting_is_not_counted_on_a_cpu() -> None:
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.3)
    assert watch.clock == "processor"
    assert watch.seconds() < 0.1


def test_work_is_counted_on_a_cpu() -> None:
    watch = Stopwatch(torch.device("cpu"))
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert watch.seconds() >= 0.2


def test_error_of_the_sum_is_that_of_equal_and_unequal_laps(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(torch.device("cpu"))
    assert watch.facts() == {}
    clock = iter([10.0, 11.0, 14.0, 16.0])
    monkeypatch.setattr(watch, "_now", lambda: next(clock))
    watch._last = 10.0
    for _ in range(4):
        watch.lap()
    # laps of 0, 1, 3 and 2 s: their deviation is √(5/3), that of their sum 2 √(5/3)
    assert watch.facts() == {"decode_batches": 4, "decode_seconds_error": pytest.approx(2 * (5 / 3) ** 0.5, abs=1e-3)}


def test_waiting_is_counted_on_an_accelerator() -> None:
    watch = Stopwatch(torch.device("cuda"))
    time.sleep(0.2)
    assert watch.clock == "wall"
    assert watch.seconds() >= 0.2
