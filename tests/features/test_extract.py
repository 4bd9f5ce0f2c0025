"""One pass: what is decoded, what is forwarded, what is kept, and what survives damage and kill -9."""

import io
import json
import shutil
import signal
import textwrap
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from visprobe.data.image_set import Item
from visprobe.demo.small_llava import build_model, build_processor
from visprobe.encoders.load import load_encoder
from visprobe.errors import CheckpointError, DataError, UsageError
from visprobe.features import extract as module
from visprobe.features import store as store_module
from visprobe.features.extract import extract
from visprobe.features.store import FeatureStore


@dataclass
class Images:
    """Images held in memory; `reads` counts how often each was read."""

    files: list[bytes]
    name: str = "made"
    classes: tuple[str, ...] | None = ("even", "odd")
    reads: list[int] = field(default_factory=list)

    @property
    def items(self):
        return [Item(f"{i:03d}", i % 2) for i in range(len(self.files))]

    def read(self, index):
        self.reads.append(index)
        if self.files[index] == b"gone":
            raise OSError("no such file")
        return self.files[index]


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"checkpoint{seed}")
        processor = build_processor()
        build_model(processor, seed=seed).save_pretrained(folder)
        processor.save_pretrained(folder)
        made.append(load_encoder(folder))
    return made


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


def sites(encoder):
    return ["block_00", "consumed", "projected"]


def test_features_are_the_mean_over_patches_of_each_image_alone(encoders, store):
    images = Images([png(i) for i in range(6)])
    extraction = extract(encoders, images, sites, store=store, batch_size=3)
    for encoder, features in zip(encoders, extraction.features, strict=True):
        assert set(features.sites) == {"block_00", encoder.consumed, "projected"}
        assert features.item_ids == tuple(item.id for item in images.items)
        assert features.labels.tolist() == [0, 1, 0, 1, 0, 1]
        for index in (0, 5):
            alone = encoder([Image.open(io.BytesIO(images.files[index]))])
            for site, values in features.sites.items():
                # One image alone and in a batch take different matrix kernels: float32 rounding.
                assert values[index] == pytest.approx(alone[site][0].mean(0).numpy(), abs=1e-5)


def test_each_image_is_decoded_once_and_forwarded_once_per_encoder(encoders, store, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        module, "decode", lambda data, real=module.decode, **how: decoded.append(1) or real(data, **how)
    )
    images = Images([png(i) for i in range(10)])
    extraction = extract(encoders, images, sites, store=store)
    assert len(decoded) == extraction.decoded == 10
    assert extraction.forwarded == 20
    assert sorted(images.reads) == list(range(10))


def test_checkpoints_with_equal_weights_are_forwarded_once(encoders, store):
    copy = encoders[0].rounded(torch.float32)
    extraction = extract([encoders[0], copy, encoders[1]], Images([png(i) for i in range(6)]), sites, store=store)
    first, same, other = extraction.features
    assert extraction.forwarded == 12
    assert all(np.array_equal(first.sites[site], same.sites[site]) for site in first.sites)
    assert not np.array_equal(first.sites["projected"], other.sites["projected"])


def test_heads_norms_class_tokens_and_tokens_are_what_the_tokens_say(encoders, store):
    images, encoder = Images([png(i) for i in range(3)]), encoders[0]
    asked = ["heads_01", "consumed:norms", "consumed:tokens", "projected:norms"]
    [features] = extract([encoder], images, lambda _: asked, store=store).features
    for index, file in enumerate(images.files):
        alone = encoder.forward(
            encoder.preprocess([Image.open(io.BytesIO(file))]), ["heads_01", "consumed", "projected"]
        )
        got = {request: values[index] for request, values in features.sites.items()}
        consumed = alone["consumed"][0]
        # One image alone and in a batch take different matrix kernels; float16 keeps 11 bits.
        assert got["heads_01"] == pytest.approx(alone["heads_01"][0].mean(0).numpy(), abs=1e-5)
        assert got[f"{encoder.consumed}:norms"] == pytest.approx(consumed.norm(dim=-1).numpy(), rel=1e-5)
        assert got[f"{encoder.consumed}:tokens"] == pytest.approx(consumed.numpy(), rel=2e-3, abs=2e-3)
        assert got["projected:norms"] == pytest.approx(alone["projected"][0].norm(dim=-1).numpy(), rel=1e-5)
    assert features.sites[f"{encoder.consumed}:tokens"].dtype == np.float16


def test_heads_side_by_side_give_what_the_attention_adds(encoders):
    encoder = encoders[0]
    pixels = encoder.preprocess([Image.open(io.BytesIO(png(0)))])
    block = encoder._tower.encoder.layers[0]
    seen = []
    with block.self_attn.register_forward_hook(lambda _, __, output: seen.append(output[0])):
        heads = encoder.forward(pixels, ["heads_01"])["heads_01"]
    assert torch.equal(block.self_attn.out_proj(heads), seen[0])
    assert heads.shape[-1] % encoder.heads == 0


def test_unknown_reductions_are_refused(encoders, store):
    with pytest.raises(UsageError, match="asks for the unknown median"):
        extract(encoders[:1], Images([png(0)]), lambda _: ["consumed:median"], store=store)


def test_what_is_in_the_store_is_not_computed_again(encoders, store):
    images = Images([png(i) for i in range(6)])
    first = extract(encoders[:1], images, sites, store=store)
    again = extract(encoders[:1], images, sites, store=store)
    assert (again.decoded, again.forwarded) == (0, 0)
    assert again.images_hash == first.images_hash
    for site, values in first.features[0].sites.items():
        assert np.array_equal(values, again.features[0].sites[site])
    both = extract(encoders, images, sites, store=store)
    assert both.forwarded == 6  # the second encoder alone
    more = extract(encoders[:1], images, lambda encoder: ["block_01"], store=store)
    assert more.forwarded == 6  # a site not asked for before
    assert extract(encoders[:1], images, sites, store=store).forwarded == 0  # and the others were kept


def test_one_changed_byte_anywhere_is_never_served_from_the_store(encoders, store):
    images = Images([png(i) for i in range(4)])
    before = extract(encoders[:1], images, sites, store=store)
    images.files[2] = png(99)
    after = extract(encoders[:1], images, sites, store=store)
    same = before.features[0].sites["block_00"] == after.features[0].sites["block_00"]
    assert same.all(axis=1).tolist() == [True, True, False, True]
    assert before.images_hash != after.images_hash


def test_names_and_times_do_not_matter(encoders, store):
    files = [png(i) for i in range(4)]
    extract(encoders[:1], Images(files, name="one"), sites, store=store)
    assert extract(encoders[:1], Images(files, name="two"), sites, store=store).decoded == 0


def test_a_rounded_tower_and_a_retrained_projector_have_features_of_their_own(encoders, store):
    base, images = encoders[0], Images([png(i) for i in range(4)])
    rounded = base.rounded(torch.bfloat16)
    one, two = extract([base, rounded], images, sites, store=store).features
    assert not np.array_equal(one.sites[base.consumed], two.sites[base.consumed])
    assert one.sites[base.consumed] == pytest.approx(two.sites[base.consumed], abs=0.1)


def test_the_same_weights_under_another_configuration_have_features_of_their_own(encoders, store, tmp_path):
    shutil.copytree(encoders[0].provenance.path, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["num_attention_heads"] //= 2
    path.write_text(json.dumps(config))
    other, images = load_encoder(tmp_path / "other"), Images([png(i) for i in range(4)])
    assert other.tower_hash == encoders[0].tower_hash
    one, two = extract([encoders[0], other], images, sites, store=store).features
    assert not np.allclose(one.sites["projected"], two.sites["projected"], atol=1e-4)


def test_bad_images_are_left_out_named_and_remembered(encoders, store):
    files = [png(i) for i in range(9)]
    files[1], files[3], files[8] = files[1][:200], b"no image", b"gone"
    for _ in range(2):  # the second time from the store
        extraction = extract(encoders, Images(files), sites, store=store)
        assert [item.id for item in extraction.bad] == ["001", "003", "008"]
        assert "known format" in extraction.bad[1].reason
        assert "no such file" in extraction.bad[2].reason
        assert {f.item_ids for f in extraction.features} == {("000", "002", "004", "005", "006", "007")}
        assert extraction.features[0].labels.tolist() == [0, 0, 0, 1, 0, 1]
    clean = extract(encoders, Images([files[i] for i in (0, 2, 4, 5, 6, 7)]), sites, store=store)
    for site, values in extraction.features[0].sites.items():
        assert values == pytest.approx(clean.features[0].sites[site], abs=1e-5)  # other batches, float32 rounding


def test_no_usable_image_is_an_error_that_names_the_first_reason(encoders, store):
    with pytest.raises(DataError, match=r"none of the 5 images .*known format"):
        extract(encoders, Images([b"junk"] * 5), sites, store=store)


def test_unknown_sites_are_refused_before_any_work(encoders, store):
    images = Images([png(0)])
    with pytest.raises(CheckpointError, match="has no site block_99"):
        extract(encoders, images, lambda encoder: ["block_99"], store=store)
    assert images.reads == []


def test_a_damaged_chunk_is_computed_again(encoders, store):
    images = Images([png(i) for i in range(4)])
    first = extract(encoders[:1], images, sites, store=store)
    (chunk,) = store.folder.rglob("*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-50])
    again = extract(encoders[:1], images, sites, store=store)
    assert again.forwarded == 4
    assert np.array_equal(first.features[0].sites["projected"], again.features[0].sites["projected"])


@pytest.mark.parametrize("place", range(20))
def test_a_flipped_bit_anywhere_in_the_store_changes_no_number(encoders, store, caplog, place):
    """In the length of the header, in the header, in each array: made again and said, or without effect."""
    images = Images([png(0), b"damaged", png(2)])
    first = extract(encoders[:1], images, sites, store=store)
    (chunk,) = store.folder.rglob("*.safetensors")
    data = bytearray(chunk.read_bytes())
    data[place if place < 2 else place * (len(data) - 1) // 19] ^= 1 << place % 8
    chunk.write_bytes(data)
    again = extract(encoders[:1], images, sites, store=FeatureStore(store.folder))
    assert again.bad == first.bad
    for site, features in first.features[0].sites.items():
        assert np.array_equal(features, again.features[0].sites[site])
    assert not again.forwarded or "is damaged: what it held is computed again" in caplog.text
    assert extract(encoders[:1], images, sites, store=FeatureStore(store.folder)).forwarded == 0


def test_damage_in_one_array_costs_no_other_array(encoders, store):
    images = Images([png(i) for i in range(3)])
    extract(encoders[:1], images, lambda encoder: ["block_01", "block_02"], store=store)
    (chunk,) = store.folder.rglob("*.safetensors")
    data = bytearray(chunk.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    data[8 + length + header["block_02"]["data_offsets"][0]] ^= 1
    chunk.write_bytes(data)
    store = FeatureStore(store.folder)
    assert extract(encoders[:1], images, lambda encoder: ["block_01"], store=store).forwarded == 0
    assert extract(encoders[:1], images, lambda encoder: ["block_01", "block_02"], store=store).forwarded == 3
    assert extract(encoders[:1], images, lambda encoder: ["block_01", "block_02"], store=store).forwarded == 0


def test_each_array_is_hashed_once(encoders, store, monkeypatch):
    images = Images([png(i) for i in range(3)])
    extract(encoders[:1], images, sites, store=store)
    hashed = []
    array_hash = store_module.array_hash
    monkeypatch.setattr(store_module, "array_hash", lambda array: hashed.append(array.nbytes) or array_hash(array))
    again = FeatureStore(store.folder)
    for _ in range(3):
        extract(encoders[:1], images, sites, store=again)
    arrays = sum(
        features.nbytes for features in extract(encoders[:1], images, sites, store=again).features[0].sites.values()
    )
    assert arrays <= sum(hashed) <= arrays + 100  # and what is noted of damaged images


def test_progress_ends_at_the_number_of_images(encoders, store):
    seen = []
    extract(encoders[:1], Images([png(i) for i in range(7)]), sites, store=store, progress=lambda *a: seen.append(a))
    assert seen[-1] == ("made", 7, 7)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_killed_pass_goes_on_and_ends_in_the_same_numbers(encoders, tmp_path, forked):
    """SIGKILL in the middle; the next run forwards only what is missing and gives the same bits."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from visprobe.demo.scenes import DigitScenes
        from visprobe.encoders.load import load_encoder
        from visprobe.features import extract as module
        from visprobe.features.store import FeatureStore
        module.CHUNK = 4
        stop = int(sys.argv[3])
        def progress(what, done, total):
            if done >= stop:
                os.kill(os.getpid(), signal.SIGKILL)
        module.extract([load_encoder(sys.argv[1])], DigitScenes("val", 40), lambda e: ["consumed"],
                       store=FeatureStore(__import__("pathlib").Path(sys.argv[2])), progress=progress)
        """
    )
    from visprobe.demo.scenes import DigitScenes

    checkpoint = encoders[0].provenance.path
    store = tmp_path / "store"
    assert forked(script, checkpoint, store, 20) == -signal.SIGKILL
    resumed = extract(encoders[:1], DigitScenes("val", 40), lambda e: ["consumed"], store=FeatureStore(store))
    assert 16 <= resumed.forwarded <= 24
    whole = extract(encoders[:1], DigitScenes("val", 40), lambda e: ["consumed"], store=FeatureStore(tmp_path / "new"))
    site = encoders[0].consumed
    assert np.array_equal(resumed.features[0].sites[site], whole.features[0].sites[site])


def test_a_file_name_need_not_be_utf_8(encoders, store):
    class Odd(Images):
        items = (Item("caf\udce9.png", 0), Item("b.png", 1))

    extraction = extract(encoders[:1], Odd([png(0), png(1)]), sites, store=store)
    assert extraction.features[0].item_ids[0] == "caf\udce9.png"


def test_features_of_other_library_versions_are_not_taken(encoders, store, monkeypatch):
    images = Images([png(i) for i in range(4)])
    extract(encoders[:1], images, sites, store=store)
    monkeypatch.setattr(module, "_libraries", lambda: "torch 0")
    assert extract(encoders[:1], images, sites, store=store).forwarded == 4


def test_encoders_whose_stored_features_are_of_other_images_are_not_paired(encoders, store, monkeypatch):
    images = Images([png(i) for i in range(4)])
    extract(encoders[:1], images, sites, store=store)
    refused = images.files[1]

    def short_of_memory(data, real=module.decode, **how):
        if data == refused:
            raise module.BadImage("MemoryError")
        return real(data, **how)

    monkeypatch.setattr(module, "decode", short_of_memory)
    with pytest.raises(DataError, match="decoded for one of"):
        extract(encoders, images, sites, store=store)
