"""Plans of training by hand, on this machine's data and on the overlays of real runs."""

import shutil
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig, CLIPTextConfig, CLIPVisionConfig, SiglipVisionConfig, ViTConfig

from lotlip.errors import ParamsError
from lotlip.model.config import LotlipConfig
from lotlip.model.image_tower import build_image_tower, image_features
from lotlip.model.modeling import LotlipModel
from lotlip.overlays import apply_overlays
from lotlip.params import Params, load_params
from lotlip.plan.lengths import count_pairs, find_lengths
from lotlip.plan.memory import RESERVE, kept_bytes, train_memory
from lotlip.plan.train import LABELS, Request, plan_training
from lotlip.text.tokenizer import LotlipTokenizer
from lotlip.training.check import check_method
from tests.data.datasets import write_captions, write_images
from tests.model.tiny_parts import PLAIN_VOCAB, make_ids

TOP = Path(__file__).parents[2]
CC3M_16 = ("cc3m", "vit_b16")
RUNS = [CC3M_16, ("cc3m", "vit_b32", "clip_b32"), ("cc3m", "100m", "vit_b16"), ("cc3m", "100m", "vit_b32", "clip_b32")]
POSTER = ["clip", "siglip", "filip", "laclip", "longclip", "lit", "lit_long", "lotlip"]


def real_params(folder: Path, overlays: tuple[str, ...], *settings: str) -> Params:
    target = Path(shutil.copy(TOP / "params.yaml", folder / "params.yaml"))
    apply_overlays([TOP / f"conf/{name}.yaml" for name in overlays], settings, target)
    return load_params(target)


@pytest.mark.parametrize("overlays", RUNS, ids="+".join)
def test_the_overlays_of_real_runs_are_consistent(overlays: tuple[str, ...], tmp_path: Path) -> None:
    params = real_params(tmp_path, overlays)
    assert set(params.methods) == set(POSTER)
    found = plan_training(params, POSTER, Request("H100", None, 0.4), tmp_path)
    assert {name: plan["fits"] for name, plan in found.methods.items()} == dict.fromkeys(POSTER, "yes")
    patch = 32 if "vit_b32" in overlays else 16
    for name in POSTER:
        model = check_method(name, params.train_settings(name), params.methods[name], None).model
        assert model is not None
        assert model.config.vision_config.patch_size == patch
    pairs = 102_571_723 if "100m" in overlays else 3_018_175
    assert f"pairs: {int(pairs - 0.002 * 3_018_175):,} (published counts)" in found.remarks[0]


@pytest.mark.parametrize("overlay", ["sample_all", "quick", "image_folder", "url_table", "hf_dataset", *CC3M_16[1:]])
def test_the_other_overlays_with_settings_of_training_are_consistent(overlay: str, tmp_path: Path) -> None:
    params = real_params(tmp_path, (overlay,))
    for name, method in params.methods.items():
        assert check_method(name, params.train_settings(name), method, 10_000).problems == ()


def test_a_plan_by_hand(tmp_path: Path) -> None:
    """LoTLIP on BERT-base, K = 3, m = 2: rows 12 + 2 of a raw caption, 66 + 4 of a run, half the peak of an H100."""
    params = real_params(tmp_path, CC3M_16, "train.epochs=2", "train.cached_crops=1")
    request = Request("NVIDIA H100 80GB HBM3", 8, 0.5, pairs=3_000_000, raw_tokens=12, long_tokens=66)
    plan = plan_training(params, ["lotlip"], request, tmp_path).methods["lotlip"]
    width, inner, head = 768, 3072, 2 * (768 * 768 + 768 * 768)

    def layers(rows: int, seen: int, read: int) -> int:
        full = rows * (8 * width**2 + 4 * width * inner) + 4 * width * rows * seen
        last = 4 * width**2 * rows + read * (4 * width**2 + 4 * width * inner + 4 * width * seen)
        return 11 * full + last + read * head

    short, long = 3 * layers(14, 14, 1), 3 * 3 * layers(70, 68, 3)
    loss = 3 * 2 * 2048 * 10 * width
    assert plan["short_gflops"] == pytest.approx(short / 1e9, rel=1e-12)
    assert plan["long_gflops"] == pytest.approx(long / 1e9, rel=1e-12)
    assert plan["loss_gflops"] == pytest.approx(loss / 1e9, rel=1e-12)
    assert (plan["image_forward_gflops"], plan["image_backward_gflops"], plan["again_gflops"]) == (0, 0, 0)
    assert (plan["short_ids"], plan["long_ids"], plan["pair_ids"]) == (16, 70, 226)
    speed = 0.5 * 989.5e12 / (short + long + loss)
    assert plan["pairs_per_s"] == pytest.approx(speed)
    assert plan["all_pairs_per_s"] == pytest.approx(8 * speed)
    assert (plan["steps_per_epoch"], plan["steps"], plan["warmup_steps"]) == (1464, 2928, 1000)
    assert plan["hours"] == pytest.approx(2928 * 2048 / (8 * speed) / 3600)
    assert plan["feature_hours"] == pytest.approx(3_000_000 / (250 * 8 * 12) / 3600), "decoding is the limit"
    fed = real_params(tmp_path, CC3M_16, "train.epochs=2", "train.cached_crops=1", "train.num_workers=1000")
    of_gpus = plan_training(fed, ["lotlip"], request, tmp_path).methods["lotlip"]["feature_hours"]
    assert of_gpus == pytest.approx(3_000_000 * 35.1e9 / (4 * 989.5e12) / 3600, rel=0.01)
    assert plan["cores"] == pytest.approx(8 * speed * 226 / 300_000)
    assert plan["gpu_hours"] == pytest.approx(8 * (plan["hours"] + plan["feature_hours"]))
    trained = 109_482_240 + 2 * 768 + 768**2 + 1
    assert (plan["trained_m"], plan["locked_m"]) == (trained / 1e6, 85.798656)
    assert plan["weights_gb"] == pytest.approx((4 * (trained + 85_798_656) + 2 * trained) / 1e9)
    assert plan["gradients_gb"] == pytest.approx(4 * trained / 1e9)
    assert plan["optimizer_gb"] == pytest.approx(8 * trained / 1e9)
    assert plan["activations_gb"] == pytest.approx(256 * (14 + 3 * 70) * 13 * (28 * 768 + 4 * 3072) / 1e9)
    assert plan["embeddings_gb"] == pytest.approx(2 * 4 * 2048 * 11 * 768 / 1e9)
    assert plan["features_disk_gb"] == pytest.approx(3_000_000 * 768 * 2 / 1e9)
    assert plan["checkpoints_disk_gb"] == pytest.approx(3 * 12 * trained / 1e9)
    assert set(LABELS) == set(plan)


def test_memory_is_saved_by_time(tmp_path: Path) -> None:
    """Parts embedded twice and checkpointed layers cost a forward pass each; fsdp shares out what is trained."""
    request = Request("H100", None, 0.4, 3_000_000)
    overlays = CC3M_16
    whole = plan_training(real_params(tmp_path, overlays), ["clip"], request, tmp_path).methods["clip"]
    forward = whole["image_forward_gflops"] + whole["short_gflops"] / 3
    parts = real_params(tmp_path, overlays, "train.compute.micro_batch_size=64")
    plan = plan_training(parts, ["clip"], request, tmp_path).methods["clip"]
    assert plan["again_gflops"] == pytest.approx(forward)
    assert plan["activations_gb"] == pytest.approx(whole["activations_gb"] / 4)
    assert plan["pairs_per_s"] * (whole["gflops"] + forward) == pytest.approx(whole["pairs_per_s"] * whole["gflops"])
    less = real_params(tmp_path, overlays, "train.compute.gradient_checkpointing=true")
    plan = plan_training(less, ["clip"], request, tmp_path).methods["clip"]
    assert plan["again_gflops"] == pytest.approx(forward)
    assert plan["activations_gb"] < whole["activations_gb"] / 3
    shared = real_params(tmp_path, overlays, "train.compute.sharding=fsdp")
    plan = plan_training(shared, ["clip"], request, tmp_path).methods["clip"]
    assert plan["optimizer_gb"] == pytest.approx(whole["optimizer_gb"] / 8)
    assert plan["gradients_gb"] == pytest.approx(whole["gradients_gb"] / 8)
    assert plan["weights_gb"] < whole["weights_gb"]


def test_what_to_lower_where_it_does_not_fit(tmp_path: Path) -> None:
    params = real_params(tmp_path, CC3M_16)
    found = plan_training(params, ["longclip"], Request("L4", 8, 0.4, 10**6), tmp_path)
    assert found.methods["longclip"]["fits"] == "no"
    (advice,) = (line for line in found.remarks if "does not fit" in line)
    assert advice.startswith("longclip: does not fit into 24 GB; train.compute micro_batch_size: 64 takes ")
    smaller = real_params(tmp_path, CC3M_16, "train.compute.micro_batch_size=64")
    plan = plan_training(smaller, ["longclip"], Request("L4", 8, 0.4, 10**6), tmp_path).methods["longclip"]
    assert plan["fits"] == "yes"


def test_errors_are_all_told(tmp_path: Path) -> None:
    params = real_params(tmp_path, CC3M_16, "train.batch_size=2000", "train.embed_dim=512")
    with pytest.raises(ParamsError) as error:
        plan_training(params, ["lit", "clip"], Request("H100", 7, 0.4, 10**6), tmp_path)
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["methods.lit", "methods.lit", "methods.clip"]
    with pytest.raises(ParamsError, match="GPU 'TPU' is not known; known are B200, H200"):
        plan_training(params, ["lit"], Request("TPU", 8, 0.4, 10**6), tmp_path)
    sample = load_params(TOP / "params.yaml")
    with pytest.raises(ParamsError, match="Give --pairs"):
        plan_training(sample, ["lit"], Request("H100", 8, 0.4), tmp_path)


def test_published_lengths(tmp_path: Path) -> None:
    """CC3M's raw captions have 11.29 tokens; a run is 3 of 6.16 sub-captions of 136.14 tokens."""
    params = real_params(tmp_path, CC3M_16)
    found = find_lengths(params, "lotlip", tmp_path)
    assert (found.short.tolist(), found.long.tolist()) == ([11 + 4], [66 + 4] * 3)
    assert find_lengths(params, "longclip", tmp_path).short.tolist() == [22 + 2]
    assert find_lengths(params, "longclip", tmp_path).long.tolist() == [136 + 2]
    assert find_lengths(params, "laclip", tmp_path).short.tolist() == [17 + 2]  # half raw, half a sentence of 22.1
    hundred = real_params(tmp_path, ("cc3m", "100m", "vit_b16"))
    assert find_lengths(hundred, "lit", tmp_path).short.tolist() == [17 + 2]  # 17.37, weighted by images
    assert "published" in found.origin


def test_lengths_and_pairs_of_data_that_are_here(tmp_path: Path) -> None:
    """Five images with a raw caption `a K` and a long text `a long K`: the first shard has three of them."""
    images = write_images(tmp_path / "data/images/s")
    write_captions(tmp_path / "data/captions/llava", images)
    values = load_params(TOP / "params.yaml")
    source = values.sources["scenes"].model_copy(update={"held_out_share": 0.4})
    captioners = {"llava": values.captioners["llava"]}
    params = values.model_copy(update={"sources": {"s": source}, "captioners": captioners})
    found = find_lengths(params, "lotlip", tmp_path / "data")
    settings = params.train_settings("lotlip")
    tokenizer = LotlipTokenizer.load(settings.tokenizer, num_corner_tokens=2, token_limit=128)
    for lengths, texts in ((found.short, "a {}"), (found.long, "a long {}")):
        assert lengths.tolist() == [len(ids) for ids in tokenizer.encode([texts.format(key) for key in "abc"]).ids]
    assert found.origin == "3 samples of data/"
    assert count_pairs(params, tmp_path / "data") == (3, "data/images")
    given = plan_training(params, ["lotlip"], Request("H100", 1, 0.4, 2000, long_tokens=50), tmp_path / "data")
    assert given.methods["lotlip"]["long_ids"] == 50 + 4
    assert given.methods["lotlip"]["short_ids"] == pytest.approx(found.short.mean(), abs=0.5)


SHAPE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
TEXT = {**SHAPE, "vocab_size": PLAIN_VOCAB, "max_position_embeddings": 64, "pad_token_id": 0}
IMAGE = {**SHAPE, "image_size": 32, "patch_size": 4}


def saved_bytes(function, module: torch.nn.Module, bf16: bool) -> int:
    """What autograd saves of activations; weights and their 16-bit copies are left out."""
    sizes = {p.numel() for p in module.parameters()}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() not in sizes:
            kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        function()
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", [BertConfig, CLIPTextConfig, ViTConfig, CLIPVisionConfig, SiglipVisionConfig])
def test_activations_are_about_what_autograd_saves(kind, bf16: bool) -> None:
    """Of one layer: the difference between towers of 5 and 2 layers; within 15%."""
    is_text, saved = kind in (BertConfig, CLIPTextConfig), []
    for layers in (2, 5):
        if is_text:
            config = kind(**TEXT, num_hidden_layers=layers)
            config.attention_probs_dropout_prob = 0.0
            vision = ViTConfig(**IMAGE, num_hidden_layers=1)
            model = LotlipModel(
                LotlipConfig(
                    text_config=config, vision_config=vision, embed_dim=64, num_corner_tokens=0, token_limit=64
                )
            ).train()
            ids = make_ids([40] * 16, 0)
            saved.append(saved_bytes(lambda m=model, i=ids: m.text_tower.encode_classes(i), model.text_tower, bf16))
            rows = 16 * 42
        else:
            config = kind(**IMAGE, num_hidden_layers=layers)
            tower = build_image_tower(config).train()
            pixels = torch.randn(8, 3, 32, 32)
            saved.append(saved_bytes(lambda t=tower, p=pixels: image_features(t, p), tower, bf16))
            rows = 8 * (64 + (kind is not SiglipVisionConfig))
    found = (saved[1] - saved[0]) / 3 / rows
    assert kept_bytes(config, "bfloat16" if bf16 else "float32") == pytest.approx(found, rel=0.15)


def test_all_parts_of_memory_add_up(tmp_path: Path) -> None:
    params = real_params(tmp_path, CC3M_16)
    settings, method = params.train_settings("lit"), params.methods["lit"]
    model = check_method("lit", settings, method, None).model
    assert model is not None
    memory = train_memory(model, settings, method, 13, 0, cached=True)
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.embeddings, memory.logits)
    assert memory.total == sum(parts) + RESERVE
