"""Find prompts with a system turn for a model whose chat template, a file that its block names, cannot write one.

Decoding would refuse them, but only after the trainings before it. A template that comes with the model is not known
before the model is prepared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rebend.config.datasets import DatasetBlock
from rebend.data.readers.raw import file_format, read_rows
from rebend.data.readers.registry import load_reader
from rebend.data.readers.rows import UnusableRowError
from rebend.pipeline.checks.texts import readers_of_prompts
from rebend.pipeline.graph.plan import Plan
from rebend.pipeline.stages.common import local_path

_MAX_ROWS = 1000  # rows of a file that are read
_TURNS = ("system", "user")


class _RefusedError(TemplateError):
    """What `raise_exception` of a chat template raises."""


def system_turn_mistakes(plan: Plan) -> Iterator[str]:
    """Yield a message per model and data set of prompts with system turns that the model's template cannot write."""
    for number, grid in enumerate(plan.study.grids):
        for model in grid.models:
            template = plan.config["models"][model].chat_template
            if template is None or not Path(template).is_file():
                continue
            refused = refuses_system_turns(Path(template).read_text(encoding="utf-8"))
            for key, section, name in dict.fromkeys(readers_of_prompts(plan.config.catalogue, grid)):
                block = plan.config[section].get(name)
                if refused and isinstance(block, DatasetBlock) and has_system_turns(plan, block):
                    yield (
                        f"studies.{plan.name}.grids.{number}.{key}: '{name}' has prompts with a system turn, which "
                        f"{template} (models.{model}.chat_template) cannot write; use a data set without such turns, "
                        "or name another template"
                    )


def refuses_system_turns(template: str) -> bool:
    """Return whether a Jinja chat template refuses or leaves out a system turn, and writes a user's turn alone.

    False for a template that cannot be rendered here, with means that only transformers has.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    try:
        compiled = environment.from_string(template)
        user, both = (_turns(*_TURNS[first:]) for first in (1, 0))
        tokens = {"add_generation_prompt": True, "bos_token": "", "eos_token": ""}
        if user[0]["content"] not in compiled.render(messages=user, **tokens):
            return False
        return both[0]["content"] not in compiled.render(messages=both, **tokens)
    except _RefusedError:
        return True
    except Exception:  # a template may raise any exception, also for means that are absent here
        return False


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": f"zulvorim {role}"} for role in roles]


def has_system_turns(plan: Plan, block: DatasetBlock) -> bool:
    """Return whether prompts of a local text file certainly have a system turn: one of them, or with a draw all.

    The first 1,000 rows are read; a file that cannot be read is another check's.
    """
    path = Path(local_path(plan.config, block.source.local)) if block.source.local else None
    if block.kind != "prompts" or path is None or not path.is_file() or file_format(path) == ".parquet":
        return False
    reader = load_reader(block.reader)
    found = []
    for placed in read_rows(path, _MAX_ROWS, reader.entries):
        try:
            rows = reader.convert(block.kind, placed)
        except UnusableRowError:
            continue
        found += [row["messages"][0]["role"] == "system" for row in rows]
    is_drawn = block.rows is not None or block.skip or block.without or block.only
    return bool(found) and (all(found) if is_drawn else any(found))
