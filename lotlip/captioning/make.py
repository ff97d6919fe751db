"""Captions by any captioner of params.yaml: written by a model, or imported from a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotlip.captioning.backends import captioner_opener
from lotlip.captioning.shards import caption_shards
from lotlip.captioning.table_import import import_captions
from lotlip.data.manifest import Manifest
from lotlip.params import Params, TableCaptioner, entry


def make_captions(name: str, images: Sequence[Manifest], out: Path, params: Params) -> dict[str, Any]:
    """Make the captions dataset `out` of the captioner `name` and return its report.

    Raises:
        ParamsError: there is no such captioner.
        LotlipError: as `caption_shards` or `import_captions`.
    """
    settings = entry(params.captioners, "captioner", name)
    root = params.storage.root
    work = Path(".work/recaption") / name
    if isinstance(settings, TableCaptioner):
        return import_captions(images, out, settings, work=work, executor=params.executor, root=root)
    return caption_shards(
        images,
        out,
        captioner_opener(settings),
        batch_size=settings.batch_size,
        max_pixels=params.download.max_pixels,
        work=work,
        executor=params.executor,
        max_failed_share=settings.max_failed_share,
        root=root,
    )
