"""From a captioner's settings to the captioner."""

from lotlip import params as settings
from lotlip.captioning.captioner import Captioner
from lotlip.captioning.endpoint_backend import EndpointCaptioner
from lotlip.captioning.transformers_backend import open_transformers


def open_captioner(params: settings.Captioner) -> Captioner:
    """The captioner that the settings describe; a model is loaded, a server asked, with the first image.

    Raises:
        ModelError: the checkpoint's folder is missing or incomplete.
        ParamsError: a hub id without a commit, a template without a place for the prompt, or an unset key variable.
    """
    if isinstance(params, settings.EndpointCaptioner):
        return EndpointCaptioner(params)
    return open_transformers(params)
