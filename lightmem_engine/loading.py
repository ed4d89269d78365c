"""From a configuration to loaded models. What a model needs is imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError
from lightmem_engine.protocols import Embedder, LanguageModel, TokenClassifier
from lightmem_engine.runtime.device import Device, choose


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two models of the sensory stage, on one device, and what compresses messages one by one if configured."""

    classifier: TokenClassifier
    embedder: Embedder
    device: Device
    shorten: Callable[[Sequence[str]], list[str]] | None = None


def load_encoders(config: EngineConfig) -> Encoders:
    """Classifier and embedder, sharing one set of weights where they are the same checkpoint."""
    from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder

    if config.embedder.stub and config.classifier.source == "stub":
        idle = Device("cpu", "float32", "stub encoders need no device")
        return Encoders(StubClassifier(config.classifier.window_tokens), StubEmbedder(), idle)
    device = choose(config.device)  # before anything else imports torch
    import torch

    from lightmem_engine.models import lingua_messages
    from lightmem_engine.models.checkpoint import locate
    from lightmem_engine.models.encoder import Encoder, SentenceEmbedder
    from lightmem_engine.models.packaged import packaged_minilm

    dtype = getattr(torch, device.dtype)
    sentence: Encoder | None = None
    if not (config.embedder.stub and config.classifier.source != "saliency"):
        checkpoint = locate(config.embedder.model) if config.embedder.model else packaged_minilm()
        sentence = Encoder(checkpoint, device=device.kind, dtype=dtype)
    embedder: Embedder = StubEmbedder() if config.embedder.stub or sentence is None else SentenceEmbedder(sentence)
    classifier: TokenClassifier
    shorten: Callable[[Sequence[str]], list[str]] | None = None
    match config.classifier.source:
        case "stub":
            classifier = StubClassifier(config.classifier.window_tokens)
        case "llmlingua":
            classifier, shorten = lingua_messages.load(config, device.kind, dtype)
        case "saliency":
            from lightmem_engine.models.saliency import SaliencyClassifier

            assert sentence is not None
            layers, edges = config.classifier.layers, config.segment.edge_tokens
            classifier = SaliencyClassifier(sentence, layers=layers, edge_tokens=edges)
    return Encoders(classifier, embedder, device, shorten)


def choose_lm(config: EngineConfig) -> tuple[str, str]:
    """The language model's backend and why it was chosen."""
    lm = config.lm
    if lm.backend != "auto":
        return lm.backend, "set by lm.backend"
    if lm.url:
        return "remote", "auto: lm.url is set"
    if config.upstream.url:
        return "remote", "auto: upstream.url is set"
    if lm.model:
        return "qwen", "auto: lm.model is set"
    return "packaged", "auto: neither lm.model nor lm.url is set"


def load_lm(config: EngineConfig, device: Device) -> LanguageModel:
    """The configured language model. Raises `ConfigError` if it cannot be loaded."""
    lm = config.lm
    backend, _ = choose_lm(config)
    match backend:
        case "remote":
            from lightmem_engine.models.remote import RemoteModel

            upstream = config.upstream
            return RemoteModel(
                lm.url or f"{upstream.url.rstrip('/').removesuffix('/v1')}/v1",
                lm.model,
                api_key=lm.api_key or ("" if lm.url else upstream.api_key),
                timeout_seconds=lm.timeout_seconds,
                send_priority=lm.send_priority,
                verify_tls=lm.verify_tls,
                template_options={"enable_thinking": False} if lm.disable_thinking else None,
            )
        case "qwen":
            from lightmem_engine.models.qwen import QwenModel

            dtype = "bfloat16" if device.kind == "cuda" else device.dtype
            return QwenModel.load(lm.model, device=device.kind, dtype=dtype, cache_bytes=lm.cache_bytes)
        case "packaged":
            from lightmem_engine.models.packaged import MICRO_QWEN, packaged_micro_qwen
            from lightmem_engine.models.qwen import QwenModel

            directory = str(packaged_micro_qwen().directory)
            return QwenModel.load(directory, device=device.kind, cache_bytes=lm.cache_bytes, name=MICRO_QWEN)
        case "stub":
            from lightmem_engine.models.stub_lm import StubModel

            return StubModel()
        case unknown:
            raise ConfigError(f"lm.backend: unknown {unknown!r}")
