"""The stopwatch measures processor time on a CPU and wall time on an accelerator."""

import time

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


def test_waiting_is_counted_on_an_accelerator() -> None:
    watch = Stopwatch(torch.device("cuda"))
    time.sleep(0.2)
    assert watch.clock == "wall"
    assert watch.seconds() >= 0.2
