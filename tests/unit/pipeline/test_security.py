"""Files are read without running code from them, paths stay in their folder, keys and harmful text stay private."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers import BertConfig, BertModel, LlamaForCausalLM, LlamaForSequenceClassification

from rebend.config.load import load_config
from rebend.config.models import EncoderBlock, HubModel
from rebend.config.rewards import RewardBlock
from rebend.data.assets import model_asset
from rebend.errors import ConfigError, DataError, ModelError
from rebend.io.checkpoints import Checkpoints
from rebend.io.checksums import append_digest
from rebend.io.secrets import clear_of_keys, known_keys, without_keys
from rebend.models.loading import check_checkpoint, link_checkpoint, load_policy
from rebend.models.remote_code import CODE_FILE
from rebend.models.rewards.model import load_reward_model
from rebend.models.sentence_encoder import load_encoder
from rebend.pipeline.stages.rules import wildcard_patterns
from rebend.repbend.merge.weight_files import stored_tensors
from rebend.repbend.methods.released import take_adapter
from tests.helpers.small_policy import config, tokenizer
from tests.helpers.snakemake_job import python_path

ROOT = Path(__file__).parents[3]
CODE = sorted([*ROOT.glob("src/rebend/**/*.py"), *ROOT.glob("workflow/scripts/**/*.py"), *ROOT.glob("bench/**/*.py")])
RULES = [ROOT / "Snakefile", *sorted(ROOT.glob("workflow/rules/*.smk"))]
# functions that run code from the files that they read, or a shell
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("joblib.load", "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "pd.read_pickle"),
    *("pandas.read_pickle", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.jit.load"),
    *("torch.hub.load", "torch.package.PackageImporter", "shutil.unpack_archive"),
}


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr], str]]:
    """Yield each call in a file: its dotted name, its keywords, and its place."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {word.arg: word.value for word in node.keywords if word.arg}
            yield ast.unparse(node.func), keywords, f"{path.relative_to(ROOT)}:{node.lineno}"


def is_constant(value: ast.expr | None, expected: object) -> bool:
    return isinstance(value, ast.Constant) and value.value is expected


def is_unsafe(name: str, keywords: dict[str, ast.expr]) -> bool:
    """Return whether a call may run code from a file, or a shell."""
    if name in FORBIDDEN or name.endswith((".extractall", ".extract")):
        return True
    if name.endswith("torch.load"):
        return not is_constant(keywords.get("weights_only"), True)
    if name.endswith(("np.load", "numpy.load")):
        return "allow_pickle" in keywords
    return not is_constant(keywords.get("shell", ast.Constant(False)), False)


def test_code_has_no_unsafe_calls() -> None:
    assert len(CODE) > 150
    places = [place for path in CODE for name, keywords, place in calls(path) if is_unsafe(name, keywords)]
    # The parity page compiles functions of the released repositories, whose folders its user names.
    assert [place for place in places if not place.startswith("bench/parity_code.py")] == []


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "archive.extractall(folder)",
        "eval(text)",
    ],
)
def test_unsafe_calls_are_detected(code: str) -> None:
    call = ast.parse(code).body[0].value
    assert is_unsafe(ast.unparse(call.func), {word.arg: word.value for word in call.keywords})


def test_every_from_pretrained_sets_trust_remote_code() -> None:
    """Without the argument, transformers prompts on the terminal."""
    loads = [
        (place, keywords.get("trust_remote_code"))
        for path in CODE
        for name, keywords, place in calls(path)
        if name.endswith(".from_pretrained") and not name.startswith("LoraConfig") and "reference" not in place
    ]
    assert len(loads) >= 8
    assert [place for place, value in loads if value is None or not ast.unparse(value).startswith("runs_code(")] == []
    assert not any("trust_remote_code=True" in path.read_text(encoding="utf-8") for path in [*CODE, *RULES])


NOT_RUN = "holds more than weights, or is damaged; nothing in it was run"


class Malicious:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def write_malicious(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Return a function that writes a file of weights with code in it; at the end the code must not have run."""
    created = tmp_path / "created by the file"

    def write(folder: Path, name: str) -> None:
        torch.save({"model.norm.weight": torch.ones(2), "more": Malicious(created)}, folder / name)
        torch.load(folder / name, weights_only=False)
        assert created.exists()  # an unsafe load does run the code
        created.unlink()
        (folder / "model.safetensors").unlink(missing_ok=True)

    yield write
    assert not created.exists()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_malicious_weights_are_refused(write_malicious: Any, tmp_path: Path) -> None:
    folder = saved(LlamaForCausalLM(config()), tmp_path / "model")
    write_malicious(folder, "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: not a readable file of weights"):
        stored_tensors(folder)
    with pytest.raises(ModelError, match=NOT_RUN):
        load_policy(folder)


@pytest.mark.parametrize("head", ["sequence_classification", "regression_head"])
def test_malicious_reward_model_is_refused(write_malicious: Any, tmp_path: Path, head: str) -> None:
    shape = config()
    shape.num_labels = 1
    folder = saved(LlamaForSequenceClassification(shape), tmp_path / "reward")
    write_malicious(folder, "pytorch_model.bin")
    with pytest.raises(ModelError, match=NOT_RUN):
        load_reward_model(folder, RewardBlock.model_validate({"local": "x", "head": head}))


def test_pickle_with_only_weights_is_read_for_a_regression_head(tmp_path: Path) -> None:
    shape = config()
    shape.num_labels = 1
    model = LlamaForSequenceClassification(shape)
    folder = saved(model, tmp_path / "reward")
    weights = {name.replace("score.", "regression_head."): weight for name, weight in model.state_dict().items()}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    block = RewardBlock.model_validate({"local": "x", "head": "regression_head"})
    loaded = load_reward_model(folder, block).model.regression_head.weight
    assert torch.equal(loaded, model.score.weight)


def test_malicious_encoder_is_refused(write_malicious: Any, tmp_path: Path) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    folder = saved(BertModel(BertConfig(vocab_size=400, **sizes)), tmp_path / "encoder")
    write_malicious(folder, "pytorch_model.bin")
    with pytest.raises(ModelError, match=NOT_RUN):
        load_encoder(folder, EncoderBlock(local="x"))


def test_adapter_in_a_pickle_is_not_read(write_malicious: Any, tmp_path: Path) -> None:
    folder = saved(LlamaForCausalLM(config()), tmp_path / "base")
    (folder / "adapter_config.json").write_text("{}")
    write_malicious(folder, "adapter_model.bin")
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        take_adapter(folder, folder, tmp_path / "out", {})


def test_malicious_checkpoint_is_refused(write_malicious: Any, tmp_path: Path) -> None:
    write_malicious(tmp_path, "state.pt")
    append_digest(tmp_path / "state.pt")
    with pytest.raises(DataError, match=r"state\.pt: not a readable state"):
        Checkpoints(tmp_path).load()


UNTRUSTED = """
import sys
from rebend.errors import ModelError
from rebend.models.loading import check_checkpoint
for folder in sys.argv[1:]:
    try:
        check_checkpoint(folder)
    except ModelError as error:
        print(error)
"""


def test_code_in_a_model_folder_is_not_run_without_a_prompt(tmp_path: Path) -> None:
    created = tmp_path / "created by the code"
    folders = []
    for file, kind in (("config.json", {"model_type": "x"}), ("tokenizer_config.json", {"tokenizer_class": "X"})):
        folders.append(folder := saved(LlamaForCausalLM(config()), tmp_path / Path(file).stem))
        (folder / "x.py").write_text(f"import pathlib\npathlib.Path({str(created)!r}).touch()\nclass X: pass\n")
        settings = json.loads((folder / file).read_text())
        auto_map = {"AutoConfig": "x.X", "AutoTokenizer": ["x.X", "x.X"]}
        (folder / file).write_text(json.dumps({**settings, **kind, "auto_map": auto_map}))
    command = [sys.executable, "-c", UNTRUSTED, *map(str, folders)]
    done = subprocess.run(command, input="y\ny\n", capture_output=True, text=True, check=True)  # would confirm a prompt
    lines = [line for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert len(lines) == 2 and "[y/N]" not in done.stdout and not created.exists()
    assert all("needs Python code of its repository, which is run only if the block sets" in line for line in lines)


COMMIT = "5f0b02c75b57c5855da9ae460ce51323ea669d8a"
HUB = {"repo": "me/odd", "revision": COMMIT, "trust_remote_code": True}
ODD = """
from transformers import LlamaConfig, LlamaForCausalLM
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddModel(LlamaForCausalLM):
    config_class = OddConfig
"""


def odd_repository(folder: Path, owner: str = "me/odd--") -> Path:
    """Write a Llama of another model type with its code, and with a file that claims that the code may run."""
    saved(LlamaForCausalLM(config()), folder)
    settings = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": f"{owner}odd.OddConfig", "AutoModelForCausalLM": f"{owner}odd.OddModel"}
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "odd", "auto_map": auto_map}))
    (folder / "odd.py").write_text(ODD)
    (folder / CODE_FILE).write_text("{}")
    return folder


def test_code_runs_only_with_trust_remote_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    source = odd_repository(tmp_path / "source")
    for name, hub in (("trusted", HUB), ("untrusted", {**HUB, "trust_remote_code": False}), ("local", None)):
        (tmp_path / name).mkdir()
        link_checkpoint(source, tmp_path / name, hub=hub)
    check_checkpoint(tmp_path / "trusted")
    policy = load_policy(tmp_path / "trusted")
    assert type(policy.model).__name__ == "OddModel"
    facts = json.loads((tmp_path / "trusted" / CODE_FILE).read_text())
    assert facts["revision"] == COMMIT and list(facts["files"]) == ["odd.py"]
    for name in ("untrusted", "local"):
        assert not (tmp_path / name / CODE_FILE).exists() and not (tmp_path / name / "odd.py").exists()
        with pytest.raises(ModelError, match=r"is run only if the block sets `trust_remote_code`"):
            check_checkpoint(tmp_path / name)


def test_code_of_another_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(ModelError, match="names code of 'other/odd', of which no commit is pinned"):
        link_checkpoint(odd_repository(tmp_path / "source", "other/odd--"), tmp_path / "target", hub=HUB)


def test_trusted_code_needs_a_full_commit_and_is_another_asset() -> None:
    hub = HubModel(**HUB)
    plain = HubModel(repo="me/odd", revision=COMMIT)
    assert not plain.trust_remote_code and model_asset(plain).name != model_asset(hub).name
    for revision in ("main", COMMIT[:12], COMMIT.upper(), COMMIT + "0"):
        with pytest.raises(ValueError, match="`revision` must be a full commit"):
            HubModel(repo="me/odd", revision=revision, trust_remote_code=True)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_index_with_files_in_other_folders_is_refused(tmp_path: Path, name: str) -> None:
    folder = saved(LlamaForCausalLM(config()), tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    for check in (check_checkpoint, stored_tensors):
        with pytest.raises(ModelError, match=re.escape(f"names {name!r}, which is no file beside it")):
            check(folder)


MINE = {"kind": "chat", "reader": "world"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"datasets": {"../../x": {}}}, r"datasets.../../x: a name has small letters"),
        ({"models": {"a/b": {}}}, r"models.a/b: a name has small letters"),
        (
            {"datasets": {"x": {**MINE, "source": {"hub": {"repo": "o/n", "revision": "c", "file": "../x"}}}}},
            "inside the repository",
        ),
        (
            {"datasets": {"x": {**MINE, "source": {"hub": {"repo": "o/n", "revision": "c", "file": "/x"}}}}},
            "inside the repository",
        ),
        ({"datasets": {"x": {**MINE, "source": {"url": "https://me:secret@host/x.jsonl"}}}}, "user or password"),
        ({"study": "...yaml"}, r"study: '\.\.' is not a valid name"),
        ({"study": "My study.yaml"}, "study: 'My study' is not a valid name"),
    ],
)
def test_names_and_paths_outside_their_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for name in ("...yaml", "My study.yaml"):
        (tmp_path / name).write_text((ROOT / "config/studies/tiny.yaml").read_text())
    merged = {**catalogue, **{key: {**catalogue[key], **value} for key, value in raw.items() if key != "study"}}
    with pytest.raises(ConfigError, match=message):
        load_config({**merged, "study": raw.get("study", "tiny")}, ROOT / "config/studies")


def test_every_wildcard_is_constrained_to_names() -> None:
    text = "\n".join(path.read_text() for path in RULES)
    used = {name for path in re.findall(r'(?<!f)"([^"\n]*)"', text) for name in re.findall(r"\{([a-z_]+)\}", path)}
    constrained = dict(re.findall(r"^ +([a-z_]+)=(one_of\(.+|r\".+\"),$", text, re.MULTILINE))
    assert {"model", "shard", "place"} <= used
    raw = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    patterns = wildcard_patterns(load_config({**raw, "study": "tiny"}, ROOT / "config/studies"))
    # without those of shell commands and of report patterns
    assert used - {"input", "output", "log", "figure", "table"} <= set(constrained) | set(patterns)
    written = [value.removeprefix('r"').removesuffix('"') for value in constrained.values() if value.startswith("r")]
    for expression in [*written, *patterns.values()]:
        assert not any(re.fullmatch(expression, bad) for bad in ("..", "a/b", "../x", "/x", "", "a b", "A;b"))


KEYS = {
    "OPENAI_API_KEY": "sk-planted-0f9d8c7b",
    "HF_TOKEN": "hf_planted4c3b2a19",
    "OPENAI_BASE_URL": "https://reader:p%40planted-word@host.example/v1?code=planted-query",
    "HTTPS_PROXY": "http://proxy-user:planted-proxy@proxy.example:3128",
}
SENT = base64.b64encode(b"reader:p@planted-word").decode()  # as in an Authorization header


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Plant keys in the environment; return all forms that must not be stored or shown."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SERVER_KEY", "none")  # the value for servers without keys
    plain = ["p@planted-word", "p%40planted-word", "planted-query", "planted-proxy", SENT]
    return [KEYS["OPENAI_API_KEY"], KEYS["HF_TOKEN"], *plain]


def test_every_form_of_a_key_is_removed_from_text(planted: list[str], tmp_path: Path) -> None:
    text = "none of it: " + " | ".join([*planted, *KEYS.values()])
    clean = without_keys(text)
    assert not any(form in clean for form in planted) and clean.startswith("none of it: [the key] | [the key]")
    assert "host.example/v1" in clean  # other text is unchanged
    assert "none" not in known_keys()
    file = tmp_path / "log"
    file.write_bytes(b"\xff\x00" + text.encode())
    file.chmod(0o600)
    clear_of_keys(file)
    assert file.read_bytes() == b"\xff\x00" + clean.encode() and stat.S_IMODE(file.stat().st_mode) == 0o600


STAGE = """
import sys
from rebend.pipeline.jobs.job import job
from tests.helpers.snakemake_job import snakemake_job

snakemake = snakemake_job(
    sys.argv[1], outputs=["out/deep/r.parquet"], record="out/deep/r.json", log=sys.argv[1] + "/logs/s.log",
    private=sys.argv[2] == "private"
)
with job(snakemake) as run:
    import os
    from pathlib import Path
    from rebend.io.chunks import ChunkStore
    from rebend.io.files import whole_file
    print("sent", *os.environ.values())
    os.system("echo $OPENAI_API_KEY; echo $HF_TOKEN >&2")
    ChunkStore(run.progress).get_or_make("a", lambda: "text")
    with whole_file(snakemake.output[0]) as temporary:
        temporary.write_text("text")
        print("mode of the unfinished file", oct(temporary.stat().st_mode & 0o777))
    if sys.argv[2] == "fails":
        raise KeyError(f"the server said: bad key {os.environ['OPENAI_API_KEY']} of {os.environ['OPENAI_BASE_URL']}")
"""


def stage(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    (folder / "out/deep").mkdir(parents=True)  # as Snakemake creates it, readable by all users
    environment = {**os.environ, "REBEND_WARM": "off", "PYTHONPATH": python_path()}
    command = [sys.executable, "-c", "import os\nos.umask(0o022)\n" + STAGE, str(folder), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("how", ["succeeds", "fails"])
def test_keys_that_a_stage_prints_are_stored_nowhere(planted: list[str], tmp_path: Path, how: str) -> None:
    done = stage(tmp_path / "run", how)
    assert (done.returncode == 0) == (how == "succeeds")
    log = (tmp_path / "run/logs/s.log").read_text()
    assert log.count("[the key]") >= 6
    if how == "fails":
        assert "KeyError: 'the server said: bad key [the key]" in log and "Traceback" in log
        assert (
            "KeyError: 'the server said: bad key [the key]" in done.stderr
        )  # on a cluster, standard error goes to a log
    contents = {str(path): path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    contents["terminal"] = (done.stdout + done.stderr).encode()
    assert [(name, form) for name, content in contents.items() for form in planted if form.encode() in content] == []


def test_all_files_and_folders_of_a_private_stage_are_private(tmp_path: Path) -> None:
    assert (done := stage(tmp_path / "run", "private")).returncode == 0, done.stderr
    everything = sorted((tmp_path / "run").rglob("*"))
    modes = {str(path.relative_to(tmp_path / "run")): stat.S_IMODE(path.stat().st_mode) for path in everything}
    files = {name: mode for name, mode in modes.items() if (tmp_path / "run" / name).is_file()}
    assert {"out/deep/r.parquet", "out/deep/r.json", "logs/s.log"} < files.keys() and set(files.values()) == {0o600}
    assert any(name.startswith("progress/s/") for name in modes)
    assert {mode for name, mode in modes.items() if name not in files and name != "out"} == {0o700}
    assert "mode of the unfinished file 0o600" in (tmp_path / "run/logs/s.log").read_text()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line) for line in exact), "not exact, or with a digest"
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in exact}


def needed(requirement: Requirement, seen: set[str]) -> None:
    """Add the packages that a requirement installs, directly or through others, to `seen`."""
    name = canonicalize_name(requirement.name)
    names = [f"{name}[{extra}]" for extra in requirement.extras] + [name]
    if all(known in seen for known in names):
        return
    seen.update(names)
    try:
        requires = distribution(requirement.name).requires or []
    except PackageNotFoundError:
        return  # a package for other machines
    for inner in map(Requirement, requires):
        if any(inner.marker is None or inner.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            needed(inner, seen)


def test_every_installed_package_is_pinned_exactly() -> None:
    seen: set[str] = set()
    needed(Requirement("rebend[dev]"), seen)
    installed = {canonicalize_name(package.name) for package in distributions()}
    reached = {name for name in seen if "[" not in name} & installed - {"rebend", "pip", "setuptools"}
    # torch pins the packages of its CUDA build.
    unpinned = {name for name in reached - pins().keys() if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert len(reached) > 100 and unpinned == set()
    assert pins()["torch"] and "--hash" not in (ROOT / "constraints.txt").read_text()  # its builds differ by machine
