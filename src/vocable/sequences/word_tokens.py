"""Text tokens by word: the same words in the vocabulary of a recogniser and in that of a language model.

    "Don't panic!"  ->  words  Don't, panic!
                    ->  ids of " Don't", ids of " panic!", each word by itself;  word ids 0 0 1 1

What is computed for one vocabulary reaches the other by the word: both count the same words.

The rule for blanks, everywhere: words are what blanks separate, punctuation stays with its word, and every word, also
the first of a text, is tokenised with exactly one blank before it and nothing after it. So a word has the same tokens
wherever it stands, and a token that begins with a blank begins a word. It is the rule of TASTE (Tseng et al., 2025,
arXiv:2504.07053, appendix A.4); the published code keeps the first word's blank in some places and strips it in others,
and thereby gives that word other tokens.

Two things follow. A text comes back with single blanks and one in front. And a script that is written without blanks is
one word up to the next blank: whoever wants words there puts blanks between them (`split_words` cannot know them).
"""

import functools
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from vocable.errors import ConfigError, ManifestError

PROBES = (" a", " b", " Don't!", " 12,5", " naïve", " 語")


def split_words(text: str) -> list[str]:
    """Split a text at blanks, in Unicode's composed form (NFC), so that all tokenizers read the same letters.

    Raises:
        ManifestError: the text holds half a character (a lone surrogate), which no tokenizer can read.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ManifestError(
            f"The text {text[:60]!r} holds a broken character at position {error.start}. Write the text in UTF-8 again."
        ) from error
    return unicodedata.normalize("NFC", text).split()


class WordTokens(NamedTuple):
    """Tokens of some words, one after another."""

    ids: Int[Tensor, " tokens"]
    word_ids: Int[Tensor, " tokens"]
    """Number of the word that each token belongs to, from 0; never falls, and leaves out no word."""


class WordTextTokenizer:
    """A text tokenizer that is used by word.

    Nothing but the text is tokenised: no symbols are added at the ends, and a word that spells such a symbol
    (`<|endoftext|>`) is read letter by letter.
    """

    def __init__(self, tokenizer: Any, name: str = "") -> None:
        """Take over a fast tokenizer of transformers.

        Args:
            tokenizer: Byte-level, as those of Whisper, Llama 3, Qwen, SmolLM and GPT-2.
            name: For messages.

        Raises:
            ConfigError: it does not give words back as they were.
        """
        self.tokenizer, self.name = tokenizer, name or str(getattr(tokenizer, "name_or_path", ""))
        fast = getattr(tokenizer, "is_fast", False)
        if not fast or any(self.decode(torch.tensor(self._ids([probe])[0])) != probe for probe in PROBES):
            raise ConfigError(
                f"The text tokenizer {self.name!r} does not give words back letter for letter with the blank before "
                "them, so tokens cannot be told apart by word. Take a byte-level one, as those of Whisper, Llama 3, "
                "Qwen and SmolLM."
            )

    def encode(self, words: Sequence[str]) -> WordTokens:
        """Return the tokens of words without blanks, as `split_words` makes them.

        Raises:
            ConfigError: a word is empty, has a blank in it or is not in composed form.
        """
        for index, word in enumerate(words):
            if split_words(word) != [word]:
                raise ConfigError(f"words[{index}] is {word!r}; a word has no blanks. Take those of split_words(text).")
        tokens = self._ids([f" {word}" for word in words])
        return WordTokens(
            ids=torch.tensor([token for ids in tokens for token in ids], dtype=torch.int64),
            word_ids=torch.tensor([index for index, ids in enumerate(tokens) for _ in ids], dtype=torch.int64),
        )

    def decode(self, ids: Int[Tensor, " tokens"]) -> str:
        """Return the text of tokens, with a blank before each word: `" " + " ".join(words)` for `encode(words)`."""
        backend = self.tokenizer.backend_tokenizer  # Whisper's own `decode` drops what looks like a time stamp
        return backend.decode(ids.tolist(), skip_special_tokens=False)

    @functools.cached_property
    def pieces(self) -> list[str]:
        """Text of each token of the vocabulary by itself."""
        every = [[token] for token in range(self.size)]
        return self.tokenizer.backend_tokenizer.decode_batch(every, skip_special_tokens=False)

    @functools.cached_property
    def starts_word(self) -> Bool[Tensor, " vocabulary"]:
        """Whether each token of the vocabulary begins with a blank, and thereby a word."""
        return torch.tensor([piece[:1].isspace() for piece in self.pieces])

    @property
    def size(self) -> int:
        """Number of tokens, added symbols included."""
        return len(self.tokenizer)

    def word_ids(self, ids: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        """Return the word that each token belongs to, told by the blanks alone, as for tokens that a model has drawn.

        Tokens before the first blank belong to word 0.
        """
        starts = self.starts_word[ids]
        if len(ids):
            starts[0] = True
        return starts.cumsum(0) - 1

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
