"""The code version of a script in a small library: it changes only with edits that may change a result."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebend.pipeline.jobs import code_version as versions
from rebend.pipeline.jobs import parsed_source

ROOT = Path(__file__).parents[4]
DPO = "rebend.repbend.methods.dpo:Dpo"
NPO = "rebend.repbend.methods.npo:npo"

LIBRARY = {
    "__init__.py": '"""The library."""\n\n__version__ = "1"\n',
    "errors.py": "class DataError(Exception):\n    words = 1\n",
    "errors_of_rounding.py": "ulp = 1\n",
    "unreached.py": "z = 1\n",
    "io/__init__.py": "",
    "io/locks.py": "_POLL = 0.5\n",
    "pipeline/__init__.py": "",
    "pipeline/jobs/__init__.py": "",
    "pipeline/jobs/job.py": "import rebend.unreached\n\n\ndef job(x):\n    return 1\n",
    "data/__init__.py": '"""Rows."""\nfrom __future__ import annotations\n',
    "data/rows.py": "kept = 1\n",
    "models/layers.py": "def middle(n):\n    return n // 2\n",
    "repbend/__init__.py": '"""Weights."""\n',
    "repbend/train.py": '''\
"""Training."""
from __future__ import annotations

from typing import TYPE_CHECKING

import rebend.models.layers as layers
from rebend.config.adapters import METHODS, Adapter as Settings, parsed
from rebend.errors import DataError
from rebend.errors_of_rounding import ulp
from rebend.io.locks import _POLL
from rebend.repbend import loss

if TYPE_CHECKING:
    from rebend.unreached import z


def train(raw):
    """Train."""
    block = parsed(raw)
    speed = getattr(block, "rate", 1)
    if TYPE_CHECKING:
        block: Settings
    match block:
        case Settings(scale=wide):
            return loss.loss(block.last_target(), wide)
    return loss.loss(layers.middle(block.n_groups), block.strength, block.floor, speed, Settings.point)
''',
    "repbend/loss.py": """\
def loss(*x):
    from rebend.data.rows import kept

    return 2 * len(x), open("ask.jinja"), open("words.txt"), "folder/other.jinja"
""",
    "repbend/ask.jinja": "yes or no?",
    "repbend/words.txt": "sorry",
    "repbend/unnamed.txt": "nothing",
    "repbend/folder/other.jinja": "nothing",
    "ask.jinja": "another folder",
    "repbend/methods/__init__.py": '"""Methods."""\nfrom rebend.repbend.methods.terms import weight\n',
    "repbend/methods/terms.py": "weight = 1\n",
    "repbend/methods/dpo.py": "from rebend.repbend.methods.odds import odds\n\n\nclass Dpo:\n    beta = odds\n",
    "repbend/methods/npo.py": "if True:\n\n    def npo():\n        return 1\n",
    "repbend/methods/odds.py": "odds = 1\n",
    "config/__init__.py": '"""Settings."""\n',
    "config/study.py": "def last_target():\n    return 1\n\n\ndef cells():\n    return 2\n",
    "config/base.py": """\
from rebend.config.deep import at_least

OFFSET: int = 1
UNUSED = 1
SPELLINGS = {"old": "new"}
FAST = []
FAST.append("8 bits")
try:
    import fast
    ROUNDS = 1
except ImportError:
    ROUNDS = 2


class Block(BaseModel):
    def __call__(self):
        return 1

    def describe(self):
        return 1


def shifted(x):
    return at_least(x, ROUNDS) + OFFSET + len(SPELLINGS) + len(FAST)
""",
    "config/deep.py": """\
import rebend.deep.hidden
from rebend.deep.floor import floor_of
from rebend.deep.other import other_of


def at_least(x, rounds):
    return max(floor_of(x), rounds)


def not_called():
    return other_of(1)


@dataclass
class Limits:
    floor: int = 3
    unread: int = 3
""",
    "deep/floor.py": "def floor_of(x):\n    return x\n",
    "deep/other.py": "def other_of(x):\n    return x\n",
    "deep/hidden.py": "hidden = 1\n",
    "config/adapters.py": '''\
"""Blocks."""
from __future__ import annotations

from typing import ClassVar

from rebend.config.base import Block, shifted as _shifted


def _spelling(value):
    return value


class Adapter(Block):
    """What every adapter has."""

    model_config = {"extra": "forbid"}
    strength: ClassVar[str] = "step_size"
    quiet: ClassVar[str] = "unread"
    point = 1
    rate: Annotated[float, BeforeValidator(_spelling)] = Field(0.1, description="the rate")
    scale: int = Field(1, description="the scale")

    @property
    def n_groups(self):
        """Groups."""
        return 4

    @classmethod
    def last_target(cls):
        return 5

    def not_called(self):
        return 6

    @model_validator(mode="after")
    def middle(self):
        return self

    @field_validator("rate")
    @classmethod
    def loss(cls, value):
        return value

    def __post_init__(self):
        self.x = 7


class Other(Block):
    def last_target(self):
        return _shifted(8)

    def __len__(self):
        return 9


METHODS = {"dpo": "rebend.repbend.methods.dpo:Dpo", "npo": {"plain": "rebend.repbend.methods.npo:npo"}}
BLOCKS: dict[str, dict[str, type[Block]]] = {"adapter": Adapter, "nested": {"other": Other}}


def parsed(raw):
    return BLOCKS[raw["method"]].model_validate(raw)
''',
}
SCRIPT = '''\
"""A stage."""
with job(snakemake) as run:
    from rebend.pipeline.jobs.job import job
    from rebend.repbend.train import train

    train(1)
'''


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write a library, and a script that reaches a part of it; return the library's folder."""
    folder = tmp_path / "rebend"
    for name, text in LIBRARY.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    with monkeypatch.context() as patch:
        patch.setattr(versions, "_PACKAGE", folder)
        versions._library.cache_clear()
        yield folder
    versions._library.cache_clear()


def version(package: Path, *entries: str) -> str:
    """Return the code version that a new process computes."""
    versions._library.cache_clear()
    return versions.code_version(package.parent / "script.py", *entries)


def edit(package: Path, file: str, old: str, new: str) -> None:
    path = package / file
    assert path.read_text().count(old) == 1, f"{old!r} must occur once in {file}"
    path.write_text(path.read_text().replace(old, new))


def new_line(text: str) -> tuple[str, str]:
    return text, f"{text}\n"


CHANGES = {
    "the script": ("../script.py", "train(1)", "train(2)"),
    "a module that the script imports": ("repbend/train.py", "loss.loss(block.last_target()", "loss.loss(1"),
    "a module that an imported module imports": ("repbend/loss.py", "2 *", "3 *"),
    "a module imported inside a function": ("data/rows.py", "kept = 1", "kept = 2"),
    "a module imported under another name": ("models/layers.py", "// 2", "// 3"),
    "a module whose name begins like an ignored one": ("errors_of_rounding.py", "ulp = 1", "ulp = 2"),
    "code in an __init__ around a module": ("data/__init__.py", "annotations\n", "annotations\nsort()\n"),
    "code in the library's __init__": ("__init__.py", '"1"', '"1"\nset_seed(1)'),
    "a template beside the module that names it": ("repbend/ask.jinja", "yes", "Yes"),
    "a data file beside the module that names it": ("repbend/words.txt", "sorry", "Sorry"),
    "config: a classmethod that is called": ("config/adapters.py", "return 5", "return 50"),
    "config: a method of the same name in another class": ("config/adapters.py", "_shifted(8)", "_shifted(80)"),
    "config: a property that is read": ("config/adapters.py", "return 4", "return 40"),
    "config: a function that is called": ("config/adapters.py", 'raw["method"]', 'raw["kind"]'),
    "config: a function that is called by another name": ("config/base.py", "at_least(x", "at_least(-x"),
    "config: a function two modules away": ("config/deep.py", "max(floor_of", "min(floor_of"),
    "config: a constant that a called function uses": ("config/base.py", "OFFSET: int = 1", "OFFSET: int = 2"),
    "config: a dict of strings": ("config/base.py", '"new"', '"newer"'),
    "config: a value that is appended to a constant": ("config/base.py", '"8 bits"', '"4 bits"'),
    "config: a constant under a condition": ("config/base.py", "ROUNDS = 2", "ROUNDS = 3"),
    "config: a ClassVar that is read": ("config/adapters.py", '"step_size"', '"weight"'),
    "config: an attribute without annotation": ("config/adapters.py", "point = 1", "point = 2"),
    "config: a dunder method of a class that is used": ("config/adapters.py", "self.x = 7", "self.x = 70"),
    "config: a dunder method of its base": ("config/base.py", "__call__(self):\n        return 1", "__call__(self): 2"),
    "config: the bases of a class that is used": ("config/adapters.py", "Adapter(Block)", "Adapter(Block, Mapping)"),
    "config: the default of a dataclass that is read": ("config/deep.py", "floor: int = 3", "floor: int = 4"),
    "config: a module of another room that a called function uses": ("deep/floor.py", "return x", "return -x"),
    "config: a method that is read with getattr": (
        "config/adapters.py",
        "    point = 1",
        "    point = 1\n    rate = 2",
    ),
    "config: a method that is read in a pattern": (
        "config/adapters.py",
        "    point = 1",
        "    point = 1\n    scale = 2",
    ),
}

IGNORED = {
    "a comment": ("repbend/loss.py", "import kept", "import kept  # and no other"),
    "a docstring": ("repbend/train.py", '"""Train."""', '"""Train well."""  # or not'),
    "a docstring of the script": ("../script.py", '"""A stage."""\n', ""),
    "a module that is not imported": ("unreached.py", "z = 1", "z = 2"),
    "a syntax error in a module that is not imported": ("unreached.py", "z = 1", "z ="),
    "an import for type checkers": ("repbend/train.py", "import z", "import z as _z"),
    "an annotation for type checkers": ("repbend/train.py", "block: Settings", "block: object"),
    "the version": ("__init__.py", '"1"', '"2"'),
    "a docstring in an __init__": ("repbend/__init__.py", "Weights", "Changed weights"),
    "a new docstring in an __init__": ("data/__init__.py", "Rows", "Rows of one schema"),
    "an ignored room": ("pipeline/jobs/job.py", "return 1", "return 2"),
    "error messages": ("errors.py", "words = 1", "words = 2"),
    "the poll interval of locks": ("io/locks.py", "0.5", "0.6"),
    "a template of another folder": ("ask.jinja", "another", "any other"),
    "a template that is named with a folder": ("repbend/folder/other.jinja", "nothing", "something"),
    "a data file that no code names": ("repbend/unnamed.txt", "nothing", "something"),
    "a module that is only registered": ("repbend/methods/odds.py", "odds = 1", "odds = 2"),
    "config: a description": ("config/adapters.py", "the rate", "the learning rate"),
    "config: a default": ("config/adapters.py", "Field(0.1", "Field(0.2"),
    "config: a function that validates a field": (
        "config/adapters.py",
        "return value\n\n\nclass",
        "return 1\n\n\nclass",
    ),
    "config: a new field": ("config/adapters.py", "    scale: int", "    n: int = 1\n    scale: int"),
    "config: a new field with a name in use": (
        "config/adapters.py",
        "    scale: int",
        "    loss: int = 1\n    scale: int",
    ),
    "config: a model validator with a name in use": ("config/adapters.py", "return self\n", "return self.n_groups\n"),
    "config: a field validator with a name in use": (
        "config/adapters.py",
        "return value\n\n    def",
        "return 1\n\n    def",
    ),
    "config: a new class": ("config/adapters.py", "class Other", "class New(Block):\n    x: int\n\n\nclass Other"),
    "config: a method that is not called": ("config/adapters.py", "return 6", "return 60"),
    "config: a function that is not called": ("config/deep.py", "other_of(1)", "other_of(2)"),
    "config: a ClassVar that is not read": ("config/adapters.py", '"unread"', '"not read"'),
    "config: the configuration of pydantic": ("config/adapters.py", '"forbid"', '"allow"'),
    "config: a dunder method of a class that is not used": ("config/adapters.py", "return 9", "return 90"),
    "config: a constant that is not used": ("config/base.py", "UNUSED = 1", "UNUSED = 2"),
    "config: a constant's annotation": ("config/base.py", "OFFSET: int", "OFFSET: Final"),
    "config: a new entry of a registry of paths": (
        "config/adapters.py",
        'METHODS = {"dpo"',
        'METHODS = {"x": "rebend.x:X", "dpo"',
    ),
    "config: a new entry of a registry of classes": (
        "config/adapters.py",
        '"adapter": Adapter',
        '"x": base.Xy, "a": A1a',
    ),
    "config: the default of a dataclass that is not read": ("config/deep.py", "unread: int = 3", "unread: int = 4"),
    "config: a docstring": ("config/adapters.py", "What every adapter has.", "An adapter."),
    "config: a module that is not imported": ("config/study.py", "return 1", "return 2"),
    "config: a module of another room that no called function uses": ("deep/other.py", "return x", "return -x"),
    "config: a module of another room that is only imported": ("deep/hidden.py", "hidden = 1", "hidden = 2"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_version_changes_with(package: Path, name: str) -> None:
    before = version(package)
    edit(package, *CHANGES[name])
    assert version(package) != before


@pytest.mark.parametrize("name", IGNORED)
def test_version_does_not_change_with(package: Path, name: str) -> None:
    before = version(package)
    edit(package, *IGNORED[name])
    assert version(package) == before


@pytest.mark.parametrize(
    ("file", "old", "new", "of_dpo", "of_npo"),
    [
        ("repbend/methods/dpo.py", "beta = odds", "beta = 2 * odds", True, False),
        ("repbend/methods/odds.py", "odds = 1", "odds = 2", True, False),
        ("repbend/methods/npo.py", "return 1", "return 2", False, True),
        ("repbend/methods/__init__.py", "import weight", "import weight as w", True, True),
        ("repbend/methods/terms.py", "weight = 1", "weight = 2", True, True),
        ("repbend/loss.py", "2 *", "3 *", True, True),
        ("repbend/methods/__init__.py", "Methods.", "All methods.", False, False),
    ],
)
def test_version_covers_an_entry_and_its_imports(
    package: Path, file: str, old: str, new: str, of_dpo: bool, of_npo: bool
) -> None:
    before = [version(package, entry) for entry in (DPO, NPO)]
    edit(package, file, old, new)
    after = [version(package, entry) for entry in (DPO, NPO)]
    assert [a != b for a, b in zip(after, before, strict=True)] == [of_dpo, of_npo]


def test_version_covers_each_entry_in_any_order(package: Path) -> None:
    assert version(package, DPO, NPO) == version(package, NPO, DPO)
    assert len({version(package), version(package, DPO), version(package, NPO), version(package, DPO, NPO)}) == 4


def test_version_covers_an_entry_in_config_as_a_definition(package: Path) -> None:
    before = version(package, "rebend.config.study:cells")
    edit(package, "config/study.py", "return 2", "return 20")
    assert version(package, "rebend.config.study:cells") != before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("rebend.repbend.methods.gone:Gone", "no module 'rebend.repbend.methods.gone'"),
        ("rebend.repbend.methods.dpo:Npo", "'rebend.repbend.methods.dpo' defines no 'Npo'"),
        ("rebend.repbend.methods.dpo:odds", "defines no 'odds'"),  # imported there, defined elsewhere
        ("rebend.repbend.methods.dpo:Dpo.beta", "defines no 'Dpo.beta'"),
        ("rebend.repbend.methods.dpo", "defines no ''"),
        ("torch.nn:Linear", "no module 'torch.nn'"),
        ("rebend.pipeline.jobs.job:job", "counts for no result"),
    ],
)
def test_invalid_entry_is_refused(package: Path, entry: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        version(package, DPO, entry)
    assert f"'{entry}'" in str(error.value)


def test_registry_can_be_an_entry(package: Path) -> None:
    assert len(version(package, "rebend.config.adapters:METHODS")) == 16


def test_reached_modules_and_definitions_are_listed(package: Path) -> None:
    script = package.parent / "script.py"
    reached = {"repbend.train", "repbend.loss", "models.layers", "data.rows", "deep.floor", "errors_of_rounding"}
    assert versions.reached_modules(script) == {f"rebend.{name}" for name in reached}
    method = {"rebend.repbend.methods", "rebend.repbend.methods.terms", "rebend.repbend.methods.npo"}
    assert versions.reached_modules(script, NPO) - versions.reached_modules(script) == method
    base = {"Block", "Block.__call__", "FAST", "OFFSET", "ROUNDS", "SPELLINGS", "shifted"}
    adapters = {"Adapter", "Adapter.__post_init__", "Adapter.last_target", "Adapter.n_groups", "Adapter.point"}
    adapters |= {"Adapter.strength", "Other.last_target", "parsed"}
    assert versions.reached_definitions(script) == {
        *(f"rebend.config.base:{name}" for name in base),
        *(f"rebend.config.adapters:{name}" for name in adapters),
        *("rebend.config.deep:at_least", "rebend.config.deep:Limits.floor"),
    }


def test_leftover_folder_hides_no_module(package: Path) -> None:
    """If a package becomes a file, its `__pycache__` remains."""
    (package / "repbend/loss/__pycache__").mkdir(parents=True)
    assert "rebend.repbend.loss" in versions.reached_modules(package.parent / "script.py")


def test_modules_that_import_each_other_are_covered(package: Path) -> None:
    before = version(package)
    edit(package, "repbend/loss.py", "2 *", "2 * rebend.repbend.train.train *")
    (package / "repbend/loss.py").write_text(
        "import rebend.repbend.train\n" + (package / "repbend/loss.py").read_text()
    )
    assert version(package) != before


def test_version_is_the_same_in_another_process(package: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rebend.pipeline.jobs import code_version as c; "
        "c._PACKAGE = Path(sys.argv[1]); print(c.code_version(*sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, str(package), str(package.parent / "script.py"), DPO]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "7"}
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (package / "__pycache__" / versions._library(package).parsed.path.name).unlink()
    assert out.strip() == version(package, DPO)


def test_parsed_files_are_cached_by_contents(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = version(package, DPO)
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", lambda text: pytest.fail("parsed again"))
        assert version(package, DPO) == before
        edit(package, "repbend/loss.py", "2 *", "3 *")
        with pytest.raises(pytest.fail.Exception, match="parsed again"):
            version(package, DPO)


def test_cache_of_another_parser_is_ignored(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version(package)
    monkeypatch.setattr(parsed_source, "_THIS_FILE", b"another version of it")
    monkeypatch.setattr(ast, "parse", lambda text: pytest.fail("parsed again"))
    with pytest.raises(pytest.fail.Exception, match="parsed again"):
        version(package)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', "half", "flipped", "\udcff"])
def test_damaged_cache_is_ignored_and_written_again(package: Path, damage: str) -> None:
    before = version(package)
    store = versions._library(package).parsed.path
    whole = store.read_text()
    texts = {"half": whole[: len(whole) // 2], "flipped": whole.replace('"last_target"', '"last_tarhet"')}
    store.write_text(texts.get(damage, damage), errors="surrogateescape")
    assert version(package) == before
    assert len(store.read_text()) == len(whole)


def test_cache_keeps_the_files_used_last(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed_source, "_MOST_KEPT", 30)
    for number in range(20):
        edit(package, "../script.py", f"train({number + 1})", f"train({number + 2})")
        version(package)
    store = versions._library(package).parsed.path
    assert len(parsed_source.ParsedFiles(store)._values) == 30
    monkeypatch.setattr(ast, "parse", lambda text: pytest.fail("parsed again"))
    version(package)


def test_version_is_computed_without_a_writable_cache(package: Path) -> None:
    before = version(package)
    folder = versions._library(package).parsed.path.parent
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")
    assert version(package) == before


def test_sources_are_code_and_data_files(package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__/loss.pyc").write_bytes(b"")
    assert versions.sources() == {str(package / name): text.encode() for name, text in sorted(LIBRARY.items())}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("unreached.py", *new_line("z = 1")),
        ("repbend/ask.jinja", "yes", "Yes"),
        ("../scripts/repbend/train_bend.py", *new_line("x = 1")),
    ],
)
def test_texts_digest_changes_with_any_text(package: Path, file: str, old: str, new: str) -> None:
    scripts = package.parent / "scripts"
    (scripts / "repbend").mkdir(parents=True)
    (scripts / "repbend/train_bend.py").write_text("x = 1")
    before = versions.texts_digest(scripts)
    assert versions.texts_digest(scripts) == before
    edit(package, file, old, new)
    assert versions.texts_digest(scripts) != before


def test_sources_digest_depends_on_files_and_not_on_folders() -> None:
    digest = versions.sources_digest({"/a/x.py": b"12", "/a/y.py": b"3"})  # must differ from one longer file
    assert digest == versions.sources_digest({"/b/x.py": b"12", "/b/y.py": b"3"})
    assert digest != versions.sources_digest({"/a/x.py": b"1", "/a/y.py": b"23"})
    assert digest != versions.sources_digest({"/a/x.py": b"12y.py\n\n3"})
    assert digest != versions.sources_digest({"/a/x.py": b"12", "/a/z.py": b"3"})


def test_library_has_no_relative_and_no_star_imports() -> None:
    """The code version does not follow such imports."""
    files = [*(ROOT / "workflow/scripts").rglob("*.py"), *(ROOT / "src/rebend").rglob("*.py")]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                assert all(alias.name != "*" for alias in node.names), f"{file}: star import"
