"""The key `budget`: the most that a run may be expected to take."""

from __future__ import annotations

from pydantic import Field

from rebend.config.base import Block


class Caps(Block):
    """What a run may be expected to take at most; where an estimate is above a cap, no job starts. No cap if absent."""

    gpu_hours: float | None = Field(None, gt=0, description="GPU-hours, all GPUs of all jobs together")
    disk_gb: float | None = Field(None, gt=0, description="GB (10^9 bytes) written below results/ and downloaded")
    dollars: float | None = Field(None, gt=0, description="cost of judges, in the currency of their prices")

    def given(self) -> dict[str, float]:
        """The caps that are set, by name."""
        return {name: cap for name, cap in self.model_dump().items() if cap is not None}
