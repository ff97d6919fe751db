"""Captions from a model behind an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, and others.

Requests of a batch run side by side, at most `concurrency` at once; the client tries again after lost connections,
timeouts, 408, 409, 429 and 5xx, with growing pauses and the server's Retry-After.
"""

import asyncio
import base64
import functools
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lotlip import params as settings
from lotlip.captioning.captioner import EMPTY, Asked, Caption, Kind, failed, is_passing, make_identity
from lotlip.captioning.prompts import check_prompt
from lotlip.captioning.sampling import image_seed
from lotlip.errors import ModelError, ParamsError
from lotlip.records import content_key

if TYPE_CHECKING:
    from PIL.Image import Image


class EndpointCaptioner(Asked):
    """A `Captioner` over `POST {url}/chat/completions`.

    A seed from the image's pixels goes with every request, so that a server that honours seeds repeats its texts. The
    url is not part of the identity: `model` and `revision` say what is served there.

    Raises:
        ParamsError: the environment variable `api_key_env` is not set.
    """

    def __init__(self, params: settings.EndpointCaptioner) -> None:
        super().__init__(params)
        for prompt, _ in self.asked.values():
            check_prompt(prompt, None)
        if params.api_key_env and not os.environ.get(params.api_key_env):
            raise ParamsError(f"api_key_env: {params.api_key_env} is not set: export the server's key in it.")
        self._params = params

    @functools.cached_property
    def identity(self) -> str:
        """Key of the served model, prompts, generation and code; not of the address."""
        names = ["model", "revision", "prompt", "max_new_tokens", "do_sample", "retry_temperature", "seed"]
        names += ["short_prompt", "short_max_new_tokens"] if self._params.short_prompt else []
        names += ["temperature"] if self._params.do_sample else []
        names += ["top_p"] if self._params.do_sample or self.retries else []
        return make_identity({"backend": "endpoint", **{name: getattr(self._params, name) for name in names}})

    def prompt_length(self, size: tuple[int, int]) -> int:
        """0: the server makes its own batches."""
        return 0

    def prepare(self, images: "Sequence[Image]", kind: Kind) -> list[str]:
        """The images as data URLs of PNG, without loss."""
        return [_data_url(image) for image in images]

    def caption(
        self, images: "Sequence[Image]", kind: Kind = "long", attempt: int = 0, prepared: list[str] | None = None
    ) -> list[Caption]:
        """One caption an image; a request that fails for good, or a senseless answer, is the failure of that image.

        Raises:
            ModelError: the server is away, refuses the key, or does not serve the model. Nothing of the batch is kept.
        """
        urls = prepared if prepared is not None else self.prepare(images, kind)
        return self._loop.run(self._caption_all(images, urls, kind, attempt))

    @functools.cached_property
    def _loop(self) -> asyncio.Runner:
        return asyncio.Runner()

    @functools.cached_property
    def _client(self) -> Any:
        from openai import AsyncOpenAI

        key = os.environ[self._params.api_key_env] if self._params.api_key_env else "none"
        return AsyncOpenAI(
            base_url=self._params.url,
            api_key=key,
            timeout=self._params.timeout_s,
            max_retries=self._params.num_retries,
        )

    async def _caption_all(self, images: "Sequence[Image]", urls: list[str], kind: Kind, attempt: int) -> list[Caption]:
        free = asyncio.Semaphore(self._params.concurrency)

        async def one(image: "Image", url: str) -> Caption:
            async with free:
                return await self._ask(image, url, kind, attempt)

        captions = await asyncio.gather(*(one(image, url) for image, url in zip(images, urls, strict=True)))
        if any(is_passing(caption.failure) for caption in captions):
            await self._check_server()  # was it these images, or is the server gone?
        return captions

    async def _ask(self, image: "Image", url: str, kind: Kind, attempt: int) -> Caption:
        import openai

        params = self._params
        prompt, max_tokens = self.asked[kind]
        label = f"{params.seed}/{kind}/{attempt}"
        temperature = params.temperature if params.do_sample else 0.0
        if attempt and params.retry_temperature is not None:
            temperature = params.retry_temperature
        try:
            answer = await self._client.chat.completions.create(
                model=params.model,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": url}},
                            {"type": "text", "text": prompt},
                        ],
                    }
                ],
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=params.top_p,
                seed=image_seed(image, label) & 0x7FFF_FFFF,
                extra_headers={"Idempotency-Key": content_key([self.identity, url, label])},
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise ModelError(f"{params.url} refuses model {params.model!r} ({_say(error)}): {_REMEDY}") from None
        except openai.APIStatusError as error:
            return failed(f"HTTP {error.status_code}: {_say(error)}")
        except openai.APITimeoutError:
            return failed(f"no answer: within {params.timeout_s:g} s")
        except openai.APIConnectionError as error:
            return failed(f"no connection: {_say(error)}")
        except (openai.OpenAIError, ValueError):  # neither JSON nor UTF-8
            return failed("senseless answer: no JSON")
        return _read(answer)

    async def _check_server(self) -> None:
        import openai

        problem = ""
        try:
            await self._client.with_options(max_retries=0).models.list()
        except openai.APIStatusError as error:
            problem = _say(error) if error.status_code in (502, 503, 504) else ""  # a gateway without its server
        except openai.APIConnectionError as error:
            problem = _say(error)
        except (openai.OpenAIError, ValueError):
            pass  # something answers, if not as one should
        if problem:
            raise ModelError(
                f"{self._params.url} failed, and its /models does, too ({problem}): {_REMEDY} "
                "Finished batches are kept; run again to go on."
            )


_REMEDY = "see that the server runs, and captioners.<name>.url, model and api_key_env."


def _read(answer: Any) -> Caption:
    try:
        choice = answer.choices[0]
        text, finish = choice.message.content, choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        return failed("senseless answer: no message")
    if finish not in ("stop", "length"):
        return failed(f"finish reason: {finish!r}")
    if not isinstance(text, str) or not text.strip():
        return failed(EMPTY)
    text = text.encode("utf-8", "replace").decode()  # JSON may hold halves of characters, parquet may not
    num_tokens = getattr(answer.usage, "completion_tokens", None)
    return Caption(text.strip(), num_tokens if isinstance(num_tokens, int) else None, finish)


def _data_url(image: "Image") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _say(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
