"""Which stages run again after a change of a key, for all keys of all settings classes, and after edits of the library.

`TABLE` names the stages that must run again for each key. A test fails for a key of a settings class that is not in
the table, and for a key in the table that no settings class has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rebend.config.adapters import ADAPTERS
from rebend.config.base import Block, settings
from rebend.config.catalogue import CATALOGUE, block_classes
from rebend.config.datasets import MADE_DATASETS
from rebend.config.judges import OpenAIJudgeBlock
from rebend.config.safety import SAFETY_JUDGES, GcgBlock, ScavBlock
from tests.workflow.checkout import Checkout
from tests.workflow.jobs import copy_of

REPORT = ["make_tables", "make_figures", "make_report", "publish"]
SCORES = ["score_reward", "score_diversity", "score_coherence", "judge_win_rate"]
ATTACK = ["attack", "judge_safety", *REPORT]
DECODE = ["decode", *SCORES, *ATTACK]
VALUE = ["train_value_model", "choose_strength", *DECODE]
LABEL = ["label_rewards", "fit_direction", *VALUE]
EXTRACT = ["extract_activations", "gather_activations", *LABEL]
CAPABILITY = ["score_capability", *REPORT]
MERGE = ["merge_adapter", "project_hidden_states", "score_capability", *EXTRACT]
ADAPTER = ["train_adapter", *MERGE]
REWARD = ["train_reward_model", "score_references", *LABEL]
MODEL = ["train_tiny_model", *REWARD, *ADAPTER]
DATA = ["prepare_dataset", "check_overlap", *MODEL]
CHOICE = ["choose_strength", *DECODE]
# Stages of a control that decodes prompts and is not attacked.
PROMPTS = ["decode", "score_reward", "score_diversity", *REPORT]
# Stages that score with a reward model.
READING = ["label_rewards", "fit_direction", "score_references", *VALUE]
NOTHING: list[str] = []

# (section, block) → key → (another valid value, stages)
TABLE: dict[tuple[str, str], dict[str, tuple[Any, list[str]]]] = {
    ("datasets", "micro_dialogues"): {
        "source": ({"world": {"part": "dialogues", "rows": 121}}, DATA),
        "rows": (100, DATA),
        "skip": (20, DATA),
        "seed": (1, DATA),
        "stratified": (None, NOTHING),  # chats have no categories
        "kind": (None, NOTHING),
        "reader": (None, NOTHING),
        "only": (None, NOTHING),  # columns of a file; the world has none
        "reference": (None, NOTHING),
        "variant": (None, NOTHING),  # of readers of files
        "user_word": (None, NOTHING),
        "without": (["micro_test"], DATA),
    },
    ("models", "micro"): {
        "tiny": ({"steps": 5}, MODEL),
        "dtype": ("bfloat16", ["train_adapter", *MERGE]),
        "resources": ({"mem_mb": 5000, "runtime": 7}, NOTHING),
        "chat_template": (None, NOTHING),
        "template_arguments": (None, NOTHING),  # this and the next three: a tiny model has its own template
        "template_date": (None, NOTHING),
        "template_bos": (None, NOTHING),
        "variant": (None, NOTHING),
        "n_layers": (None, NOTHING),
        "hub": (None, NOTHING),
        "local": (None, NOTHING),
        "package": (None, NOTHING),  # this and the next in place of `tiny`: tests/workflow/test_model_sources.py
        "gguf": (None, NOTHING),
    },
    ("rewards", "micro_reward"): {
        "tiny": ({"steps": 3}, REWARD),
        "template": ("{prompt} {response}", READING),
        "variant": (None, NOTHING),  # needs prompts of this variant
        "replaced": (None, NOTHING),  # needs a template
        "batch_size": (32, READING),
        "batch_tokens": (200, READING),
        "max_length": (100, READING),
        "dtype": ("bfloat16", READING),
        "resources": ({"runtime": 7}, NOTHING),
        "head": (None, NOTHING),
        "trained": (None, NOTHING),  # in place of `tiny`; its keys are settings of the same stage
        "http": (None, NOTHING),  # in place of `tiny`: tests/workflow/test_reward_endpoint.py
        "hub": (None, NOTHING),
        "local": (None, NOTHING),
    },
    ("encoders", "micro_encoder"): {
        "pooling": ("pooler", ["embed_prompts", "score_coherence", *CHOICE]),
        "max_length": (64, ["embed_prompts", "score_coherence", *CHOICE]),
        "batch_size": (32, ["embed_prompts", "score_coherence", *CHOICE]),
        "resources": ({"runtime": 7}, NOTHING),
        "package": (None, NOTHING),
        "hub": (None, NOTHING),
        "local": (None, NOTHING),
    },
    ("adapters", "micro_adapter"): {
        "examples": ("micro_pairs", ["check_overlap", *ADAPTER]),
        "paired_examples": ("micro_samples", ["check_overlap", *ADAPTER]),
        "retain_chats": ("micro_dialogues", ["check_overlap", *ADAPTER]),
        "alpha": (0.4, ADAPTER),
        "beta": (0.4, ADAPTER),
        "gamma": (0.2, ADAPTER),
        "epsilon": (0.4, ADAPTER),
        "push_limit": (5.0, ADAPTER),
        "target_layer_start_idx": (2, ADAPTER),
        "layers_window_size": (2, ADAPTER),
        "transform_layers": ([1], ADAPTER),
        "alpha_mode": ("target", ADAPTER),
        "loss_mode": ("prompt_last", ADAPTER),
        "eta": (0.1, ADAPTER),
        "variant": (None, NOTHING),  # `corrected` needs another dropout with it: below
        "micro_batch": (1, ADAPTER),
        "gradient_checkpointing": (True, ADAPTER),
        "base_bits": (8, ADAPTER),
        "mixed_precision": ("bfloat16", ADAPTER),
        "ranks": (None, NOTHING),  # with `zero`: below
        "zero": (1, NOTHING),
        "max_step": (3, ADAPTER),
        "batch_size": (3, ADAPTER),
        "lr": (2.0e-3, ADAPTER),
        "lora_r": (3, ADAPTER),
        "lora_alpha": (8, ADAPTER),
        "lora_dropout": (0.0, ADAPTER),
        "max_length": (48, ADAPTER),
        "seed": (1, ADAPTER),
        "method": (None, NOTHING),
    },
    ("activations", "micro_rollouts"): {
        "dataset": ("micro_validation", ["check_overlap", *EXTRACT]),
        "samples_per_prompt": (2, EXTRACT),
        "decoding": ({"max_new_tokens": 9}, EXTRACT),
        "layer": (0, EXTRACT),
        "states": ("streamed", EXTRACT),
        "max_bytes": (100_000, EXTRACT),
        "shards": (3, EXTRACT),
        "prompts_per_chunk": (6, EXTRACT),
        "max_prompt_tokens": (300, EXTRACT),
    },
    ("value_models", "micro_value"): {
        "method": (None, NOTHING),
        "local": (None, NOTHING),  # of a released network
        "variant": ("released_code", VALUE),
        "n_layers": (3, VALUE),
        "hidden_size": (16, VALUE),
        "lr": (2.0e-4, VALUE),
        "batch_size": (4, VALUE),
        "epochs": (3, VALUE),
        "td_lambda": (0.5, VALUE),
        "validation_share": (0.2, VALUE),
        "end_state": ("left_out", VALUE),
        "dtype": ("bfloat16", VALUE),
        "seed": (1, VALUE),
        "activations": (None, NOTHING),
        "reward": (None, NOTHING),
    },
    ("controls", "micro_climb"): {
        "n_steps": (None, NOTHING),  # micro_random takes its strength and must have as many
        "variant": ("released_code", CHOICE),
        "decoding": ({"max_new_tokens": 9}, CHOICE),
        "dtype": ("bfloat16", CHOICE),
        "choice": ({"grid": [0.1, 2.0]}, CHOICE),
        "step_size": (None, NOTHING),
        "method": (None, NOTHING),
        "value_model": (None, NOTHING),
        "strength_of": (None, NOTHING),
    },
    ("controls", "micro_prompting"): {
        "instruction": ("please", DECODE),
        "reward_stop": (["User:"], ["score_reward", "judge_win_rate", *REPORT]),
    },
    ("controls", "micro_static"): {
        "direction": (None, NOTHING),
        "choice": ({"objective": "published"}, ["choose_strength", *PROMPTS]),
    },
    ("controls", "micro_search"): {
        "weight": (2.0, PROMPTS),
        "top_k": (2, PROMPTS),
        "reward": (None, NOTHING),
    },
    ("controls", "micro_both"): {"step_size": (1.0, PROMPTS), "n_steps": (3, PROMPTS), "instruction": ("x", PROMPTS)},
    ("controls", "micro_best"): {"n": (3, PROMPTS)},
    ("directions", "micro_direction"): {
        "fit": ("regression", ["fit_direction", "choose_strength", *PROMPTS]),
        "share": (0.25, ["fit_direction", "choose_strength", *PROMPTS]),
        "activations": (None, NOTHING),
        "reward": (None, NOTHING),
    },
    ("judges", "micro_judge"): {
        "sample": (4, ["judge_win_rate", *REPORT]),
        "seed": (1, ["judge_win_rate", *REPORT]),
        "method": (None, NOTHING),
        "reward": (None, NOTHING),
    },
    ("capabilities", "micro_questions"): {
        "source": ([{"local": "questions.jsonl"}], CAPABILITY),
        "examples": ({"local": "questions.jsonl"}, CAPABILITY),
        "metric": ("acc_norm", CAPABILITY),
        "few_shot": (0, CAPABILITY),
        "limit": (5, CAPABILITY),
        "seed": (1, CAPABILITY),
        "batch_size": (4, CAPABILITY),
        "chat_template": (True, CAPABILITY),
        "task": (None, NOTHING),
        "max_new_tokens": (None, NOTHING),
    },
    ("attacks", "direct"): {
        "seed": (1, ATTACK),
        "attempts": (None, NOTHING),  # greedy attempts would be equal, and are refused
        "method": (None, NOTHING),
    },
    ("attacks", "micro_prefilling"): {
        "target": ("Take", ATTACK),
        "suffix": (":", ATTACK),
        "variant": ("released_code", ATTACK),
    },
    ("attacks", "micro_embedding"): {
        "attempts": (2, ATTACK),
        "target": ("Take", ATTACK),
        "update": ("sign", ATTACK),
        "variant": ("released_code", ATTACK),
        "start": ("y", ATTACK),
        "n_tokens": (3, ATTACK),
        "steps": (3, ATTACK),
        "lr": (1.0e-3, ATTACK),
        "stop_loss": (0.1, ATTACK),
        "generations": (2, ATTACK),
        "batch_size": (2, ATTACK),
    },
    ("safety_judges", "micro_truth"): {"method": ("refusal_matcher", ["judge_safety", *REPORT])},
}
# Classes of methods that the micro study does not run; a test below checks that all of their keys are settings.
ELSEWHERE = [
    *(kind.block for method, kind in ADAPTERS.items() if method != "repbend"),
    GcgBlock,
    ScavBlock,
    *(kind.block for method, kind in SAFETY_JUDGES.items() if method not in ("world_truth", "refusal_matcher")),
    OpenAIJudgeBlock,
    *MADE_DATASETS.values(),  # tests/workflow/test_made_datasets.py
]
CHANGES = [
    (section, block, key, value, stages)
    for (section, block), keys in TABLE.items()
    for key, (value, stages) in keys.items()
    if value is not None
]


@pytest.fixture(scope="module")
def built(built: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the built checkout, because tests edit its code."""
    return copy_of(built, tmp_path_factory.mktemp("reruns") / "copy")


@pytest.fixture(scope="module")
def reruns(built: Checkout) -> dict[tuple[str, str, str], set[str]]:
    """(section, block, key) → rules of a dry run after the change. The dry runs only read, so they run in parallel."""

    def dry_run(change: tuple[str, str, str, Any, list[str]]) -> set[str]:
        section, block, key, value, _ = change
        return built.would_run(change={section: {block: {key: value}}})

    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        return dict(zip([change[:3] for change in CHANGES], pool.map(dry_run, CHANGES), strict=True))


def test_second_run_has_nothing_to_do(built: Checkout) -> None:
    assert built.would_run() == set()
    assert "Nothing to be done" in (done := built.snakemake()).stdout + done.stderr


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[1]}.{change[2]}")
def test_changed_key_runs_exactly_the_stages_that_depend_on_it(reruns: dict, change: tuple) -> None:
    assert reruns[change[:3]] == set(change[4])


def test_corrected_variant_runs_the_training_again(built: Checkout) -> None:
    change = {"adapters": {"micro_adapter": {"variant": "corrected", "lora_dropout": 0.0}}}
    assert built.would_run(change=change) == set(ADAPTER)


def test_deepspeed_and_ranks_run_nothing_again(built: Checkout) -> None:
    assert built.would_run(change={"adapters": {"micro_adapter": {"zero": 1}}}) == set()


SHOWN = {"label", "published"}  # names in tables; only the report reads them


def test_every_key_of_every_settings_class_is_in_the_table() -> None:
    for section in CATALOGUE:
        in_table = {key for (name, _), keys in TABLE.items() if name == section for key in keys}
        for kind in block_classes(section):
            assert in_table >= set(kind.model_fields) - SHOWN or kind in ELSEWHERE, (
                f"{section}: the table lacks {kind.__name__}"
            )
        assert in_table <= {key for kind in block_classes(section) for key in kind.model_fields}, (
            f"{section}: the table has keys that no class has"
        )


@pytest.mark.parametrize("kind", ELSEWHERE, ids=lambda kind: kind.__name__)
def test_all_keys_of_other_methods_are_settings_of_their_stage(kind: type[Block]) -> None:
    without = {"resources", "concurrency", "retries", "ranks", "zero", *SHOWN}
    block = kind.model_construct(**dict.fromkeys(kind.model_fields))
    assert set(settings(block)) == set(kind.model_fields) - without


def edit(checkout: Checkout, module: str, old: str, new: str) -> None:
    path = checkout.folder / module
    text = path.read_text()
    assert text.count(old) >= 1, f"{module} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("module", "old", "new", "stages"),
    [
        ("src/rebend/evaluation/diversity.py", '"""', '"""Other words. ', NOTHING),
        (
            "workflow/scripts/evaluation/judge_safety.py",
            "    from rebend.io.files",
            "    # a comment\n    from rebend.io.files",
            NOTHING,
        ),
        (
            "src/rebend/evaluation/judges/safety/judge.py",
            "Verdict(INCOHERENT, answered=False)",
            "Verdict(INCOHERENT, answered=True)",
            ["judge_safety", *REPORT],
        ),
        ("src/rebend/evaluation/capability.py", "_PIECE = 256", "_PIECE = 128", CAPABILITY),
        ("src/rebend/repbend/merge/merge.py", '".model", ".txt")', '".model")', MERGE),
        ("src/rebend/recontrol/value_model/train.py", '"cpu": 1024', '"cpu": 2048', VALUE),
        ("src/rebend/repbend/methods/terms.py", ".square().sum(-1).sqrt()", ".abs().sum(-1)", ADAPTER),
        ("workflow/scripts/recontrol/label_rewards.py", "parts.clear()", "parts.clear()\n    run.note(x=1)", LABEL),
    ],
)
def test_edit_of_the_library_runs_the_stages_that_reach_it(
    built: Checkout, module: str, old: str, new: str, stages: list[str]
) -> None:
    path = built.folder / module
    before = path.read_text()
    try:
        edit(built, module, old, new)
        assert built.would_run() == set(stages)
    finally:
        path.write_text(before)


# Code versions only, for each stage and method: cheaper than dry runs, and covers methods that the study lacks.
VERSIONS = """
import json
from pathlib import Path
from rebend.config.adapters import ADAPTERS
from rebend.config.controls import CONTROLS
from rebend.config.datasets import READERS
from rebend.pipeline.jobs.code_version import code_version

TRAINED = set(ADAPTERS) - {"released", "task_arithmetic", "weight_orthogonalisation"}
entries = {
    "train_adapter": {name: method.code for name, method in ADAPTERS.items() if name in TRAINED},
    "decode": {name: method.code for name, method in CONTROLS.items()},
    "choose_strength": {name: method.code for name, method in CONTROLS.items()},
    "attack": {name: method.code for name, method in CONTROLS.items()},
    "prepare_dataset": READERS,
    "score_reward": {
        "loaded": "rebend.models.rewards.model:load_reward_model",
        "http": "rebend.models.rewards.endpoint:load_endpoint",
    },
}
versions = {}
for script in Path("workflow/scripts").glob("*/*.py"):
    for name, code in entries.get(script.stem, {"": None}).items():
        versions[f"{script.stem} {name}".strip()] = code_version(script, *filter(None, [code]))
print(json.dumps(versions))
"""


def code_versions(folder: Path) -> dict[str, str]:
    """Return "stage method" → code version in a copy of the tree."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-c", VERSIONS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stages_with(methods: set[str], *stages: str) -> set[str]:
    return {f"{stage} {method}" for stage in stages for method in methods}


TRAININGS = {"repbend", "circuit_breakers", "rmu", "npo", "whp", "dpo", "sft"}
ASCENDING = {"value", "value_prompting", "random"}  # controls that ascend the value network
# name → (module, lines, other lines, code versions that change)
EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    "lock polling": ("io/locks.py", "_POLL_SECONDS = 0.1", "_POLL_SECONDS = 0.2", set()),
    "speed constant of the ascent": (
        "recontrol/methods/ascent.py",
        "FEW = 16",
        "FEW = 17",
        stages_with(ASCENDING, "decode", "choose_strength", "attack"),
    ),
    "preferred answer of one reader": (
        "data/readers/shp.py",
        'if label == "1" else',
        'if label == "0" else',
        stages_with({"shp", "recontrol"}, "prepare_dataset"),
    ),
    "loss of DPO": (
        "repbend/methods/dpo.py",
        "logsigmoid(beta * (safe - unsafe))",
        "logsigmoid(beta * (unsafe - safe))",
        stages_with({"dpo"}, "train_adapter"),
    ),
    "end of turn in one method": (
        "repbend/methods/sft.py",
        "trains_end_of_turn = True",
        "trains_end_of_turn = False",
        stages_with({"sft"}, "train_adapter"),
    ),
    "end-of-turn tokens": (
        "repbend/objective.py",
        "trains_end_of_turn: ClassVar[bool] = False",
        "trains_end_of_turn: ClassVar[bool] = True",
        stages_with(TRAININGS, "train_adapter"),
    ),
    "join column of a format": (
        "data/readers/safety/harmbench.py",
        'key="BehaviorID"',
        'key="Behavior"',
        # The reader of the test cases finds the behaviours with a function of the same file.
        stages_with({"harmbench", "harmbench_cases"}, "prepare_dataset"),
    ),
    "length of repeated sequences": ("evaluation/repetition.py", "ORDER = 4", "ORDER = 3", {"score_repetition"}),
    "tokens of a batch of scored texts": (
        "models/likelihood/nll.py",
        "BATCH_TOKENS = 4096",
        "BATCH_TOKENS = 2048",
        {"score_perplexity", "score_chats"},
    ),
    "a docstring": ("evaluation/diversity.py", '"""', '"""Other words. ', set()),
    "a comment": ("evaluation/diversity.py", "import annotations\n", "import annotations\n# a comment\n", set()),
    "a description of a key": (
        "config/adapters.py",
        "the distance between the answers of a pair",
        "the distance of the answers of a pair",
        set(),
    ),
    "pauses between requests of rewards": (
        "models/rewards/endpoint.py",
        "_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0",
        "_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 70.0",
        {"check_reward_endpoint", "score_reward http"},
    ),
    # make_report runs again because its input, the figures, changes; its code version stays.
    "a colour of figures": ("report/figures/style.py", "#0072B2", "#0072B3", {"make_figures"}),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, dict[str, str]]:
    """A checkout and its code versions."""
    checkout = Checkout.make(tmp_path_factory.mktemp("edits"))
    return checkout, code_versions(checkout.folder)


@pytest.mark.parametrize("name", EDITS)
def test_edit_changes_the_code_version_of_exactly_its_stages(tree: tuple[Checkout, dict], name: str) -> None:
    checkout, before = tree
    module, old, new, stages = EDITS[name]
    path = checkout.folder / "src/rebend" / module
    text = path.read_text()
    try:
        edit(checkout, f"src/rebend/{module}", old, new)
        after = code_versions(checkout.folder)
        changed = {stage for stage, version in after.items() if before[stage] != version}
        assert changed == stages
    finally:
        path.write_text(text)


def test_one_stage_can_be_forced(built: Checkout) -> None:
    done = built.snakemake("--dry-run", "-R", "judge_safety")
    assert "judge_safety" in done.stdout
    assert "decode" not in done.stdout


def test_each_result_file_is_a_target(built: Checkout) -> None:
    path = next((built.folder / "results/scores/diversity").rglob("*.parquet"))
    target = Path(path).relative_to(built.folder)
    done = built.snakemake("--dry-run", "--force", str(target))
    assert "score_diversity" in done.stdout
    assert "make_tables" not in done.stdout
