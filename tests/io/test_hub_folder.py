"""Hub ids as checkpoints: what is meant, what is fetched, what works without a network, and every refusal."""

import shutil
import socket
import time
from pathlib import Path

import pytest
import torch
from hub_server import SOON, Blob, Faults
from huggingface_hub import close_session, constants, hf_hub_download
from huggingface_hub.utils import _detect_agent
from safetensors.torch import save

from visprobe.errors import CheckpointError, PrerequisiteError
from visprobe.io.containers.folder import LocalFile, LocalFolder
from visprobe.io.containers.kinds import open_tensors
from visprobe.io.hub.repository import HubFolder, list_collection, list_models, open_folder

NAME = "model.safetensors"
TENSORS = {"a": torch.arange(5000.0), "b": torch.arange(7.0), "c": torch.arange(6000.0)}
FILES = {
    "config.json": b'{"model_type": "llava"}',
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b"{}",
    "README.md": b"text",
    "checkpoint-5/config.json": b"{}",
    NAME: save(TENSORS),
}


def refused(spec, read=lambda folder: None, kind=CheckpointError):
    with pytest.raises(kind) as caught:
        read(open_folder(spec))
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_on_this_machine_comes_first(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for spec in ("org/name", "./org/name", tmp_path, Path("org")):
        assert isinstance(open_folder(spec), LocalFolder)


@pytest.mark.parametrize(
    "spec",
    [
        "./x",
        "/x/y",
        "../org/name",
        "~/x",
        "x",
        "a/b/c",
        "org/",
        "org/name@",
        "org/na me",
        "http://a/b",
        "-a/b",
        "a--b/c",
        "a/b.git",
        "~nobody-here/x",
        "x" * 5000,
    ],
)
def test_what_is_no_hub_id_is_never_asked_for(hub, spec):
    assert refused(spec) == f"{spec} does not exist"
    assert hub.requests == []


def test_listing_costs_one_request_and_small_files_one_download(hub):
    commit = hub.add("org/name", FILES)
    folder = open_folder("org/name")
    assert isinstance(folder, HubFolder) and str(folder) == "org/name" and folder.commit == commit
    assert folder.names() == sorted(FILES)
    assert hub.requests == [("GET", "/api/models/org/name/revision/main")]
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == {
        name: FILES[name] for name in ("config.json", "preprocessor_config.json")
    }
    assert folder.fetch("README.md").read_bytes() == b"text"
    hub.forget()
    assert folder.path.is_dir() and folder.fetch("README.md").is_file() and hub.requests == []


@pytest.mark.parametrize("kind", ["branch/with slash", "tag", "commit"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(hub, kind):
    old = hub.add("org/name", {**FILES, NAME: save({"a": torch.zeros(3)})}, revision="v1")
    hub.add("org/name", FILES)
    hub.commits["org/name"]["refs/pr/1"] = old
    revision = {"branch/with slash": "refs/pr/1", "tag": "v1", "commit": old}[kind]
    folder = open_folder(f"org/name@{revision}")
    assert folder.commit == old and str(folder) == f"org/name@{revision}"
    assert torch.equal(open_tensors(folder).read("a"), torch.zeros(3))


def test_a_branch_that_moves_does_not_change_an_open_folder(hub):
    hub.add("org/name", FILES)
    folder = open_folder("org/name")
    hub.add("org/name", {**FILES, NAME: save({"a": torch.zeros(5000)})})
    assert torch.equal(open_tensors(folder).read("a"), TENSORS["a"])
    assert torch.equal(open_tensors(open_folder("org/name")).read("a"), torch.zeros(5000))


def test_without_a_network_what_was_read_is_there_and_the_rest_is_one_message(hub, monkeypatch):
    commit = hub.add("org/name", FILES)
    folder = open_folder("org/name")
    open_tensors(folder).read("a")
    assert folder.path.is_dir()
    hub.forget()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for spec in ("org/name", f"org/name@{commit}"):
        offline = open_folder(spec)
        assert (offline.path / "config.json").is_file()
        assert torch.equal(open_tensors(offline).read("a"), TENSORS["a"])
        assert "HF_HUB_OFFLINE" in refused(spec, lambda f: open_tensors(f).read("c"))
        assert refused(spec, lambda f: f.fetch("README.md")).startswith(f"README.md of {spec} is not on this machine")
    other = refused("org/other")
    assert other == "org/other is not on this machine in full, and the hub may not be asked (--offline, HF_HUB_OFFLINE)"
    assert refused("org/name@v2").startswith("org/name@v2 is not on this machine")
    assert hub.requests == []


def test_a_checkpoint_that_from_pretrained_brought_is_used_as_it_is(hub, monkeypatch, tmp_path):
    hub.add("org/name", FILES)
    for name in ("config.json", NAME):
        hf_hub_download("org/name", name)
    hub.forget()
    folder = open_folder("org/name")
    assert isinstance(folder.open(NAME), LocalFile)
    assert torch.equal(open_tensors(folder).read("c"), TENSORS["c"]) and hub.served[NAME] == 0
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = open_folder("org/name")
    assert offline.names() == ["config.json", NAME] and offline.commit == folder.commit
    assert torch.equal(open_tensors(offline).read("c"), TENSORS["c"])


def test_a_gated_model_says_how_to_be_let_in(hub, monkeypatch):
    hub.add("org/name", FILES)
    hub.faults = Faults(gated=True, token="hf_right")
    assert "access to org/name has to be granted first (401)" in refused("org/name", lambda f: f.path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "access to org/name has to be granted first (403)" in refused("org/name", lambda f: f.path)
    assert "granted first (403)" in refused("org/name", open_tensors)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    folder = open_folder("org/name")
    assert folder.path.is_dir() and torch.equal(open_tensors(folder).read("b"), TENSORS["b"])


def test_what_the_hub_does_not_have_is_named(hub):
    hub.add("org/name", FILES)
    hub.add("org/text", {"README.md": b"text"})
    assert refused("org/nmae").startswith("org/nmae is neither a folder here nor a model that")
    assert refused("org/name@v9") == "org/name@v9: org/name has no such revision"
    assert refused("org/name", lambda f: f.open("x.bin")) == "org/name has no file x.bin"
    assert refused("org/text", lambda f: f.path) == "org/text has no config.json"


def test_a_dead_network_is_said_within_seconds(hub, monkeypatch):
    hub.add("org/name", FILES)
    folder = open_folder("org/name")
    hub.close()
    close_session()  # connections that are open already are still served
    started = time.monotonic()
    assert "no connection to http://127.0.0.1" in refused("org/name")
    with pytest.raises(CheckpointError, match=f"{NAME} of org/name cannot be read: no connection"):
        open_tensors(folder)

    def no_dns(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_dns)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    assert "no connection to http://hub.invalid ([Errno -2] Name or service not known)" in refused("org/name")
    assert time.monotonic() - started < SOON


def test_an_overloaded_hub_is_asked_again_and_not_for_ever(hub):
    hub.add("org/name", FILES)
    hub.faults = Faults(files=("api",), answers=[(503, {}), (429, {"Retry-After": "0"}), (500, {})])
    assert open_folder("org/name").names()
    hub.faults = Faults(files=("api",), answers=[(503, {})] * 50)
    assert "answered 503" in refused("org/name")
    assert len(hub.faults.answers) > 40


def test_a_login_page_in_place_of_the_hub_is_recognised(hub):
    hub.add("org/name", FILES)
    hub.faults = Faults(files=("api",), answers=[(200, {"Content-Type": "text/html"})])
    assert "does not answer as a hub does" in refused("org/name")


def test_a_cache_that_cannot_be_written_is_one_message(hub, monkeypatch, tmp_path):
    hub.add("org/name", FILES)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "file"))
    assert "cannot be kept on this machine" in refused("org/name", kind=PrerequisiteError)


def test_models_of_an_author_and_of_a_collection(hub):
    for name in ("org/a", "org/b", "org/c", "other/d"):
        hub.add(name, {"config.json": b"{}"})
    hub.collections["org/mine-0123"] = [("model", "org/c"), ("dataset", "org/x"), ("model", "other/d")]
    assert list_models("org") == ["org/a", "org/b", "org/c"]  # over two pages
    assert list_models("nobody") == []
    assert list_collection("org/mine-0123") == ["org/c", "other/d"]
    with pytest.raises(CheckpointError, match="the collection org/none does not exist"):
        list_collection("org/none")


@pytest.mark.parametrize(
    ("leads_to", "named"),
    [
        ("http://localhost:{port}/api/models?author=org&page=1", r"localhost:\d+"),
        ("//localhost:{port}/x", r"localhost:\d+"),
        ("http://127.0.0.1:1/api/models", "127.0.0.1:1"),
        ("https://127.0.0.1:{port}/api/models", r"127.0.0.1:\d+"),
        ("http://127.0.0.1:{port}@evil.example/api/models", "evil.example"),
        ("file:///etc/passwd", ""),
    ],
)
def test_a_list_of_models_leads_the_token_to_no_other_server(hub, monkeypatch, leads_to, named):
    monkeypatch.setenv("HF_TOKEN", "hf_ofthetest")
    hub.add("org/a", {"config.json": b"{}"})
    hub.faults.next_page = leads_to.replace("{port}", str(hub.server_port))
    with pytest.raises(CheckpointError, match=rf"on another server, {named}, which is not asked"):
        list_models("org")
    assert hub.tokens == [("127.0.0.1", "Bearer hf_ofthetest")]


@pytest.mark.parametrize("leads_to", ["?author=org", "/api/models?author=org", "?author=org&page={n}"])
def test_a_list_of_models_that_does_not_end(hub, monkeypatch, leads_to):
    monkeypatch.setattr("visprobe.io.hub.repository._MOST_PAGES", 20)
    hub.add("org/a", {"config.json": b"{}"})
    hub.faults.next_page = leads_to
    with pytest.raises(CheckpointError, match="a list of models of org that does not end"):
        list_models("org")
    assert len(hub.requests) <= 20


def test_nothing_but_the_requests_is_sent(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(_detect_agent, "_registry", None)
    monkeypatch.setenv("AI_AGENT", "some-agent")
    hub.add("org/name", FILES)
    folder = open_folder("org/name")
    assert folder.path.is_dir()
    open_tensors(folder).read("a")
    list_models("org")
    assert {path.split("/")[1] for _, path in hub.requests} == {"api", "org", "storage"}
    assert {path for _, path in hub.requests if path.startswith("/api")} == {
        "/api/models/org/name/revision/main", "/api/models"
    }  # fmt: skip
    assert all("torch" not in agent and "agent/" not in agent for agent in hub.agents)


def test_a_small_file_that_is_not_what_the_hub_lists_is_refused(hub):
    commit = hub.add("org/name", FILES)
    listed = hub.files["org/name", commit]["config.json"]
    other = Blob(b'{"a mirror": "of its own"}')
    other.etag = listed.etag
    hub.files["org/name", commit]["config.json"] = other
    assert "as the hub lists it: its content has another hash" in refused("org/name", lambda folder: folder.path)


def test_a_cache_that_may_only_be_read_still_lists(hub, monkeypatch):
    hub.add("org/name", FILES)
    first = open_folder("org/name").names()

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("visprobe.io.hub.repository.write_json", refuse)
    assert open_folder("org/name").names() == first
    hub.add("org/other", FILES)
    assert open_folder("org/other").names() == first
