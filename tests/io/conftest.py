"""What several tests of reading share."""

import pytest
from hub_server import HubServer
from huggingface_hub import close_session, constants

from visprobe.io.hub import errors as hub_errors


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running `HubServer` that huggingface_hub and visprobe take for the hub, with empty caches."""
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(hub_errors, "_FIRST_WAIT", 0.01)
    monkeypatch.setenv("VISPROBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    close_session()
    server.close()
