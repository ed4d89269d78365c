"""From a configuration to a running engine: the only module that knows all parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import ConfigError
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.extract import Extract, ExtractStage
from lightmem_engine.pipeline.pipeline import Pipeline
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.protocols import Clock, Embedder, LanguageModel, TokenClassifier
from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.batcher import DeviceWorker
from lightmem_engine.runtime.clock import SystemClock
from lightmem_engine.runtime.device import Device, choose
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.sensory.memory import SensoryMemory
from lightmem_engine.sensory.segment import Segmenter
from lightmem_engine.short_term.extract import LlmExtractor
from lightmem_engine.short_term.extractive import extract_turns
from lightmem_engine.stores.lock import DirectoryLock
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import Priority, Vectors, Window

CLASSIFY, EMBED = "classify", "embed"


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two models of the sensory stage, on one device."""

    classifier: TokenClassifier
    embedder: Embedder
    device: Device
