"""Random-weight BERT and XLM-R checkpoints of a few thousand parameters, with real tokenizers of both kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

Family = Literal["bert", "xlm-roberta"]

CORPUS = [
    "Caroline moved to Denver on 8 May 2023, and she isn't unhappy about the mountains.",
    "Did you remember the self-care workshop? It's on Tuesday at 10:30 (really).",
    "He painted; she photographed. They walked, talked and remembered unforgettable evenings!",
]


def tokenizer(family: Family, corpus: Sequence[str] = CORPUS, vocab_size: int = 160) -> Any:
    """WordPiece with "##", or Unigram with "▁", trained on a few sentences."""
    if family == "bert":
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        piece.normalizer = normalizers.BertNormalizer(lowercase=False)
        piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        piece.decoder = decoders.WordPiece()
        piece.train_from_iterator(
            corpus, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)
        )
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return PreTrainedTokenizerFast(tokenizer_object=piece, mask_token="[MASK]", **names)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(
        corpus,
        trainers.UnigramTrainer(
            vocab_size=vocab_size - 10, special_tokens=specials, unk_token="<unk>", show_progress=False
        ),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=unigram, pad_token="<pad>", unk_token="<unk>", **names)


def save(
    folder: Path,
    family: Family = "bert",
    *,
    labels: int = 0,
    seed: int = 0,
    positions: int = 512,
    words: Any = None,
    heads: int = 4,
) -> Path:
    """Write a checkpoint for so many tokens, 24 numbers each; `labels` adds a token-classification head, `words` is its
    tokenizer."""
    words = words or tokenizer(family)
    sizes: dict[str, Any] = {
        "vocab_size": len(words) + 100,  # LLMLingua-2 checkpoints have a hundred spare rows
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "initializer_range": 0.5,
        "pad_token_id": words.pad_token_id,
        "num_labels": labels or 2,
    }
    torch.manual_seed(seed)
    model: Any
    if family == "bert":
        bert = BertConfig(**sizes, max_position_embeddings=positions)
        model = BertForTokenClassification(bert) if labels else BertModel(bert)
    else:
        offset = int(words.pad_token_id) + 1
        roberta = XLMRobertaConfig(**sizes, max_position_embeddings=positions + offset, type_vocab_size=1)
        model = XLMRobertaForTokenClassification(roberta) if labels else XLMRobertaModel(roberta)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
