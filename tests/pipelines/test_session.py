"""Who is measured under what name, with whose pixels."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from PIL import Image

from visprobe.errors import UsageError
from visprobe.pipelines.compare import compare
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.session import distinct_names
from visprobe.pipelines.single import imagenet

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def names(*paths):
    return distinct_names([Path("/work") / path for path in paths])


def test_names_are_the_shortest_that_tell_apart():
    assert names("base", "sft") == ["base", "sft"]
    assert names("a/model", "b/model", "sft") == ["a/model", "b/model", "work/sft"]


def test_an_expression_is_named_by_the_short_names_of_its_checkpoints():
    swap = "/work/sft[block 1 <- /work/dpo]"
    assert distinct_names(["/work/sft", swap]) == ["sft", "sft[block 1 <- dpo]"]
    with pytest.raises(UsageError, match="named twice"):
        distinct_names([swap, "/work/../work/sft[block 1 <- /work/dpo]"])


def test_no_checkpoint_has_the_name_of_a_baseline():
    assert names("base", "untrained") == ["work/base", "work/untrained"]
    assert names("base", "untrained (base)") == ["work/base", "work/untrained (base)"]
    with pytest.raises(UsageError, match="the name of a baseline"):
        names("base", "base (bfloat16)")


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Towers of two kinds, and of one kind in two sizes, all with 4x4 patches."""
    root = tmp_path_factory.mktemp("towers")
    for name, kind, side in (("siglip", "Siglip", 32), ("clip", "CLIP", 32), ("clip-large", "CLIP", 64)):
        config = getattr(transformers, f"{kind}VisionConfig")(**SMALL, image_size=side, patch_size=side // 4)
        getattr(transformers, f"{kind}VisionModel")(config).save_pretrained(root / name)
    return root


@pytest.mark.thorough
@pytest.mark.parametrize("other", ["clip", "clip-large"])
def test_a_tower_of_another_kind_gets_its_own_pixels(towers, tmp_path, other):
    options = Options(limit=40, store=tmp_path / "store")
    together = imagenet([towers / "siglip", towers / other], "digits", options)
    alone = imagenet([towers / other], "digits", Options(limit=40, store=tmp_path / "another store"))
    assert not [warning for warning in together.warnings if "image processor" in warning]
    measured = together.results[0].select(checkpoint=other, role="value", measure="top1")
    expected = alone.results[0].select(checkpoint=other, role="value", measure="top1")
    assert measured == expected


def test_a_checkpoint_with_another_filter_is_measured_with_the_first_ones(towers, tmp_path):
    """Twice the same other weights, once with the base's filter: what is measured of them is the same."""
    other = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL, image_size=32, patch_size=8))
    fields = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    filters = {"base": "BILINEAR", "like_base": "BILINEAR", "trained": "BICUBIC"}
    for name, resample in filters.items():
        shutil.copytree(towers / "siglip", tmp_path / name)
        described = {**fields, "resample": int(Image.Resampling[resample])}
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(described))
        if name != "base":
            other.save_pretrained(tmp_path / name)
    options = Options(limit=40, store=tmp_path / "store", analyses=("drift",))
    measured = compare([tmp_path / name for name in filters], "digits", options)
    assert "trained has another image processor than base: base's was used for both" in measured.warnings
    found = {
        name: [row.estimate.value for row in measured.results[0].select(checkpoint=name, measure="cka", role="value")]
        for name in ("like_base", "trained")
    }
    assert found["trained"] == found["like_base"] != []
