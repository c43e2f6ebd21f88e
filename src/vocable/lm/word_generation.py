"""Continue rows of text tokens and word codes: the text is drawn as any, and each word gets its codes a word later.

    text so far ... is <fin> <e>          a token with a blank before it starts a word,
    codes       ... E7 E7    E8           so the word before it is whole: its codes are read off the last hidden state

`WordReader` reads one row, with a key-value cache, and hands out the logits that lm/generation.py draws from. Words of
the prompt that have no codes get them on the way, as if the model had spoken them.

Source: the published HF code of TASLM (arXiv:2504.07053). Differs: it stops at the first full stop after a number of
words, since its end symbol is never trained, and reads the whole prefix again at each step.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from vocable.errors import ConfigError
from vocable.lm.generation import Row
from vocable.lm.word_model import WordModel
from vocable.sequences.word_layout import NO_CODE, SpokenText, WordLayout
from vocable.sequences.word_tokens import split_words

NEVER = -1e9
"""Logit of a token that may not come next."""


class WordReader:
    """One row that is being written."""

    def __init__(
        self,
        model: WordModel,
        layout: WordLayout,
        prompt: Sequence[SpokenText],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Take what comes before the continuation; empty: nothing.

        Args:
            model: In evaluation mode.
            layout: Bound to its text tokenizer.
            prompt: Words, of which some have codes.
            temperature: Temperature of the codes; 0 takes the likeliest.
            generator: Draws codes.
        """
        self.model, self.layout, self.temperature = model, layout, temperature
        self.generator = torch.Generator() if generator is None else generator
        self.ids: list[int] = []
        self.starts: list[int] = []
        self.codes: dict[int, Int[Tensor, " levels"]] = {}
        for part in prompt:
            tokens, word_ids = layout.words.encode(part.words)
            first = len(self.starts)
            self.starts += [len(self.ids) + word_ids.tolist().index(word) for word in range(len(part.words))]
            self.ids += tokens.tolist()
            if part.codes is not None:
                self.codes |= {first + word: codes for word, codes in enumerate(part.codes.T.long().cpu())}
        self.num_prompt_tokens, self.num_prompt_words = len(self.ids), len(self.starts)
        self.cache = DynamicCache(config=model.config)
        self.length = 0
        self.state = torch.zeros(0)
        self.known = torch.full((layout.vocabulary.num_levels,), NO_CODE)
        self.ended = False

    @property
    def starts_word(self) -> Bool[Tensor, " vocabulary"]:
        """Which tokens start a word."""
        return self.layout.words.starts_word

    def whole_words(self) -> list[tuple[str, Int[Tensor, " levels"]]]:
        """Return the new words that are whole and have their codes; where a text is spoken, its words are new.

        Blanks that came together from bytes are dropped, as `split_words` would find words there.
        """
        stops, found = [*self.starts[1:], len(self.ids)], []
        last = len(self.starts) if self.ended else len(self.starts) - 1
        for word in range(self.num_prompt_words, last):
            if word not in self.codes:
                break
            text = self.layout.words.decode(torch.tensor(self.ids[self.starts[word] : stops[word]]))
            if letters := "".join(split_words(text)):
                found.append((letters, self.codes[word]))
        return found

    def speak_prompt(self) -> None:
        """Read the prompt, and count its words as new."""
        self._read_prompt()
        self.num_prompt_words = 0

    def logits(self, row: Row) -> Iterator[Float[Tensor, "1 vocabulary"]]:
        """Yield the logits after the row as it stands, reading only what was appended since."""
        context = getattr(self.model.config, "max_position_embeddings", None) or float("inf")
        if len(self.ids) + 1 > context:
            raise ConfigError(
                f"A prompt has {len(self.ids) + 1} tokens, the model {context} positions. Cut the prompt."
            )
        self._read_prompt()
        while True:
            yield self._next_logits()
            if row.stopped is not None:
                return
            if self.length + 1 > context:
                row.stopped = "context"
                return
            self.append(row.tokens[-1])

    def append(self, token: int) -> None:
        """Add a token, after the codes that are due with it."""
        begins = bool(self.starts_word[token]) or not self.starts
        place = len(self.ids)
        self._predict(place, begins)
        if begins:
            self.starts.append(place)
        self.ids.append(token)
        self._read([token])

    def end(self) -> None:
        """End the text: words that have no codes yet get them."""
        self.ended = True
        place, starts = len(self.ids), list(self.starts)
        for step in range(self.layout.delay):
            word = self.layout.due(place, starts, True)
            if word is not None:
                self._predict_word(word)
            if word == len(self.starts) - 1 or step + 1 == self.layout.delay:
                return
            starts.append(place)
            place += 1
            self._read([self.layout.vocabulary.pad_id])

    def _read_prompt(self) -> None:
        """Read as much at once as is known, and then token by token."""
        ids, starts = self.ids, self.starts
        self.ids, self.starts = [], []
        read, codes = [self.layout.vocabulary.open_id], [self.known]
        place = 0
        for place, token in enumerate(ids):
            begins = place in starts
            word = self.layout.due(place, self.starts, begins)
            if word is not None and word not in self.codes:
                break
            if word is not None:
                self.known = self.codes[word]
            if begins:
                self.starts.append(place)
            self.ids.append(token)
            read.append(token)
            codes.append(self.known)
        self._read(read, torch.stack(codes))
        for token in ids[len(self.ids) :]:
            begins, place = len(self.ids) in starts, len(self.ids)
            self._predict(place, begins)
            if begins:
                self.starts.append(place)
            self.ids.append(token)
            self._read([token])

    def _predict(self, place: int, begins: bool) -> None:
        word = self.layout.due(place, self.starts, begins)
        if word is not None:
            self._predict_word(word)

    @torch.no_grad()
    def _predict_word(self, word: int) -> None:
        if word not in self.codes:
            outputs = self.model.head(self.state[None].to(self.model.mix.dtype))
            self.codes[word] = self.model.head.read(outputs, self.temperature, [self.generator])[0]
        self.known = self.codes[word]

    @torch.no_grad()
    def _read(self, ids: Sequence[int], codes: Int[Tensor, "positions levels"] | None = None) -> None:
        device = self.model.device
        codes = self.known.expand(len(ids), -1) if codes is None else codes
        inputs = self.model.embed(torch.tensor([list(ids)], device=device), codes[None].to(device))
        places = torch.arange(self.length, self.length + len(ids), device=device)[None]
        network: Any = self.model.lm.base_model
        output = network(inputs_embeds=inputs, position_ids=places, past_key_values=self.cache, use_cache=True)
        self.state = output.last_hidden_state[0, -1]
        self.length += len(ids)

    @torch.no_grad()
    def _next_logits(self) -> Float[Tensor, "1 vocabulary"]:
        """Leave out what may not follow: the first token starts a word, and so does none after a lone blank."""
        logits = self.model.lm.get_output_embeddings()(self.state[None]).float().cpu()
        known, close_id = len(self.starts_word), self.layout.vocabulary.close_id
        if len(self.ids) == self.num_prompt_tokens:
            refused = ~self.starts_word
            refused[close_id] = False
            logits[:, :known][:, refused] = NEVER
        elif self.layout.words.decode(torch.tensor(self.ids[-1:])) == " ":
            logits[:, :known][:, self.starts_word] = NEVER
            logits[:, close_id] = NEVER
        return logits
