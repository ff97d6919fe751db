"""A chat server on loopback that answers as a list of faults says, one entry a request, and then rightly."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ChatServer:
    """Its requests (`asked`, parsed), the most that were open at once, and where it listens."""

    def __init__(self, faults: dict[str, list[Any]], pause_s: float) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.open = self.most_open = 0
        self.faults, self.pause_s = faults, pause_s
        self.lock = threading.Lock()
        self.closed = False
        server = self

        class Handler(_Handler):
            owner = server

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closed = True  # connections that are open still
        self.http.shutdown()
        self.http.server_close()


@contextmanager
def running_chat_server(faults: dict[str, list[Any]] | None = None, pause_s: float = 0.0) -> Iterator[ChatServer]:
    """A server for the time of the block; `faults` lists, by the end of an image's data URL, what its requests meet.

    An int is an HTTP status (429 with Retry-After), bytes are a whole body, "hang" never answers, a dict is a message.
    """
    server = ChatServer(faults or {}, pause_s)
    try:
        yield server
    finally:
        server.close()


def answer(text: str | None, finish: str = "stop", tokens: int | None = 3) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    usage = {} if tokens is None else {"usage": {"completion_tokens": tokens, "prompt_tokens": 9, "total_tokens": 12}}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], **usage}


class _Handler(BaseHTTPRequestHandler):
    owner: ChatServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send(200, json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode())

    def do_POST(self) -> None:
        owner = self.owner
        if owner.closed:
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        with owner.lock:
            owner.asked.append(body)
            owner.keys.append(self.headers["Idempotency-Key"])
            owner.open += 1
            owner.most_open = max(owner.most_open, owner.open)
            left = next((faults for end, faults in owner.faults.items() if url.endswith(end)), [])
            fault = left.pop(0) if left else answer(f"a picture {len(url)}")
        time.sleep(owner.pause_s)
        with owner.lock:
            owner.open -= 1
        if fault == "hang":
            time.sleep(5)
        elif isinstance(fault, int):
            self.send(fault, b'{"error": {"message": "no"}}')
        else:
            self.send(200, fault if isinstance(fault, bytes) else json.dumps(fault).encode())

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.close_connection = self.close_connection or self.owner.closed

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 429:
            self.send_header("Retry-After", "0.1")
        self.end_headers()
        self.wfile.write(body)
