"""LoRA adapters on single parts of an MLLM, and merging them into ordinary weights."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from visprobe.errors import UsageError
from visprobe.mllm.parts import off_path, selected
from visprobe.training.recipe import Lora


def add_adapters(model: Any, lora: Lora) -> list[str]:
    """Add LoRA adapters to the linear layers of some parts; call it after `train_only`.

    The weights of these parts are frozen; other parts stay as trainable as they were. The model keeps its class, and
    at first its outputs, because adapters start at zero.

    Args:
        model: An MLLM of transformers.
        lora: The settings; its parts may be ranges of the tower's blocks.

    Returns:
        Names of the adapted layers.

    Raises:
        UsageError: If a part does not exist or has no linear layer that the loss reaches.
    """
    names = [name for name, _ in model.named_parameters()]
    unreachable = set(off_path(model))
    adapted, frozen = [], set[str]()
    for item in lora.parts:
        chosen = selected(item, names)
        layers = _linear_layers(model, chosen - unreachable)
        if not layers:
            raise UsageError(f"{item} has no linear layers for adapters", hint="Leave it out of lora.parts.")
        adapted += layers
        frozen |= chosen
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad} - frozen
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=adapted)
    parameters = dict(model.named_parameters())
    inject_adapter_in_model(settings, model)  # freezes everything but the adapters, so the rest is restored below
    for name in trained:
        parameters[name].requires_grad_(True)
    return sorted(adapted)


def merge(model: Any) -> Any:
    """Merge every adapter into its base weights, so that the model is an ordinary one again.

    Args:
        model: A model with adapters from `add_adapters`; changed in place.

    Returns:
        The same model, without adapters.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def merged_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the state dict that `model` would have after `merge`, leaving its adapters in place for training.

    Args:
        model: A model with adapters from `add_adapters`, or without any.

    Returns:
        Tensors by name; those of adapted layers are new, the others are the model's own.
    """
    kept = {name: value for name, value in model.state_dict().items() if ".lora_" not in name}
    weights = {name.replace(".base_layer.", "."): value for name, value in kept.items()}
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            for adapter in layer.active_adapters:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + layer.get_delta_weight(adapter).detach()
    return weights


def _linear_layers(model: Any, parameters: set[str]) -> list[str]:
    """Return names of linear layers with weights in `parameters`, but the output head, often tied to the embeddings."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and f"{name}.weight" in parameters
        and layer is not model.get_output_embeddings()
    ]
