"""Checkpoints on the hub, from the adapter to its base and from an author to all models."""

import json
import time

import pytest
import torch
from hub_server import SOON
from huggingface_hub import close_session
from safetensors.torch import save

from visprobe.encoders.checkpoint.opened import open_checkpoint
from visprobe.encoders.listing.scan import scan
from visprobe.errors import CheckpointError

MATRICES = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(3, 2)}


def adapter(base):
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": base}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(MATRICES)}


def test_adapters_that_lead_back_to_themselves_are_one_message(hub):
    for name, base in (("org/own", "org/own"), ("org/a", "org/b"), ("org/b", "org/a")):
        hub.add(name, adapter(base))
    for name in ("org/own", "org/a"):
        with pytest.raises(CheckpointError, match="leads back to itself") as caught:
            open_checkpoint(name)
        assert "base_model_name_or_path" in caught.value.hint
    assert len(hub.requests) < 40


def test_an_adapter_whose_base_is_on_the_hub(hub):
    hub.add("org/base", {"config.json": b"{}", "model.safetensors": save({"a.weight": torch.ones(3, 3)})})
    hub.add("org/adapter", adapter("org/base"))
    opened = open_checkpoint("org/adapter")
    assert opened.tensors.container == "safetensors+lora"
    assert torch.equal(opened.tensors.read("a.weight"), torch.full((3, 3), 3.0))


def test_a_scan_of_the_hub_names_what_is_not_there(hub):
    hub.add("org/text", {"config.json": b'{"model_type": "llama"}', "model.safetensors": save({"a": torch.ones(2)})})
    [row] = scan(["org"])
    assert (row.path, "model_type 'llama'" in str(row.problem)) == ("org/text", True)
    for place, message in (
        ("nobody", "nobody is neither a directory here nor an author"),
        ("org/txet", "org/txet is neither a folder here nor a model"),
        ("./org", "./org does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            scan([place])


def test_a_directory_typed_wrongly_is_known_at_once_without_a_network(hub):
    hub.close()
    close_session()
    started = time.monotonic()
    with pytest.raises(
        CheckpointError, match=r"chekpoints is not a directory here, and the list of models .* no connect"
    ):
        scan(["chekpoints"])
    assert time.monotonic() - started < SOON
