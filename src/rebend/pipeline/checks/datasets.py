"""Check references between data sets, and the models and judges that make some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rebend.config.base import references
from rebend.config.datasets import DatasetBlock, JoinedBlock, SampledBlock, SampledChatsBlock
from rebend.config.safety import SAFETY_JUDGES, RubricJudgeBlock
from rebend.data.readers.registry import reader_mistakes
from rebend.io.files import read_json
from rebend.pipeline.graph import paths

Catalogue = Mapping[str, Mapping[str, Any]]


def dataset_mistakes(catalogue: Catalogue, name: str) -> list[str]:
    """Return one message per setting of a data set that its reader, judge or model does not support."""
    block = catalogue["datasets"][name]
    mistakes = []
    if isinstance(block, DatasetBlock):
        part = block.source.world.part if block.source.world else None
        mistakes += reader_mistakes(block.reader, block.kind, part, block.reference is not None, block.variant)
    if isinstance(block, JoinedBlock):
        mistakes += _kind_mistakes(catalogue, "datasets", block.datasets, [block.kind])
    if isinstance(block, SampledBlock):
        mistakes += [*_judge_mistakes(catalogue, block), *_model_mistakes(catalogue, block)]
    if isinstance(block, SampledChatsBlock):
        mistakes += _kind_mistakes(catalogue, "prompts", block.prompts, ["prompts", "evaluation"])
        mistakes += _released_mistakes(catalogue, block)
    mistakes += _circle_mistakes(catalogue, name)
    return [f"datasets.{name}.{mistake}" for mistake in mistakes]


def is_of_world(catalogue: Catalogue, name: str) -> bool:
    """Return whether all prompts of a data set are of the tiny world."""
    block = catalogue["datasets"].get(name)
    if isinstance(block, DatasetBlock):
        return block.source.world is not None
    parts = block.datasets if isinstance(block, JoinedBlock) else getattr(block, "prompts", [])
    return bool(parts) and all(is_of_world(catalogue, part) for part in parts if part != name)


def too_few_mistakes(catalogue: Catalogue, names: Iterable[str]) -> Iterator[str]:
    """Yield sampled data sets that are finished and not made again, and have fewer pairs or chats than `least`."""
    for name in names:
        block, file = catalogue["datasets"][name], paths.data(name)
        notes = read_json(paths.record(file))["notes"]
        kept = notes.get("pairs", notes["rows"])
        if kept < block.least:
            yield (
                f"datasets.{name}.least: {block.least} {'pairs' if 'pairs' in notes else 'chats'} are asked for, and "
                f"{file} has {kept}; its log says why others were left out. Lower `least`, or change the other keys"
            )


def _kind_mistakes(catalogue: Catalogue, key: str, names: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    """Yield data sets of other kinds."""
    for name in names:
        kind = catalogue["datasets"][name].kind if name in catalogue["datasets"] else None
        if kind is not None and kind not in kinds:
            yield f"{key}: '{name}' is of kind '{kind}'; kind {' or '.join(map(repr, kinds))} is needed"


def _released_mistakes(catalogue: Catalogue, block: SampledChatsBlock) -> Iterator[str]:
    """Yield prompts that are one text each, with the speakers' words in it, and no dialogues."""
    for name in block.prompts:
        if getattr(catalogue["datasets"].get(name), "variant", None) == "released_code":
            yield f"prompts: '{name}' is of `variant: released_code`, whose prompts are no dialogues; name other data"


def _judge_mistakes(catalogue: Catalogue, block: SampledBlock) -> Iterator[str]:
    """Yield judges behind an address, and judges of the tiny world for other prompts."""
    judge: Any = catalogue["safety_judges"].get(block.judge)
    if isinstance(judge, RubricJudgeBlock):
        here = [name for name, method in SAFETY_JUDGES.items() if method.block is not RubricJudgeBlock]
        yield (
            f"judge: '{block.judge}' (method {judge.method}) is behind an address; sampled answers are judged on this "
            f"machine, by a judge of method {', '.join(here)}"
        )
    elif judge is not None and judge.method.startswith("world_"):
        for prompts in block.prompts:
            if prompts in catalogue["datasets"] and not is_of_world(catalogue, prompts):
                yield f"judge: '{block.judge}' judges only data of the tiny world; '{prompts}' (in `prompts`) is not"


def _model_mistakes(catalogue: Catalogue, block: SampledBlock) -> Iterator[str]:
    """Yield models that cannot be asked."""
    model = catalogue["models"].get(block.model)
    if model is not None and model.variant == "released_code":
        yield f"model: '{block.model}' is of `variant: released_code`, which writes no dialogues; name another model"


def _circle_mistakes(catalogue: Catalogue, name: str) -> Iterator[str]:
    """Yield a data set that would be made from itself, through other data sets or through a model trained on it."""
    waiting, seen = [("datasets", name, "")], set()
    while waiting:
        section, other, first = waiting.pop()
        for key, of, _, named in references(catalogue[section][other]):
            if (of, named) == ("datasets", name):
                advice = "; give it a `without` of its own" if (first or key) == "without" else ""
                yield f"{first or key}: leads back to '{name}'{advice}"
                return
            if named in catalogue[of] and (of, named) not in seen:
                seen.add((of, named))
                waiting.append((of, named, first or key))
