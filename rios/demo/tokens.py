"""The demo model's tokenizer: byte-level BPE of 4,096 entries.

Byte-level, so that any text can be encoded and comes back unchanged. The method is
that of GPT-2 (Radford et al., 2019, section 2.2), as ``tokenizers`` implements it.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# 4,096 entries keep the embedding (a fifth of the weights) in proportion.
VOCABULARY = 4096

# One token both opens and closes a document, as in GPT-2 and OLMoE.
END, END_ID = "<|endoftext|>", 0
PAD, PAD_ID = "<|padding|>", 1


def train_tokenizer(texts: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """Learn the merges from ``texts`` and return the tokenizer ready to use.

    ``context`` is recorded in it as the longest input the model takes, in tokens.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[END, PAD],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def document(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Encode a document, of any length, with the token that opens it."""
    # The quiet form: a chapter is longer than the context, and is cut later.
    return [END_ID, *tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
