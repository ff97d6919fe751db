"""Captions from any image-text-to-text model of `transformers`, in this process.

Opening is cheap: the checkpoint's files are hashed, torch and the weights are loaded with the first image.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lotlip import params as settings
from lotlip.captioning.captioner import EMPTY, Asked, Caption, FinishReason, Kind, failed, make_identity
from lotlip.captioning.checkpoints import Checkpoint, find_checkpoint
from lotlip.captioning.costs import Costs, Lengths, image_costs
from lotlip.captioning.prompts import check_prompt, render_prompt
from lotlip.errors import ModelError

if TYPE_CHECKING:
    from PIL.Image import Image


# What processors raise about an image that they cannot take.
_REFUSALS = (ValueError, OSError, MemoryError, ZeroDivisionError)


def open_transformers(params: settings.TransformersCaptioner) -> "TransformersCaptioner":
    """The captioner that the settings describe, not yet loaded.

    Raises:
        ModelError: the checkpoint's folder is missing or incomplete.
        ParamsError: a hub id without a commit, or a template without a place for the prompt.
    """
    return TransformersCaptioner(params, find_checkpoint(params.checkpoint, params.revision))


@dataclass(frozen=True)
class Loaded:
    """A model in memory with all that a batch needs; prompt and generation settings by kind of caption."""

    model: Any
    processor: Any
    prompts: dict[Kind, str]
    generations: dict[Kind, Any]
    end_ids: frozenset[int]


class TransformersCaptioner(Asked):
    """A `Captioner` over AutoModelForImageTextToText and AutoProcessor.

    In float32 an image's caption does not depend on the other images of its batch, sampling included; in
    bfloat16 and float16 a near-tie between two tokens may fall differently in another batch.
    """

    def __init__(self, params: settings.TransformersCaptioner, checkpoint: Checkpoint) -> None:
        super().__init__(params)
        for prompt, _ in self.asked.values():
            check_prompt(prompt, params.template)
        self._params = params
        self._checkpoint = checkpoint
        self._max_batch: int | None = None  # set when memory ran out

    @functools.cached_property
    def identity(self) -> str:
        """Key of checkpoint, prompt, template, generation, dtype and code; not of device and batch size."""
        names = ["prompt", "template", "dtype", "max_new_tokens", "do_sample", "retry_temperature"]
        names += ["short_prompt", "short_max_new_tokens"] if self._params.short_prompt else []
        names += ["temperature"] if self._params.do_sample else []
        names += ["seed", "top_p"] if self._params.do_sample or self.retries else []
        chosen: dict[str, Any] = {name: getattr(self._params, name) for name in names}
        chosen["checkpoint"] = self._checkpoint.fingerprint
        return make_identity({"backend": "transformers", **chosen})

    def prompt_length(self, size: tuple[int, int]) -> int:
        """Tokens that an image of (width, height) takes, where the processor can tell; else 0 for all."""
        count = getattr(self._loaded.processor, "_get_num_multimodal_tokens", None)
        try:
            return int(count(image_sizes=[size[::-1]])["num_image_tokens"][0]) if count is not None else 0
        except _REFUSALS:
            return 0  # `caption` will say what is wrong with this image

    def prepare(self, images: "Sequence[Image]", kind: Kind) -> Any:
        """The processor's output for a batch; None where it refuses an image (`caption` then finds which)."""
        try:
            return _process(self._loaded, images, kind)
        except _REFUSALS:
            return None

    def caption(
        self, images: "Sequence[Image]", kind: Kind = "long", attempt: int = 0, prepared: Any = None
    ) -> list[Caption]:
        """One caption an RGB image. A batch that exhausts the GPU's memory is halved, for later calls too.

        Attempts after the first are drawn at `retry_temperature`, each with a seed of its own.

        Raises:
            ModelError: the checkpoint cannot be loaded, its template has no image, or one image fills memory.
        """
        import torch

        size = self._max_batch or max(1, len(images))
        captions: list[Caption] = []
        while len(captions) < len(images):
            batch = images[len(captions) : len(captions) + size]
            inputs = prepared if len(batch) == len(images) else None
            try:
                captions += self._caption_batch(batch, kind, attempt, inputs)
                continue
            except torch.cuda.OutOfMemoryError:
                pass  # leave the handler first: the traceback keeps the batch's tensors alive
            prepared = inputs = None
            size = self._max_batch = _halve(len(batch))
            torch.cuda.empty_cache()
            print(f"GPU memory is full with {len(batch)} images: going on with {size}", flush=True)
        return captions

    @property
    def device(self) -> str:
        """Where the model is."""
        return str(self._loaded.model.device)

    def costs(self, image: "Image", num_new_tokens: float) -> Costs | None:
        """What such an image and a long text of so many tokens cost; None for a tower without a fixed image size."""
        inputs = _process(self._loaded, [image], "long")
        vision, pixels = self._loaded.model.config.vision_config, inputs["pixel_values"]
        if not hasattr(vision, "image_size"):
            return None
        patches = (vision.image_size // vision.patch_size) ** 2 + 1
        tiles = pixels.numel() // (3 * vision.image_size**2)
        return image_costs(self._loaded.model, Lengths(patches, tiles, inputs["input_ids"].shape[1], num_new_tokens))

    @functools.cached_property
    def _loaded(self) -> Loaded:
        return _load(self._params, self._checkpoint, self.asked)

    def _caption_batch(self, images: "Sequence[Image]", kind: Kind, attempt: int, inputs: Any) -> list[Caption]:
        try:
            inputs = _process(self._loaded, images, kind) if inputs is None else inputs
        except _REFUSALS as error:
            if len(images) > 1:  # find the image it is about
                return [caption for image in images for caption in self._caption_batch([image], kind, attempt, None)]
            if isinstance(error, MemoryError):
                return [failed("out of memory: in the processor")]
            return [failed(f"processor: {error or type(error).__name__}")]
        rows = _generate(self._loaded, inputs, kind, self._samplers(images, kind, attempt))
        return [self._read(row) for row in rows]

    def _samplers(self, images: "Sequence[Image]", kind: Kind, attempt: int) -> list[Any]:
        params = self._params
        if not params.do_sample and attempt == 0:
            return []
        from lotlip.captioning.sampling import GumbelSampler, image_seed

        # The first long caption's seed is the captioner's own; every other draw of an image has one beside it.
        label = f"{params.seed}" if kind == "long" and attempt == 0 else f"{params.seed}/{kind}/{attempt}"
        temperature = params.temperature if attempt == 0 else params.retry_temperature or params.temperature
        return [GumbelSampler([image_seed(image, label) for image in images], temperature, params.top_p)]

    def _read(self, row: list[int]) -> Caption:
        """The caption in the generated ids of one image."""
        end = next((i for i, token in enumerate(row) if token in self._loaded.end_ids), None)
        tokens = row[:end]
        finish_reason: FinishReason = "length" if end is None else "stop"
        text = self._loaded.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        text = text.replace(str(getattr(self._loaded.processor, "image_token", "<image>")), "").strip()
        return Caption(text, len(tokens), finish_reason) if text else failed(EMPTY)


def _halve(size: int) -> int:
    if size == 1:
        raise ModelError(
            "GPU memory is full with a single image: set a smaller `dtype` or `max_new_tokens` in "
            "params.yaml, or free the GPU."
        )
    return size // 2


def _load(params: settings.TransformersCaptioner, checkpoint: Checkpoint, asked: dict[Kind, tuple[str, int]]) -> Loaded:
    import transformers

    processor, model = _open_checkpoint(checkpoint, params.dtype)
    model = _to_device(model.eval(), params.device)
    _prepare_padding(processor.tokenizer, model)
    end_ids = _end_ids(processor.tokenizer, model)
    generations: dict[Kind, Any] = {
        kind: transformers.GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,  # sampling is GumbelSampler's, on top of the argmax
            num_beams=1,
            num_return_sequences=1,
            temperature=1.0,
            top_p=1.0,
            eos_token_id=sorted(end_ids) or None,
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        for kind, (_, max_new_tokens) in asked.items()
    }
    prompts: dict[Kind, str] = {
        kind: render_prompt(prompt, params.template, processor) for kind, (prompt, _) in asked.items()
    }
    loaded = Loaded(model, processor, prompts, generations, end_ids)
    for kind in prompts:
        _check_fit(loaded, kind)
    return loaded


def _open_checkpoint(checkpoint: Checkpoint, dtype: str) -> tuple[Any, Any]:
    """Processor and model from the checkpoint's safetensors, every weight of the model found there."""
    import torch
    import transformers
    from safetensors import SafetensorError

    where: dict[str, Any] = {"local_files_only": checkpoint.is_local, "trust_remote_code": False}
    if checkpoint.revision is not None:
        where["revision"] = checkpoint.revision
    transformers.utils.logging.disable_progress_bar()
    try:
        processor = transformers.AutoProcessor.from_pretrained(checkpoint.name, **where)
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(
            checkpoint.name,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(_explain_load(checkpoint, error)) from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{checkpoint.name} has no processor for images and text (found {type(processor).__name__}): "
            "save the full processor there (`processor.save_pretrained(folder)`)."
        )
    # A tower's unused pooler may be absent; any other missing weight would be random.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelError(
            f"{checkpoint.name} lacks {len(missing)} weights of {type(model).__name__}, e.g. {missing[0]}: "
            "its config.json and its weights do not belong together."
        )
    return processor, model


def _check_fit(loaded: Loaded, kind: Kind) -> None:
    """Try a prompt with a grey image: the processor must take it and leave a place for the image."""
    from PIL import Image

    prompt = loaded.prompts[kind]
    try:
        ids = _process(loaded, [Image.new("RGB", (64, 64), "grey")], kind)["input_ids"]
    except ValueError as error:
        raise ModelError(
            f"The processor does not take an image with the prompt {prompt!r} ({error}): see that the "
            "captioner's `template` holds <image> once where the model's processor wants it."
        ) from error
    image_id = getattr(loaded.model.config, "image_token_id", None)
    if image_id is not None and not bool((ids == image_id).any()):
        raise ModelError(
            f"The prompt {prompt!r} holds no image token, so the model would not see the image: put "
            "<image> into the captioner's `template`."
        )


def _explain_load(checkpoint: Checkpoint, error: Exception) -> str:
    remedy = (
        "is it the folder of an image-text-to-text model, saved with its processor?"
        if checkpoint.is_local
        else f"download it once while online (`hf download {checkpoint.name} --revision "
        f"{checkpoint.revision}`) or name a folder."
    )
    return f"Checkpoint {checkpoint.name} cannot be loaded ({str(error).strip().splitlines()[0]}): {remedy}"


def _to_device(model: Any, name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device is {name!r} but torch sees no GPU: set `device: auto` in params.yaml.")
    try:
        return model.to(name)
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(f"The model does not fit into the memory of {name}: set a smaller `dtype`.") from error


def _prepare_padding(tokenizer: Any, model: Any) -> None:
    """Pad on the left, as a decoder goes on at the right, with a token that the model can embed."""
    num_known = model.get_input_embeddings().num_embeddings
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None or pad >= num_known:
        if end is None or end >= num_known:
            raise ModelError(
                f"The tokenizer's pad id {pad} and end id {end} do not fit the model's {num_known} "
                "embeddings: set `pad_token` in the checkpoint's tokenizer_config.json."
            )
        tokenizer.pad_token = tokenizer.eos_token  # masked, so any known token does
    if not model.config.is_encoder_decoder:
        tokenizer.padding_side = "left"


def _end_ids(tokenizer: Any, model: Any) -> frozenset[int]:
    found = [model.generation_config.eos_token_id, tokenizer.eos_token_id]
    flat = [token for ids in found for token in (ids if isinstance(ids, list) else [ids])]
    return frozenset(token for token in flat if token is not None)


def _process(loaded: Loaded, images: "Sequence[Image]", kind: Kind) -> Any:
    tokenizer, prompt = loaded.processor.tokenizer, loaded.prompts[kind]
    has_start = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)
    return loaded.processor(
        images=list(images),
        text=[prompt] * len(images),
        padding=True,
        return_tensors="pt",
        add_special_tokens=not has_start,  # chat templates write the start token themselves
    )


def _generate(loaded: Loaded, inputs: Any, kind: Kind, samplers: list[Any]) -> list[list[int]]:
    """Generated ids without the prompt, one list a row; after an end token comes padding."""
    import torch
    from transformers import BatchFeature

    # A copy: what waits in `inputs` stays in this machine's memory, and the GPU's is free after the call.
    inputs = BatchFeature(dict(inputs)).to(loaded.model.device, dtype=loaded.model.dtype)
    with torch.inference_mode():
        ids = loaded.model.generate(**inputs, generation_config=loaded.generations[kind], logits_processor=samplers)
    prompt = inputs["input_ids"]
    length = prompt.shape[1]
    if ids.shape[1] >= length and torch.equal(ids[:, :length], prompt):
        ids = ids[:, length:]  # decoders repeat the prompt, encoder-decoders do not
    rows: list[list[int]] = ids.tolist()
    return rows
