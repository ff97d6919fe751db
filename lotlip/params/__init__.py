"""Typed view of params.yaml: every key is named here, and an unknown one is an error with the nearest valid name."""

from lotlip.params.captioning import (
    Captioner,
    CaptionerSettings,
    EndpointCaptioner,
    Executor,
    TableCaptioner,
    TransformersCaptioner,
    WritingCaptioner,
)
from lotlip.params.data import (
    Column,
    ColumnFilter,
    Download,
    HfDatasetSource,
    ImageFolderSource,
    ScenesSource,
    ShardsSource,
    Source,
    TableFormat,
    UrlTableSource,
)
from lotlip.params.file import RESERVED_NAMES, Params, Pipeline, Report, Tracking, entry, load_params, parse_params
from lotlip.params.section import Section
from lotlip.params.training import Evalset, Evaluate, HoldoutEvalset, Method, ScenesEvalset, Train
from lotlip.params.validation import ImageRules, LongRules, Quality, RawRules, Similarity, Validate

__all__ = [
    "RESERVED_NAMES",
    "Captioner",
    "CaptionerSettings",
    "Column",
    "ColumnFilter",
    "Download",
    "EndpointCaptioner",
    "Evalset",
    "Evaluate",
    "Executor",
    "HfDatasetSource",
    "HoldoutEvalset",
    "ImageFolderSource",
    "ImageRules",
    "LongRules",
    "Method",
    "Params",
    "Pipeline",
    "Quality",
    "RawRules",
    "Report",
    "ScenesEvalset",
    "ScenesSource",
    "Section",
    "ShardsSource",
    "Similarity",
    "Source",
    "TableCaptioner",
    "TableFormat",
    "Tracking",
    "Train",
    "TransformersCaptioner",
    "UrlTableSource",
    "Validate",
    "WritingCaptioner",
    "entry",
    "load_params",
    "parse_params",
]
