"""A language model small enough for a test to compress, evaluate and generate with in a second."""

from __future__ import annotations

from pathlib import Path

import torch

LINES = (
    "A sheet of paper folded once is a folio, folded twice a quarto, folded three times an octavo.",
    "The printer set the type, inked it, and pulled the press; the binder folded, gathered and sewed.",
    "def fold(sheet, times):\n    for _ in range(times):\n        sheet = sheet.halve()\n    return sheet",
    "What is small on the shelf must still be whole when it is opened: no page may be missing.",
    "Numbers 0 1 2 3 4 5 6 7 8 9, brackets ([{}]), and marks such as ?, !, ; and : occur as well.",
)
VOCABULARY = 384


def save_llama(directory: Path, seed: int = 0) -> None:
    """Save a random Llama of 2 layers, width 48 (no multiple of 32), 4 heads on 2 key-value heads, tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        # Far above the usual 0.02, so that the logits of an untrained model say something.
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    save_tokenizer(directory)


def save_tokenizer(directory: Path) -> None:
    """Train a byte-level BPE on a few lines and save it as transformers expects, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>"
    )
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    fast.save_pretrained(directory)
