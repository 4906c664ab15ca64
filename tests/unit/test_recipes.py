"""The recipes of CONTRIBUTING.md for a control and for a data reader, followed in a copy of the repository.

Each recipe must be complete: no other file is edited, the new method works, and no job of another method runs again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("src", "config", "workflow", "resources")
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

CONTROL_SETTINGS = '''
class ShoutBlock(ControlBlock):
    """The user's last message in capital letters."""

    method: Literal["shout"] = Field(description="capital letters")
    mark: str = Field("!", description="put after the message")


'''
CONTROL_CODE = '''"""Shouting: the user's last message in capital letters."""

from __future__ import annotations

from dataclasses import dataclass

from rebend.config.controls import ShoutBlock
from rebend.generation.intervention import NoControl


@dataclass(frozen=True)
class Shout(NoControl):
    """Changes the prompt only."""

    mark: str

    def messages(self, messages):
        """Return the messages, the last one in capital letters."""
        *others, last = messages
        return [*others, {**last, "content": last["content"].upper() + self.mark}]


def make(block: ShoutBlock, resources) -> Shout:
    """Return the control."""
    return Shout(block.mark)
'''
READER_CODE = '''"""Questions with their topic."""

from __future__ import annotations

from rebend.data.readers.reader import Reader
from rebend.data.readers.rows import Row, prompt_row, text, user_turn


def prompts(row: Row) -> list[Row]:
    """Return the question, in the group of its topic."""
    return [prompt_row(user_turn(text(row, "question")), None, text(row, "topic"))]


QUESTIONS = Reader(
    "questions", "questions with their topic", {"prompts": prompts}, {"prompts": ("question", "topic")}
)
'''
STUDY = """title: Shouting
grids:
  - { models: [tiny], controls: [none, shout], prompts: [tiny_test], reward: tiny_reward }
"""

# Code version of each stage without a method, and with each of its methods or readers
VERSIONS = """
import json
from collections.abc import Mapping
from pathlib import Path
from rebend.config.catalogue import CATALOGUE
from rebend.config.datasets import READERS
from rebend.pipeline.jobs.code_version import code_version
STAGES = {
    "adapters": "train_adapter", "value_models": "train_value_model", "controls": "decode", "judges": "judge_win_rate",
    "attacks": "attack", "safety_judges": "judge_safety",
}
scripts = {script.stem: script for script in sorted(Path("workflow/scripts").glob("*/*.py"))}
codes = [
    (STAGES[section], method.code)
    for section, kind in CATALOGUE.items() if isinstance(kind, Mapping) for method in kind.values()
]
codes += [("prepare_dataset", code) for code in READERS.values()]
versions = {name: code_version(script) for name, script in scripts.items()}
versions |= {f"{stage} {code}": code_version(scripts[stage], code) for stage, code in codes}
print(json.dumps(versions))
"""
USE_CONTROL = """
import json, yaml
from rebend.config.load import load_config
from rebend.io.chunks import ChunkStore
from rebend.recontrol.decode import decode_under
from rebend.recontrol.resources import ControlResources
from tests.helpers.small_policy import make_policy, prompt_rows
raw = yaml.safe_load(open("config/config.yaml"))
config = load_config({**raw, "study": "shouting"}, "config/studies")
policy, rows = make_policy(), prompt_rows()
loud = [{**row, "messages": [{"role": "user", "content": row["messages"][0]["content"].upper() + "!"}]} for row in rows]
def responses(control, rows):
    block = config["controls"][control]
    return decode_under(policy, rows, block, ControlResources(policy), ChunkStore(None))[0]["response"].to_pylist()
same = responses("shout", rows) == responses("none", loud) != responses("none", rows)
print(json.dumps([config.study.grids[0].controls, same]))
"""
USE_READER = """
import json, yaml
from pathlib import Path
from rebend.config.load import load_config
from rebend.data.datasets import prepare_dataset
raw = yaml.safe_load(open("config/config.yaml"))
block = load_config({**raw, "study": "tiny"}, "config/studies")["datasets"]["my_questions"]
print(json.dumps(prepare_dataset(block, Path(block.source.local), None).table.to_pylist()))
"""


class Copy:
    """A copy of the repository; code that it runs imports the library of the copy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in COPIED:
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))

    def write(self, file: str, text: str) -> None:
        """Add a new file."""
        assert not (self.folder / file).exists(), file
        (self.folder / file).write_text(text, encoding="utf-8")

    def insert(self, file: str, before: str, text: str) -> None:
        """Insert a text before the first line that begins with `before`."""
        old = (self.folder / file).read_text(encoding="utf-8")
        place = re.search(rf"^{re.escape(before)}", old, re.MULTILINE)
        assert place is not None, f"{file} has no line {before!r}"
        (self.folder / file).write_text(old[: place.start()] + text + old[place.start() :], encoding="utf-8")

    def run(self, code: str) -> Any:
        """Run Python code with the copy's library; return the JSON value in its last line of output."""
        env = {**os.environ, "PYTHONPATH": f"{self.folder / 'src'}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def recipe(title: str) -> str:
    return GUIDE.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0]


def add_control(copy: Copy) -> list[str]:
    """Follow the recipe; return the files that it changes or adds."""
    copy.insert("src/rebend/config/controls.py", "CONTROLS: dict", CONTROL_SETTINGS)
    copy.insert(
        "src/rebend/config/controls.py",
        '    "none": Method(',
        '    "shout": Method(ShoutBlock, "rebend.recontrol.methods.shout:make"),\n',
    )
    copy.write("src/rebend/recontrol/methods/shout.py", CONTROL_CODE)
    copy.insert("config/config.yaml", "  prompting:", "  shout: { like: none, method: shout }\n")
    return ["src/rebend/config/controls.py", "src/rebend/recontrol/methods/<name>.py", "config/config.yaml"]


def add_reader(copy: Copy) -> list[str]:
    """Follow the recipe; return the files that it changes or adds."""
    copy.insert(
        "src/rebend/config/datasets.py",
        '    "table": ',
        '    "questions": "rebend.data.readers.questions:QUESTIONS",\n',
    )
    copy.write("src/rebend/data/readers/questions.py", READER_CODE)
    copy.insert(
        "config/config.yaml",
        "  tiny_test:",
        "  my_questions: { kind: prompts, reader: questions, source: { local: questions.jsonl } }\n",
    )
    return ["src/rebend/config/datasets.py", "src/rebend/data/readers/<name>.py", "config/config.yaml"]


def test_recipe_of_a_control_is_complete(copy: Copy) -> None:
    before = copy.run(VERSIONS)
    for file in add_control(copy):
        assert file in recipe("A control"), f"the recipe does not name {file}"
    copy.write("config/studies/shouting.yaml", STUDY)
    controls, is_used = copy.run(USE_CONTROL)
    assert controls == ["none", "shout"]
    assert is_used, "the responses are not those to messages in capital letters"
    after = copy.run(VERSIONS)
    assert {name: after[name] for name in before} == before, "jobs of other methods would run again"
    assert set(after) - set(before) == {"decode rebend.recontrol.methods.shout:make"}


def test_recipe_of_a_data_reader_is_complete(copy: Copy) -> None:
    before = copy.run(VERSIONS)
    for file in add_reader(copy):
        assert file in recipe("A data reader"), f"the recipe does not name {file}"
    copy.write("questions.jsonl", '{"question": "Why?", "topic": "doubt"}\n{"question": "How?", "topic": "tools"}\n')
    rows = copy.run(USE_READER)
    assert [row["group"] for row in rows] == ["doubt", "tools"]
    assert [row["messages"][-1]["content"] for row in rows] == ["Why?", "How?"]
    after = copy.run(VERSIONS)
    assert {name: after[name] for name in before} == before, "jobs of other readers would run again"
    assert set(after) - set(before) == {"prepare_dataset rebend.data.readers.questions:QUESTIONS"}


TITLES = re.findall(r"^### (.+)$", GUIDE.split("## Recipes")[1].split("\n## ")[0], re.MULTILINE)
WRITTEN_BY_A_RUN = {"config/assets.lock.json"}  # a recipe may name it, and a fresh clone lacks it


@pytest.mark.parametrize("title", TITLES)
def test_files_of_a_recipe_exist(title: str) -> None:
    files = re.findall(r"`((?:src|config|tests|workflow|docs)/[\w./]+\.\w+)`", recipe(title))
    assert files
    assert not [file for file in files if file not in WRITTEN_BY_A_RUN and not (ROOT / file).exists()]


def test_recipes_of_all_kinds_are_found() -> None:
    assert set(TITLES) >= {
        "A loss term", "A method that changes the weights", "A control", "A model, without code", "A judge", "A metric",
        "A data reader", "A data set made from other results",
    }  # fmt: skip
