"""Adapters released by others, in PEFT's layout: copied, not trained."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rebend.errors import ModelError
from rebend.io.files import read_json, whole_directory, write_json
from rebend.models.adapter_files import ADAPTER_FILE, CONFIG_FILE, WEIGHTS_FILE
from rebend.models.loading import fingerprint
from rebend.repbend.merge.lora_delta import AdapterChanges, check_mergeable
from rebend.repbend.merge.weight_files import stored_tensors


def take_adapter(source: str | Path, base: str | Path, out: Path | str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a released adapter to the folder `out`, for the base model of folder `base`.

    It gets the same `adapter.json` as an adapter trained in the graph, so that merging treats both alike. The base
    model that its authors used is known by name only. Returns facts for the record. Raises `ModelError` if files are
    missing.
    """
    source = Path(source)
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (source / name).is_file()]
    if missing:
        raise ModelError(f"{source}: has no {' and no '.join(missing)}; an adapter in PEFT's layout is expected")
    check_mergeable(Path(base), source)
    AdapterChanges(Path(base), source, {tensor.name for tensor in stored_tensors(base)})
    stated = read_json(source / CONFIG_FILE).get("base_model_name_or_path")
    facts = {"base": Path(base).name, "base_fingerprint": fingerprint(base), "dtype": None, "settings": dict(settings)}
    with whole_directory(out) as folder:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(source / name, folder / name)
        write_json(folder / ADAPTER_FILE, facts)
    return {"base_fingerprint": facts["base_fingerprint"], "stated_base": stated}
