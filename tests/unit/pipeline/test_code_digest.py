"""A comment changes no digest, a formula does, also in a module that is only reached through another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebend.pipeline.jobs import code_digest as digests

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))


def forget() -> None:
    for cached in (digests._kept, digests._text, digests._is_module, digests._digest_of):
        cached.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three modules: outer imports inner; other is not reached."""
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "outer.py").write_text('"""Doc."""\nfrom rebend.inner import f\n\ndef g(x):\n    return f(x) + 1\n')
    (tmp_path / "inner.py").write_text('def f(x):\n    """Doc."""\n    return 2 * x\n')
    (tmp_path / "other.py").write_text("z = 1\n")
    (tmp_path / "script.py").write_text("with x:\n    from rebend.outer import g\n    g(1)\n")
    monkeypatch.setattr(digests, "_PACKAGE", tmp_path)
    forget()
    yield tmp_path
    forget()


def digest_after(package: Path, file: str, old: str, new: str) -> str:
    path = package / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    forget()
    return digests.code_digest(package / "script.py")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("inner.py", '"""Doc."""', '"""Other words."""  # and a comment'), ("other.py", "z = 1", "z = 2")],
)
def test_words_and_unreached_modules_change_nothing(package: Path, file: str, old: str, new: str) -> None:
    before = digests.code_digest(package / "script.py")
    assert digest_after(package, file, old, new) == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("inner.py", "2 * x", "3 * x"), ("outer.py", "+ 1", "+ 2"), ("script.py", "g(1)", "g(2)")],
)
def test_a_formula_changes_the_digest(package: Path, file: str, old: str, new: str) -> None:
    before = digests.code_digest(package / "script.py")
    assert digest_after(package, file, old, new) != before


def test_a_template_counts_where_code_names_it(package: Path) -> None:
    (package / "templates").mkdir()
    (package / "templates" / "ask.jinja").write_text("yes or no?")
    before = digest_after(package, "inner.py", "2 * x", '2 * len("ask.jinja")')
    assert digest_after(package, "templates/ask.jinja", "yes", "Yes") != before


def test_imports_inside_functions_are_followed() -> None:
    assert "rebend.io.files" in digests.reached_modules(ROOT / "workflow/scripts/data/prepare_dataset.py")


def test_every_script_imports_the_library_in_a_way_that_is_followed() -> None:
    """A relative or a star import would escape the digest."""
    for file in [*SCRIPTS, *(ROOT / "src/rebend").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}: relative import"
                assert all(alias.name != "*" for alias in node.names), f"{file}: star import"


def test_what_was_parsed_is_kept_and_only_for_the_same_contents(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests.code_digest(package / "script.py")
    forget()
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", lambda text: pytest.fail("parsed again"))
        assert digests.code_digest(package / "script.py") == before
    assert digest_after(package, "inner.py", "2 * x", "3 * x") != before


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '{"a": [1, 2]}'])
def test_a_damaged_store_is_none(package: Path, content: str) -> None:
    before = digests.code_digest(package / "script.py")
    store = digests._kept().path
    store.write_text(content)
    forget()
    assert digests.code_digest(package / "script.py") == before


def test_a_folder_that_cannot_be_written_to_costs_time_only(package: Path) -> None:
    (package / "__pycache__").write_text("a file where the folder should be")
    assert len(digests.code_digest(package / "script.py")) == 16
