"""The endpoint backend against a real `transformers serve` process, and against a server that misbehaves."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from lotlip.captioning.backends import open_captioner
from lotlip.captioning.captioner import Captioner
from lotlip.captioning.endpoint_backend import _data_url
from lotlip.captioning.shards import caption_shards
from lotlip.errors import CeilingError, ModelError, ParamsError
from lotlip.params import EndpointCaptioner
from tests.captioning.chat_server import ChatServer, answer, running_chat_server
from tests.captioning.samples import MAX_PIXELS, captioner_params, encode_png, make_pictures, write_images
from tests.captioning.test_transformers_backend import CHAT_TEMPLATE
from tests.captioning.tiny import build_tiny_llava

PICTURES = make_pictures(5)
ENDS = [_data_url(image)[-40:] for image in PICTURES]


def settings(url: str, **changes: Any) -> EndpointCaptioner:
    values: dict[str, Any] = {"kind": "endpoint", "url": url, "model": "m", "revision": "r", "retry_temperature": None}
    return EndpointCaptioner(**{**values, "timeout_s": 1.0, "num_retries": 2, **changes})


def opened(server: ChatServer, **changes: Any) -> Captioner:
    return open_captioner(settings(server.url, **changes))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`transformers serve` with a tiny LLaVA: its address and the checkpoint."""
    folder = build_tiny_llava(tmp_path_factory.mktemp("llava"), chat_template=CHAT_TEMPLATE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        deadline = time.monotonic() + 240
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
        yield url, folder
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.server
def test_a_real_server_writes_what_the_model_writes_here(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    remote = open_captioner(settings(url, model=str(folder), max_new_tokens=12, timeout_s=60.0))
    here = open_captioner(captioner_params(folder, template=None))
    expected = here.caption(PICTURES)
    assert len({caption.text for caption in expected}) > 2
    told = [(caption.text, caption.finish_reason, caption.failure) for caption in remote.caption(PICTURES)]
    assert told == [(caption.text, caption.finish_reason, caption.failure) for caption in expected]

    images = write_images(tmp_path / "a", "a", [[encode_png(image) for image in PICTURES]])
    report = caption_shards(
        [images], tmp_path / "out", lambda: remote, batch_size=3, max_pixels=MAX_PIXELS, work=tmp_path / "work"
    )
    rows = pq.read_table(tmp_path / "out/a-00000.parquet").to_pylist()
    assert [row["text"] for row in rows] == [caption.text for caption in expected]
    assert report["captioned"] + report["failed"] == report["requested"] == 5


@pytest.mark.server
def test_a_model_that_the_real_server_has_not_is_a_failure(served: tuple[str, Path]) -> None:
    captioner = open_captioner(settings(served[0], model="no/such-model", timeout_s=60.0, num_retries=0))
    failure = captioner.caption(PICTURES[:1])[0].failure
    assert failure is not None
    assert failure.startswith("HTTP ")


def test_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TEST", "secret")
    with running_chat_server() as server:
        captioner = opened(server, api_key_env="KEY_OF_TEST", short_prompt="Name it", short_max_new_tokens=7)
        assert captioner.kinds == ("long", "short")
        assert captioner.caption(PICTURES[:1])[0].text.startswith("a picture")
        captioner.caption(PICTURES[:1], "short")
        captioner.caption(PICTURES[:1])
        captioner.caption(PICTURES[:1], attempt=1)
    long, short, again, second = server.asked
    assert long["messages"][0]["content"][1] == {"type": "text", "text": "Describe the image in detail"}
    assert short["messages"][0]["content"][1]["text"] == "Name it"
    assert (long["max_tokens"], short["max_tokens"], long["temperature"]) == (256, 7, 0.0)
    assert long == again
    assert long["seed"] != second["seed"]
    assert server.keys[0] == server.keys[2]
    assert len(set(server.keys)) == 3


def test_passing_faults_are_tried_again_and_lasting_ones_recorded_alone() -> None:
    faults: dict[str, list[Any]] = {
        ENDS[0]: [429, 500, answer("a dog")],
        ENDS[1]: [b"<html>not json", b"<html>not json", b"<html>not json"],
        ENDS[2]: [400],
        ENDS[3]: [503, 503, 503],
    }
    with running_chat_server(faults) as server:
        captions = opened(server).caption(PICTURES)
    assert [caption.text for caption in captions] == ["a dog", "", "", "", captions[4].text]
    classes = [caption.failure and caption.failure.split(":")[0] for caption in captions]
    assert classes == [None, "senseless answer", "HTTP 400", "HTTP 503", None]
    assert len(server.asked) == 3 + 1 + 1 + 3 + 1


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        (answer(None), "empty generation"),
        (answer("  \n"), "empty generation"),
        (answer("x", "content_filter"), "finish reason: 'content_filter'"),
        ({"id": "x", "choices": []}, "senseless answer: no message"),
        ({"detail": "?"}, "senseless answer: no message"),
        (b'"just a string"', "senseless answer: no message"),
    ],
)
def test_senseless_answers_are_failures(fault: Any, failure: str) -> None:
    with running_chat_server({ENDS[0]: [fault]}) as server:
        assert opened(server).caption(PICTURES[:1])[0].failure == failure


def test_halves_of_characters_are_replaced() -> None:
    with running_chat_server({ENDS[0]: [answer("a dog \ud83d")]}) as server:
        assert opened(server).caption(PICTURES[:1])[0].text == "a dog ?"


def test_failures_that_pass_are_tried_again_by_the_next_run(tmp_path: Path) -> None:
    images = write_images(tmp_path / "a", "a", [[encode_png(image) for image in PICTURES[:3]], [b"no image"]])

    def work(server: ChatServer, **changes: Any) -> dict[str, Any]:
        captioner = opened(server, num_retries=0, **changes)
        return caption_shards(
            [images], tmp_path / "out", lambda: captioner, batch_size=2, max_pixels=MAX_PIXELS, work=tmp_path / "work",
            max_failed_share=0.5,
        )  # fmt: skip

    with running_chat_server({ENDS[0]: [503], ENDS[1]: [400]}) as server:
        with pytest.raises(CeilingError, match=r"3 of 4 images .*HTTP 400 \(1\), HTTP 503 \(1\), not an image \(1\)"):
            work(server)
        assert len(server.asked) == 3
    assert not (tmp_path / "out").exists()
    with running_chat_server() as server:
        report = work(server)
        assert len(server.asked) == 2
    assert (report["captioned"], report["failed"], report["failures"]) == (3, 1, {"not an image": 1})
    with running_chat_server() as server:
        assert work(server) == report
        assert server.asked == []


def test_a_batch_that_starts_with_a_failed_image_costs_no_finished_caption(tmp_path: Path) -> None:
    """Killed after a batch; the image that failed in it begins the next run's first batch, which is killed, too."""
    images = write_images(tmp_path / "a", "a", [[encode_png(image) for image in PICTURES]])

    def work(server: ChatServer, batches: int) -> None:
        captioner = opened(server, num_retries=0)
        caption, calls = captioner.caption, []

        def mortal(*args: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) > batches:
                raise KeyboardInterrupt
            return caption(*args, **named)

        captioner.caption = mortal  # type: ignore[method-assign]
        caption_shards(
            [images], tmp_path / "out", lambda: captioner, batch_size=2, max_pixels=MAX_PIXELS, work=tmp_path / "work"
        )

    with running_chat_server({ENDS[0]: [503]}) as server:
        for asked in (2, 4):  # images 0 (fails) and 1; then 0 and 2 in one batch
            with pytest.raises(KeyboardInterrupt):
                work(server, 1)
            assert len(server.asked) == asked
        work(server, 9)
        assert len(server.asked) == 6


def test_an_answer_without_usage_has_no_number_of_tokens() -> None:
    with running_chat_server({ENDS[0]: [answer("a dog on a", "length", None)]}) as server:
        caption = opened(server).caption(PICTURES[:1])[0]
    assert (caption.text, caption.num_tokens, caption.finish_reason) == ("a dog on a", None, "length")


def test_a_hanging_request_costs_its_image_alone() -> None:
    with running_chat_server({ENDS[1]: ["hang"]}) as server:
        captions = opened(server, num_retries=0).caption(PICTURES[:3])
    assert [caption.failure for caption in captions] == [None, "no answer: within 1 s", None]


def test_no_more_requests_at_once_than_allowed() -> None:
    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(12)]
    with running_chat_server(pause_s=0.1) as server:
        opened(server, concurrency=3).caption(images)
    assert server.most_open == 3


def test_a_server_that_is_away_stops_the_run_and_keeps_what_is_done(tmp_path: Path) -> None:
    images = write_images(tmp_path / "a", "a", [[encode_png(image) for image in PICTURES]])

    def work(captioner: Captioner) -> dict[str, Any]:
        return caption_shards(
            [images], tmp_path / "out", lambda: captioner, batch_size=2, max_pixels=MAX_PIXELS, work=tmp_path / "work"
        )

    with running_chat_server() as server:
        captioner = opened(server, num_retries=0)
        caption, calls = captioner.caption, []

        def caption_then_close(*args: Any, **named: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                server.close()
            return caption(*args, **named)

        captioner.caption = caption_then_close  # type: ignore[method-assign]
        with pytest.raises(ModelError, match="see that the server runs"):
            work(captioner)
    assert not (tmp_path / "out").exists()
    with running_chat_server() as server:
        assert work(opened(server, num_retries=0))["captioned"] == 5
    assert len(server.asked) == 3


def test_a_refused_key_and_an_unknown_model_stop_the_run() -> None:
    for status in (401, 403, 404):
        with running_chat_server({ENDS[0]: [status]}) as server, pytest.raises(ModelError, match="refuses model 'm'"):
            opened(server).caption(PICTURES[:1])


def test_settings_are_checked_and_the_address_is_not_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEY_OF_TEST", raising=False)
    with pytest.raises(ParamsError, match="KEY_OF_TEST is not set"):
        open_captioner(settings("http://x/v1", api_key_env="KEY_OF_TEST"))
    with pytest.raises(ParamsError, match="holds <image>"):
        open_captioner(settings("http://x/v1", prompt="<image> what?"))
    one = open_captioner(settings("http://x/v1")).identity
    assert one == open_captioner(settings("http://y/v1", concurrency=1)).identity
    assert one != open_captioner(settings("http://x/v1", revision="other")).identity
    drawn = [open_captioner(settings("http://x/v1", retry_temperature=0.7, top_p=p)).identity for p in (0.5, 1.0)]
    assert drawn[0] != drawn[1]
