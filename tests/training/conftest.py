"""The checkpoint that training tests start from."""

import pytest

from visprobe.demo.small_llava import build_model, build_processor


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small untrained LLaVA on disk."""
    folder = tmp_path_factory.mktemp("checkpoints") / "base"
    processor = build_processor()
    build_model(processor, seed=0).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
