"""Tiny checkpoints with random numbers, of the layout of those whose embeddings are taken."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from zoo.tokenization import END_OF_TEXT


def gpt2_tokenizer(text: str) -> Tokenizer:
    """Byte-level pairs of a text, and of words that it never has."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text, "what no line of the task ever says " * 9], trainer)
    made.add_special_tokens([END_OF_TEXT])
    return made


def bert_tokenizer(text: str) -> Tokenizer:
    """As published with MiniLM: lower case, [CLS] and [SEP] around, cut off and filled up."""
    words = sorted(set(text.lower().split()) - {"7"})
    signs = sorted({sign for word in words for sign in word} | set("xyzé7,.!"))
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*signs, *(f"##{sign}" for sign in signs)]
    pieces += [word for word in ["never", "##said", *words] if word not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    made.enable_truncation(8)
    made.enable_padding(length=8)
    return made


def gpt2_folder(folder: Path, text: str, width: int, positions: int) -> Path:
    """A folder of GPT-2's layout, with more tensors than are asked for."""
    folder.mkdir()
    tokenizer = gpt2_tokenizer(text)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(9)
    tensors = {
        "wte.weight": torch.randn(tokenizer.get_vocab_size(), width),
        "wpe.weight": torch.randn(positions, width),
        "h.0.attn.c_attn.weight": torch.randn(width, 3 * width),
        "ln_f.bias": torch.zeros(width),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def bert_folder(folder: Path, text: str, width: int, positions: int) -> Path:
    """A folder of BERT's layout, in float16."""
    folder.mkdir()
    tokenizer = bert_tokenizer(text)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(8)
    tensors = {
        "embeddings.word_embeddings.weight": torch.randn(tokenizer.get_vocab_size(), width).half(),
        "embeddings.position_embeddings.weight": torch.randn(positions, width).half(),
        "embeddings.position_ids": torch.arange(positions)[None],
    }
    save_file(tensors, folder / "model.safetensors")
    return folder
