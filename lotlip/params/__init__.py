"""Typed view of params.yaml: every key is named here, and an unknown one is an error with the nearest valid name."""

from lotlip.params.captioning import Captioner, CaptionerSettings, EndpointCaptioner, Executor, TransformersCaptioner
from lotlip.params.data import Download, ScenesSource, ShardsSource, Source, UrlTableSource
from lotlip.params.file import (
    RESERVED_NAMES,
    Params,
    Pipeline,
    Report,
    Storage,
    Tracking,
    entry,
    load_params,
    parse_params,
)
from lotlip.params.section import Section
from lotlip.params.training import Evalset, Evaluate, HoldoutEvalset, Method, ScenesEvalset, Train
from lotlip.params.validation import (
    ImageRules,
    JoinRules,
    LeakRules,
    LongRules,
    Quality,
    RawRules,
    Similarity,
    Validate,
)

__all__ = [
    "RESERVED_NAMES",
    "Captioner",
    "CaptionerSettings",
    "Download",
    "EndpointCaptioner",
    "Evalset",
    "Evaluate",
    "Executor",
    "HoldoutEvalset",
    "ImageRules",
    "JoinRules",
    "LeakRules",
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
    "Storage",
    "Tracking",
    "Train",
    "TransformersCaptioner",
    "UrlTableSource",
    "Validate",
    "entry",
    "load_params",
    "parse_params",
]
