"""The registry of readers, and checks of blocks against their readers."""

import subprocess
import sys

from rebend.config.datasets import READERS, DatasetBlock, WorldPart
from rebend.data.readers.registry import load_readers, reader_mistakes
from rebend.data.readers.world import WORLD
from rebend.io.schemas import KINDS


def test_each_reader_has_a_function_for_each_of_its_kinds():
    readers = load_readers()
    assert {name: reader.name for name, reader in readers.items()} == {name: name for name in READERS}
    described = {name: set(reader.kinds) for name, reader in readers.items() if name != "world"}
    assert described == {name: set(reader.functions) for name, reader in readers.items() if name != "world"}
    assert set(WORLD.kinds) == set(KINDS)
    assert set(WORLD.parts) == set(WorldPart.model_fields["part"].annotation.__args__)
    assert set(KINDS) == set(DatasetBlock.model_fields["kind"].annotation.__args__)


def test_load_readers_imports_no_heavy_package():
    code = (
        "import sys, rebend.pipeline.checks.files\n"
        "from rebend.data.readers.registry import load_readers; load_readers()\n"
        "print(sorted({'torch', 'pandas', 'pyarrow', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reader_mistakes_names_unsupported_settings_and_suitable_readers():
    assert reader_mistakes("hh_rlhf", "prompts", None, False) == []
    assert reader_mistakes("world", "prompts", "test", False) == []
    (mistake,) = reader_mistakes("hh_rhlf", "prompts", None, False)
    assert "Did you mean 'hh_rlhf'?" in mistake
    (mistake,) = reader_mistakes("xstest", "chat", None, False)
    assert "'xstest' gives evaluation, not chat; readers that give it: hh_rlhf, ultrachat, world" in mistake
    (mistake,) = reader_mistakes("world", "chat", "test", False)
    assert "part 'test' of the world is prompts, not chat" in mistake
    (mistake,) = reader_mistakes("table", "prompts", None, True)
    assert "'table' has no second file; readers that have one: recontrol, harmbench, harmbench_cases" in mistake
    assert reader_mistakes("world", "chat", None, False) and reader_mistakes("table", "prompts", "test", False)
