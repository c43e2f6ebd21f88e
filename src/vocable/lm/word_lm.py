"""A text model that speaks, as TASLM trains it: one of the spoken language models of spoken.py.

    <s> words, each with its codes where it is spoken  ->  the next words, and how they are spoken

Text is what is said; speech adds the codes. So a spoken prompt has its words in it already, a written one is spoken by
the model as it reads it, and every continuation is text with codes: `to` says which of the two is handed back.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vocable.errors import ConfigError
from vocable.lm.branches import Tree, TreeNLL
from vocable.lm.checkpoint import LMCard, LoadedLM
from vocable.lm.generation import GenerationConfig, Row, TokenRules, draw_tokens, start_rows
from vocable.lm.model import TEXT_MAX_TOKENS, NewPiece, Reply, SpokenLM, Target, Task
from vocable.lm.rows import Progress, RowScore
from vocable.lm.scoring import Boundary
from vocable.lm.word_checkpoint import read_words
from vocable.lm.word_generation import WordReader
from vocable.lm.word_model import wanted
from vocable.sequences.joint_rows import JointSequence, Segment, join_words
from vocable.sequences.packing import token_budget_batches
from vocable.sequences.spans import Modality
from vocable.sequences.word_layout import PackedWords, SpokenText, WordLayout, WordRow, WordVocabulary, drawable
from vocable.sequences.word_tokens import split_words
from vocable.types import SpeechTokens, Word

SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*$")
LONGEST_SENTENCE = 40
"""Words that are spoken together, at most."""
NO_UNITS = "The language model has one position of codes for each word; what was asked for needs units with frames."


class WordLM(SpokenLM):
    """A model of text and of the codes of its words."""

    joins = "one text; spoken words have codes, written ones the pad vector"
    prompt_form = "start symbol, words"
    streams = True

    def __init__(self, loaded: LoadedLM, *rest: Any, **named: Any) -> None:
        """See `SpokenLM`.

        Raises:
            FingerprintError: the text tokenizer is not that of the model's vocabulary.
        """
        super().__init__(loaded, *rest, **named)
        layout = loaded.card.build_layout()
        if not isinstance(layout, WordLayout):
            raise ConfigError(f"The layout {loaded.card.layout.get('name')!r} is not one of words.")
        self.layout = layout.bind(loaded.text_tokenizer, self.name)
        self._drawable: Tensor | None = None

    @classmethod
    def read(cls, folder: Path, card: LMCard, dtype: str | None, device: str) -> LoadedLM:
        """See `SpokenLM`; the text model of adapters is looked up by its name."""
        return read_words(folder, card, dtype, device)

    @property
    def vocabulary(self) -> WordVocabulary:
        """Ids of the text, and codes."""
        return self.layout.vocabulary

    def opener(self, modality: Modality) -> Int[Tensor, " opener"]:
        """Return the start symbol."""
        return torch.tensor([self.vocabulary.open_id])

    def content(self, segment: Segment) -> Int[Tensor, " positions"]:
        """Return the text tokens of a segment, spoken or written."""
        return self.layout.words.encode(self._part(segment).words).ids

    def prompt(
        self, segments: Sequence[Segment], *, to: Target | None = None, task: Task = "continue"
    ) -> Int[Tensor, " prompt"]:
        """See `LanguageModel`."""
        if task == "transcribe":
            raise ConfigError(
                f"{self.name}: the words of speech come with its tokens, so there is nothing to transcribe. A "
                "recogniser writes down recordings."
            )
        if task == "speak" and (not segments or segments[-1].modality != "text"):
            raise ConfigError("Task 'speak' goes from text to speech, but the prompt is not text.")
        ids = torch.cat([self.opener("text"), *(self.content(segment) for segment in segments)])
        if task == "speak" and len(ids) == 1:
            raise ConfigError("The prompt is empty: there is nothing to speak.")
        return ids

    def row(  # type: ignore[override]  # of two streams
        self, segments: Sequence[Segment], *, boundary: Boundary | None = None, ending_only: bool = False
    ) -> WordRow:
        """See `LanguageModel`; spoken segments are scored by text and by codes."""
        parts = [self._part(segment) for segment in segments]
        closes = boundary in (None, "bos_eos")
        return self.layout.build(parts, opens=boundary != "none", closes=closes, ending_only=ending_only)

    def rows(  # type: ignore[override]  # of two streams
        self, documents: Sequence[Sequence[Segment]], *, boundary: Boundary | None = None, ending_only: bool = False
    ) -> list[WordRow]:
        """See `LanguageModel`."""
        return [self.row(segments, boundary=boundary, ending_only=ending_only) for segments in documents]

    def token_rules(self, to: Target, max_text_tokens: int) -> TokenRules:
        """See `LanguageModel`; where speech is wanted, each token lasts as long as it does on average in training."""
        known = self.vocabulary
        if self._drawable is None:
            symbols = self.text_tokenizer.all_special_ids
            self._drawable = drawable(self.layout.words, known.size, symbols)
        banned = ~self._drawable
        banned[known.close_id] = False
        seconds, lasting = torch.zeros(known.size), self.card.token_seconds
        if to != "text":
            if lasting is None:
                raise ConfigError(
                    f"{self.name}: its card has no token durations, so lengths in seconds cannot be kept."
                )
            seconds[self._drawable] = lasting
        limit = max_text_tokens if to == "text" else None
        return TokenRules(
            banned=banned, seconds=seconds, end_id=known.close_id, pad_id=known.pad_id, max_text_tokens=limit
        )

    def continue_(
        self,
        prompts: Sequence[Sequence[Segment]],
        config: GenerationConfig,
        *,
        to: Target | None = None,
        task: Task = "continue",
        max_text_tokens: int = 128,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """See `LanguageModel`; a prompt may have no segments, then something is said from nothing.

        A word that a limit cuts off is left out. Prompts are read one by one.
        """
        if max_text_tokens < 1:
            raise ConfigError(f"max_text_tokens is {max_text_tokens}; it must be at least 1.")
        form = to or (prompts[0][-1].modality if prompts and prompts[0] else "speech")
        starts = [self.prompt(segments, to=form, task=task) for segments in prompts]
        rows = start_rows([start.tolist() for start in starts], config, seeds)
        replies = []
        for segments, start, row in zip(prompts, starts, rows):
            reader = self._reader(segments, row, config)
            for _ in self._draw(reader, row, config, form, task, max_text_tokens):
                pass
            replies.append(self._reply(reader, row, start, form))
        return replies

    def stream(
        self,
        prompt: Sequence[Segment],
        config: GenerationConfig,
        *,
        to: Target | None = None,
        task: Task = "continue",
        max_text_tokens: int = 128,
    ) -> Iterator[NewPiece]:
        """Yield text as it is drawn, and speech sentence by sentence."""
        form = to or (prompt[-1].modality if prompt else "speech")
        start = self.prompt(prompt, to=form, task=task)
        (row,) = start_rows([start.tolist()], config, None)
        reader, shown, spoken = self._reader(prompt, row, config), "", 0
        for _ in self._draw(reader, row, config, form, task, max_text_tokens):
            text = self.layout.words.decode(torch.tensor(row.tokens, dtype=torch.long))
            if not text.endswith("\ufffd") and text != shown:  # half a letter waits for its other half
                yield NewPiece(text[len(shown) :])
                shown = text
            sentence = _sentence_length([word for word, _ in reader.whole_words()[spoken:]])
            if sentence and form != "text":
                yield NewPiece("", self._speech(reader, spoken, spoken + sentence))
                spoken += sentence
        if rest := self.layout.words.decode(torch.tensor(row.tokens, dtype=torch.long))[len(shown) :]:
            yield NewPiece(rest)
        if form != "text" and len(reader.whole_words()) > spoken:
            yield NewPiece("", self._speech(reader, spoken, len(reader.whole_words())))

    def segments(self, token_ids: Int[Tensor, " positions"]) -> tuple[Segment, ...]:
        """Return what token ids write; codes are not in them."""
        return self.revert(token_ids).segments

    def revert(self, token_ids: Int[Tensor, " positions"]) -> JointSequence:
        """See `SpokenLM`."""
        known = torch.tensor([self.vocabulary.open_id, self.vocabulary.close_id])
        kept = token_ids[~torch.isin(token_ids, known) & (token_ids < self.vocabulary.size)]
        segment = Segment(text=self.layout.words.decode(kept), stop=len(token_ids))
        return JointSequence(token_ids=token_ids, segments=(segment,) if len(kept) else ())

    @torch.inference_mode()
    def score(  # type: ignore[override]  # of rows of two streams
        self,
        rows: Sequence[WordRow],
        *,
        logits: Literal["kept", "masked"] = "kept",
        share_prefixes: bool = True,
        max_tokens: int = 4096,
        on_progress: Progress | None = None,
    ) -> list[RowScore]:
        """Return the negative log-likelihood of each row: of its text, of the codes of its words, and both together.

        Text and codes have no ids in common, so `logits` makes no difference; every row is read whole. A latent head
        gives a density, which may be above 1.
        """
        self._check_rows(rows)
        model, found = self.model.eval(), [RowScore(0.0, 0)] * len(rows)
        batches = token_budget_batches([len(row) for row in rows], min(max_tokens, TEXT_MAX_TOKENS))
        for batch in batches:
            packed = PackedWords.of([rows[place] for place in batch]).to(model.device)
            predictions = model(packed)
            losses = (
                F.cross_entropy(predictions.logits.float(), packed.next_ids[packed.next_ids >= 0], reduction="none"),
                model.head.nll(predictions.speech, packed.next_codes[packed.next_codes[:, 0] >= 0]),
            )
            sums = [_sums_by_row(*pair, packed.lengths) for pair in zip(losses, wanted(packed), strict=True)]
            for place, text, speech in zip(batch, *sums, strict=True):
                parts = {name: part for name, part in (("text", text), ("speech", speech)) if part[1]}
                found[place] = RowScore(text[0] + speech[0], text[1] + speech[1], parts)
            if on_progress is not None:
                on_progress(len(batch), len(rows))
        return found

    def score_branches(
        self, trees: Sequence[Tree], *, logits: Literal["kept", "masked"] = "kept", max_tokens: int = 4096
    ) -> list[TreeNLL]:
        """Rows of two streams are not scored as trees of ids."""
        raise ConfigError(NO_UNITS)

    def states(self, rows: Sequence[WordRow]) -> list[Float[Tensor, "positions dim"]]:  # type: ignore[override]
        """See `LanguageModel`."""
        self._check_rows(rows)
        packed = PackedWords.of(rows).to(self.model.device)
        return list(self.model.eval().states(packed).split(list(packed.lengths)))

    def unit_durations(self, tokens: SpeechTokens) -> NoReturn:
        """Words have no frames."""
        raise ConfigError(NO_UNITS)

    def text_spans(self, text: str) -> list[tuple[int, int]]:
        """See `SpokenLM`."""
        spans = []
        for match in re.finditer(r"\S+", text):
            word = " " + unicodedata.normalize("NFC", match[0])
            encoded = self.text_tokenizer(word, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for first, last in encoded["offset_mapping"]:
                begin, end = (min(max(place - 1, 0), len(match[0])) + match.start() for place in (first, last))
                spans.append((begin, end))
        return spans

    def join(self, prompt: SpeechTokens, new: SpeechTokens) -> SpeechTokens:
        """Put new words after those of a prompt."""
        return join_words([prompt, new])

    def speakable(self, tokens: SpeechTokens) -> SpeechTokens:
        """Words are ready for a speech decoder as they are."""
        return tokens

    def description(self) -> dict[str, Any]:
        """Return the layout's card."""
        return {"layout": self.layout.card()}

    def _part(self, segment: Segment) -> SpokenText:
        if segment.tokens is not None:
            return SpokenText.of_tokens(segment.tokens, self.vocabulary.num_levels)
        return SpokenText(tuple(split_words(segment.text or "")), None)

    def _reader(self, segments: Sequence[Segment], row: Row, config: GenerationConfig) -> WordReader:
        parts = [self._part(segment) for segment in segments]
        return WordReader(self.model.eval(), self.layout, parts, config.word_temperature, row.generator)

    def _draw(
        self, reader: WordReader, row: Row, config: GenerationConfig, to: Target, task: Task, max_text_tokens: int
    ) -> Iterator[None]:
        """Draw a row to its end; yield after every token, and after the end."""
        if task == "speak":
            reader.speak_prompt()
            row.stopped = "eos"
        else:
            yield from draw_tokens(reader.logits(row), [row], config, self.token_rules(to, max_text_tokens))
        if row.stopped == "eos":
            reader.end()
        yield

    def _reply(self, reader: WordReader, row: Row, start: Tensor, to: Target) -> Reply:
        words = reader.whole_words()
        segments: tuple[Segment, ...] = ()
        if words and to == "text":
            segments = (Segment(text=" " + " ".join(word for word, _ in words), stop=len(row.tokens)),)
        elif words:
            segments = (Segment(tokens=self._speech(reader, 0, len(words)), stop=len(row.tokens)),)
        seconds = 0.0 if to == "text" else sum(len(self.layout.words.encode([word]).ids) for word, _ in words)
        token_ids = torch.tensor(row.tokens, dtype=torch.int64)
        lasting = seconds * (self.card.token_seconds or 0.0)
        return Reply(segments, lasting, row.stopped or "context", start, token_ids)

    def _speech(self, reader: WordReader, first: int, last: int) -> SpeechTokens:
        """Tokens of new words, with the times that they take on average."""
        words = reader.whole_words()[first:last]
        lasting, place, timed = self.card.token_seconds or 0.0, 0.0, []
        for word, _ in words:
            end = place + lasting * len(self.layout.words.encode([word]).ids)
            timed.append(Word(word=word, start=place, end=end))
            place = end
        spans = torch.arange(len(words))[:, None] + torch.tensor([0, 1])
        codes = torch.stack([codes for _, codes in words], dim=1)
        return SpeechTokens(codes=codes, words=tuple(timed), spans=spans)

    def _check_rows(self, rows: Sequence[WordRow]) -> None:
        longest = self.context_tokens
        for index, row in enumerate(rows):
            if longest is not None and len(row) > longest:
                raise ConfigError(
                    f"Row {index} has {len(row)} tokens, the model {longest} positions. Cut it, or use a model with a "
                    "longer context."
                )


def _sentence_length(words: Sequence[str]) -> int:
    """Count the words of the first sentence; 0 while it goes on."""
    for place, word in enumerate(words):
        if SENTENCE_END.search(word) or place + 1 == LONGEST_SENTENCE:
            return place + 1
    return 0


def _sums_by_row(losses: Float[Tensor, " predicted"], at: Tensor, lengths: Sequence[int]) -> list[tuple[float, int]]:
    """Sum losses over the positions of each row where something is predicted, and count them."""
    counts = [int(part.sum()) for part in at.split(list(lengths))]
    return [(float(part.double().sum()), count) for part, count in zip(losses.split(counts), counts, strict=True)]
