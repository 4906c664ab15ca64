"""`snakemake` that queries the queue every second; the profile is otherwise unchanged."""

from __future__ import annotations

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _one_second(executor: RemoteExecutor) -> None:
    await asyncio.sleep(1)


if __name__ == "__main__":
    RemoteExecutor.sleep = _one_second  # type: ignore[method-assign]
    sys.argv[0] = "snakemake"
    main()
