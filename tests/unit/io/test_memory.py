"""Running out of memory names the settings that need less of it; memory that is freed goes back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rebend.errors import ModelError
from rebend.io.memory import memory_advice

# Tensors of a batch are freed, what is kept of it was taken in between: then the same in Arrow's memory.
HELD_AFTERWARDS = """
import sys
from pathlib import Path
import numpy
import pyarrow as pa
import torch
from rebend.io.memory import give_back, keep_flat

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

if sys.argv[1] == "flat":
    keep_flat()
torch.ones(31 * 2**18)  # freed at once: without `keep_flat`, smaller ones come from the heap from now on
before = resident()
large, kept = [], []
for _ in range(10):
    large.append(torch.ones(12 * 2**18))
    kept.append(torch.ones(2**14))
large.clear()
print(resident() - before)
give_back()
before = resident()
buffers = [pa.allocate_buffer(2**20) for _ in range(60)]
for one in buffers:
    numpy.frombuffer(one, "u1")[:] = 1
del one
del buffers
give_back()
print(resident() - before)
"""


def held_afterwards(flat: bool) -> list[float]:
    """MiB that a process of its own still holds of 120 MiB of tensors, and of 60 MiB of Arrow's, that it has freed."""
    command = [sys.executable, "-c", HELD_AFTERWARDS, "flat" if flat else "as it is"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()[-2:]]


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_freed_tensors_and_tables_go_back_to_the_system() -> None:
    tensors, tables = held_afterwards(flat=True)
    assert tensors < 15
    assert tables < 5
    assert min(held_afterwards(flat=False)) > 40  # what it is for


def test_an_allocation_that_fails_names_the_knobs() -> None:
    with (
        pytest.raises(ModelError, match=r"memory ran out .*What needs less of it: a smaller batch_size"),
        memory_advice("a smaller batch_size"),
    ):
        torch.empty(2**50)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="size"), memory_advice("nothing"):
        torch.zeros(2) @ torch.zeros(3)
