"""Sources: local, by address with a digest, and from a hub (a small local one that answers as the real one)."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rebend.config.sources import DataSource
from rebend.errors import DataError
from rebend.fetch import fetch, file_digest

BODY = b'{"prompt": "x"}\n' * 1000
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(BaseHTTPRequestHandler):
    """Serves one data set file as the hub does, one plain file, and one that breaks off."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        if self.path.startswith("/datasets/gated/") and self.headers.get("Authorization") != "Bearer hf_good":
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        known = self.path in (
            f"/datasets/open/data/resolve/{COMMIT}/a/rows.jsonl",
            f"/datasets/open/data/resolve/{COMMIT}/b/rows.jsonl",
            f"/datasets/gated/data/resolve/{COMMIT}/a/rows.jsonl",
            "/plain/rows.jsonl?download=true",
            "/broken/rows.jsonl",
        )
        self.send_response(200 if known else 404)
        body = BODY if known else b""
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body[:100] if self.path.startswith("/broken") else body)
            self.close_connection = True


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_local_path_is_itself_and_must_be_a_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(BODY)
    assert fetch(DataSource(local=str(path)), tmp_path) == path
    with pytest.raises(DataError, match="there is no such file"):
        fetch(DataSource(local=str(tmp_path / "b.jsonl")), tmp_path)


def test_the_tiny_world_has_no_file(tmp_path):
    assert fetch(DataSource(world={"part": "test", "rows": 3}), tmp_path) is None


def test_an_address_is_downloaded_whole_and_keeps_the_ending_of_its_name(tmp_path, address):
    path = fetch(DataSource(url=f"{address}/plain/rows.jsonl?download=true"), tmp_path / "new")
    assert path.read_bytes() == BODY and path.name.endswith("rows.jsonl") and path.parent == tmp_path / "new"


def test_a_file_address_is_read_and_checked_against_its_digest(tmp_path):
    origin = tmp_path / "a b.jsonl.gz"
    origin.write_bytes(BODY)
    good = DataSource(url=origin.as_uri(), sha256=hashlib.sha256(BODY).hexdigest().upper())
    path = fetch(good, tmp_path / "got")
    assert path.name.endswith("a b.jsonl.gz") and file_digest(path) == hashlib.sha256(BODY).hexdigest()
    origin.unlink()
    assert fetch(good, tmp_path / "got") == path  # what is there already, and right, is not fetched again


def test_another_digest_than_the_configured_one_is_refused_and_nothing_is_left(tmp_path):
    origin = tmp_path / "a.jsonl"
    origin.write_bytes(BODY)
    with pytest.raises(DataError, match=f"its SHA-256 is {hashlib.sha256(BODY).hexdigest()}, but .* says 00ff"):
        fetch(DataSource(url=origin.as_uri(), sha256="00ff"), tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


def test_a_download_that_breaks_off_is_no_file(tmp_path, address):
    with pytest.raises(DataError, match=r"rows\.jsonl: the download broke off after 100 of 16000 bytes"):
        fetch(DataSource(url=f"{address}/broken/rows.jsonl"), tmp_path / "got")
    assert list((tmp_path / "got").iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.jsonl", "file:///does/not/exist.jsonl"])
def test_an_address_that_does_not_answer_is_named(tmp_path, url):
    with pytest.raises(DataError, match=f"{url}: cannot be downloaded"):
        fetch(DataSource(url=url), tmp_path)


def test_other_addresses_than_http_and_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'ftp' addresses are not read\. Allowed: http, https, file"):
        fetch(DataSource(url="ftp://host/x.jsonl"), tmp_path)


def from_hub(address, home, hub, **environment):
    """Fetch in a process of its own, for the hub's address is read when its library is imported."""
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from rebend.config.sources import DataSource\n"
        "from rebend.errors import DataError\n"
        "from rebend.fetch import fetch\n"
        "try: print(fetch(DataSource(hub=json.loads(sys.argv[1])), Path(sys.argv[2])))\n"
        "except DataError as error: print('DataError', error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", code, json.dumps(hub), str(home / "joined")]
    done = subprocess.run(command, env={**kept, **settings}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_hub_file_comes_at_its_pinned_revision_and_then_from_the_cache(tmp_path, address):
    hub = {"repo": "open/data", "revision": COMMIT, "file": "a/rows.jsonl"}
    get = partial(from_hub, address, tmp_path, hub)
    path = get()
    assert path.endswith(f"snapshots/{COMMIT}/a/rows.jsonl")
    assert Path(path).read_bytes() == BODY
    assert get(HF_HUB_OFFLINE="1") == path


def test_a_hub_file_that_is_not_there_is_named(tmp_path, address):
    hub = {"repo": "open/data", "revision": COMMIT, "file": "a/other.jsonl"}
    said = from_hub(address, tmp_path, hub)
    assert said.startswith(f"DataError hub data set open/data, file a/other.jsonl, revision {COMMIT}: the hub refused")
    assert "the hub cannot be reached" in from_hub(address, tmp_path, hub, HF_HUB_OFFLINE="1")


def test_several_hub_files_are_joined_in_order(tmp_path, address):
    hub = {"repo": "open/data", "revision": COMMIT, "file": ["a/rows.jsonl", "b/rows.jsonl"]}
    joined = from_hub(address, tmp_path, hub)
    assert Path(joined).read_bytes() == BODY * 2


@pytest.mark.parametrize("files", [[], ["a/x.jsonl", "b/y.jsonl"], ["a/x.parquet", "b/x.parquet"]])
def test_hub_files_that_cannot_be_joined_are_refused(files):
    with pytest.raises(ValueError, match=r"`file` names no file|joined only if"):
        DataSource(hub={"repo": "open/data", "revision": COMMIT, "file": files})


def test_a_gated_repository_says_which_token_is_missing(tmp_path, address):
    hub = {"repo": "gated/data", "revision": COMMIT, "file": "a/rows.jsonl", "gated": True}
    said = from_hub(address, tmp_path, hub)
    assert said.startswith("DataError") and "no hub token was found (HF_TOKEN is not set" in said
    assert "the token in use has no access. Accept its licence" in from_hub(address, tmp_path, hub, HF_TOKEN="hf_bad")
    assert from_hub(address, tmp_path, hub, HF_TOKEN="hf_good").endswith("a/rows.jsonl")
