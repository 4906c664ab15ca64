"""Out-of-memory errors name settings that save memory; freed memory returns to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rebend.errors import ModelError
from rebend.io.memory import memory_advice

# Frees large tensors while small tensors between them are still in use; then frees Arrow buffers.
SCRIPT = """
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
torch.ones(31 * 2**18)  # freed at once; without `keep_flat`, later and smaller tensors are then allocated on the heap
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
for buffer in buffers:
    numpy.frombuffer(buffer, "u1")[:] = 1
del buffer
del buffers
give_back()
print(resident() - before)
"""


def unreleased_memory(flat: bool) -> list[float]:
    """Return the MiB that a process still holds of 120 MiB of freed tensors, and of 60 MiB of freed Arrow buffers."""
    command = [sys.executable, "-c", SCRIPT, "flat" if flat else "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()[-2:]]


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_freed_tensors_and_tables_are_returned_to_the_system() -> None:
    tensors, tables = unreleased_memory(flat=True)
    assert tensors < 15
    assert tables < 5
    assert min(unreleased_memory(flat=False)) > 40  # the reason for `keep_flat`


def test_failed_allocation_names_the_remedies() -> None:
    with (
        pytest.raises(ModelError, match=r"out of memory .*Remedies: a smaller batch_size"),
        memory_advice("a smaller batch_size"),
    ):
        torch.empty(2**50)


def test_other_errors_are_not_converted() -> None:
    with pytest.raises(RuntimeError, match="size"), memory_advice("nothing"):
        torch.zeros(2) @ torch.zeros(3)
