"""A plan from real batches, and its arithmetic by hand."""

from pathlib import Path

import pytest

from lotlip.captioning.costs import Costs
from lotlip.data.manifest import File, Manifest, Shard
from lotlip.errors import DataError
from lotlip.plan.recaption import LABELS, Measured, make_plan, measure_captioner
from tests.captioning.chat_server import running_chat_server
from tests.captioning.samples import MAX_PIXELS, captioner_params, encode_png, make_pictures, write_images
from tests.captioning.test_endpoint import settings
from tests.captioning.tiny import build_tiny_llava

ENCODED = [encode_png(image) for image in make_pictures(9)]


def test_a_few_batches_are_measured(tmp_path: Path) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:3], ENCODED])
    params = captioner_params(build_tiny_llava(tmp_path / "llava"), batch_size=2)
    measured = measure_captioner(params, images, 3, MAX_PIXELS)
    assert (measured.images, measured.batch_size, measured.device) == (6, 2, "cpu")
    assert measured.images_per_s == measured.images / measured.seconds > 0
    assert measured.tokens is not None
    assert 0 <= measured.tokens <= 12
    assert measured.costs is not None
    assert measured.caption_bytes > 50
    with pytest.raises(DataError, match="largest shard has 9 images, no more than one batch of 9"):
        measure_captioner(params.model_copy(update={"batch_size": 9}), images, 1, MAX_PIXELS)
    with pytest.raises(DataError, match="largest shard has 0 images"):
        measure_captioner(params, Manifest(tmp_path, "images", ()), 1, MAX_PIXELS)


def test_an_endpoint_is_measured_without_arithmetic(tmp_path: Path) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED])
    with running_chat_server(pause_s=0.02) as server:
        measured = measure_captioner(settings(server.url, batch_size=3, concurrency=3), images, 2, MAX_PIXELS)
    assert (measured.images, measured.tokens, measured.device, measured.costs) == (6, 3.0, "endpoint", None)
    assert measured.images_per_s < 3 / 0.02
    assert "gflops" not in make_plan(measured, images, 100, 1, 0.0, 10)


def test_the_plan_by_hand() -> None:
    file = File("a.tar", 5_000_000, "x")
    images = Manifest(Path("a"), "images", (Shard("a", 50, {"tar": file}),))
    costs = Costs(vision_flops=1e9, prefill_flops=2e9, decode_flops=3e9, weight_bytes=10**9, cache_bytes=10**7)
    measured = Measured(20, 4.0, 100.0, 200.0, 10, "cuda:0", costs)  # 5 images/s
    plan = make_plan(measured, images, 3_600_000, 4, 2.0, 10_000)
    assert plan["images_per_s"] == 5.0
    assert (plan["hours"], plan["worker_hours"], plan["gpu_hours"]) == (50.0, 200.0, 400.0)
    assert plan["shards"] == 360
    assert plan["image_gb"] == pytest.approx(360.0)  # 100 kB an image
    assert plan["caption_gb"] == pytest.approx(0.72)
    assert (plan["gflops"], plan["achieved_gflop_per_s"]) == (6.0, 30.0)
    assert plan["step_mb"] == 1100.0
    assert plan["achieved_gb_per_s"] == pytest.approx(55.0)  # 0.5 batches/s x 100 steps x 1.1 GB
    assert set(LABELS) == set(plan) - {"images", "workers"}
    assert make_plan(measured, images, 3_600_000, 4, 0.5, 10_000)["gpu_hours"] == 100.0
    on_cpu = Measured(20, 4.0, 100.0, 200.0, 10, "cpu", None)
    assert make_plan(on_cpu, images, 3_600_000, 4, 0.0, 10_000)["gpu_hours"] == 0.0
