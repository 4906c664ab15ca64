"""What the jobs `sample_pairs` and `sample_chats` need before they ask: block, prompts, model and judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rebend.config.datasets import SampledBlock
from rebend.config.safety import SAFETY_JUDGES
from rebend.evaluation.judges.block import judge_block
from rebend.evaluation.sampled_pairs.prompts import PromptRow, chosen_prompts
from rebend.evaluation.sampled_pairs.sampling import RoundJudge, Sampler, load_sampler
from rebend.io.chunks import ChunkStore

BlockT = TypeVar("BlockT", bound=SampledBlock)


def set_up(
    kind: type[BlockT],
    settings: Mapping[str, Any],
    files: Any,
    resources: Mapping[str, Any],
    progress: Path,
    *,
    harmful: bool,
) -> tuple[BlockT, list[PromptRow], dict[str, int], Sampler]:
    """Return the block of a data set, the prompts to ask, the numbers of other prompts by reason, and the sampler.

    `settings`, the input `files` and the `resources` are those of the job (`rebend.pipeline.stages.made_datasets`);
    `least` is a resource, because it changes no row. Finished batches are in the folder `progress`. Raises `DataError`
    for data sets without prompts, and `ModelError` for a folder that is no language model.
    """
    block = kind.model_validate({**settings["block"], "least": int(resources["least"])})
    judged = judge_block(settings["safety_judge"], resources, SAFETY_JUDGES)
    judge = RoundJudge(judged, files.get("judge") or None, progress / "judged")
    prompts, left_out = chosen_prompts(block, files, harmful)
    parts = ChunkStore(progress / "sampled")
    return block, prompts, left_out, load_sampler(block, files.model, settings["dtype"], judge, parts)
