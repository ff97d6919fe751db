"""A loopback server of images and of faults, as a process of its own: prints its port, then serves until it is killed.

The path `/<run>/<fault>/<number>` says what it does; `later` fails with 500 the first time in each run.
"""

import asyncio
import io
import sys

import numpy as np
from aiohttp import web
from PIL import Image

NUM_IMAGES = 200
FAULTS = {"missing": 0.04, "later": 0.04, "page": 0.02, "cut": 0.01, "slow": 0.02, "hang": 0.004}  # share of the rows
NUM_GOOD_OF = ("ok", "later", "slow")


def picture(number: int) -> bytes:
    """A JPEG of 640 x 480 with shapes and grain, about 80 KB."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    shapes = coarse.resize((640, 480), Image.Resampling.BICUBIC)
    grain = np.asarray(shapes, dtype=np.int16) + rng.normal(0, 8, (480, 640, 1)).astype(np.int16)
    buffer = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


class Server:
    """The images, and which of the `later` paths were asked for before."""

    def __init__(self) -> None:
        self.pictures = [picture(number) for number in range(NUM_IMAGES)]
        self.seen: set[str] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        fault, number = request.match_info["fault"], int(request.match_info["number"])
        body = self.pictures[number % NUM_IMAGES]
        match fault:
            case "missing":
                return web.Response(status=404)
            case "page":
                return web.Response(text="<html>gone</html>", content_type="text/html")
            case "later" if request.path not in self.seen:
                self.seen.add(request.path)
                return web.Response(status=500)
            case "slow":
                await asyncio.sleep(0.3)
            case "hang":
                await asyncio.sleep(60)
            case "cut":
                response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "image/jpeg"})
                await response.prepare(request)
                await response.write(body[:5000])
                assert request.transport is not None
                request.transport.close()
                return response
        return web.Response(body=body, content_type="image/jpeg")


async def serve() -> None:
    app = web.Application()
    app.router.add_get("/{run}/{fault}/{number}", Server().answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
