"""From a captioner's settings to the captioner."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lotlip import params as settings
from lotlip.captioning.captioner import Captioner
from lotlip.captioning.endpoint_backend import EndpointCaptioner
from lotlip.captioning.transformers_backend import open_transformers


def open_captioner(params: settings.WritingCaptioner) -> Captioner:
    """The captioner that the settings describe; a model is loaded, a server asked, with the first image.

    Raises:
        ModelError: the checkpoint's folder is missing or incomplete.
        ParamsError: a hub id without a commit, a template without a place for the prompt, or an unset key variable.
    """
    if isinstance(params, settings.EndpointCaptioner):
        return EndpointCaptioner(params)
    return open_transformers(params)


def captioner_opener(params: settings.WritingCaptioner) -> Callable[[], Captioner]:
    """What opens the captioner in any process of this or another machine that sees the same folders.

    Raises:
        ModelError, ParamsError: as `open_captioner`, which is tried here once: opening is cheap.
    """
    if isinstance(params, settings.TransformersCaptioner) and Path(params.checkpoint).is_dir():
        params = params.model_copy(update={"checkpoint": str(Path(params.checkpoint).absolute())})
    open_captioner(params)
    return partial(open_captioner, params)
