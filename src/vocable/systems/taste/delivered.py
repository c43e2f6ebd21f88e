"""Speech as words with codes and a speaker: read from a recording, kept in a file, spoken.

    recording, text  ->  read_delivered  ->  DeliveredSpeech  ->  words.json
                                                     |  edits (editing.py)
                                                     v
                                                  speak  ->  waveform, times of the words

Everything that another edit needs lies in words.json: words, codes, changes, the speaker, and which tokenizer's codes
they are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vocable.audio.io import audio_info, read_audio
from vocable.errors import AlignmentError, AssetError, ConfigError
from vocable.features.voice import Speaker
from vocable.files import read_text, write_text
from vocable.recognition.aligner import Aligner
from vocable.recognition.normalise import spoken_words
from vocable.recognition.words import complete_times
from vocable.sequences.word_tokens import split_words
from vocable.systems.taste.editing import DeliveredWord
from vocable.systems.taste.pieces import time_words
from vocable.systems.taste.speech import WordSynthesizer
from vocable.systems.taste.speech_decoder import SpokenWords, WordChange
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.tokens.fingerprint import check_fingerprint
from vocable.types import Clip, Utterance, Word

WORDS_FILE = "words.json"
CHANGES = tuple(asdict(WordChange()))
MOST_STRANGE = 0.5
"""Share of a text's words that may be missing from its recording, or be heard as other words."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeliveredSpeech:
    """What is said, how each word is spoken, and who speaks."""

    words: tuple[DeliveredWord, ...]
    speaker: Speaker
    tokenizer_fingerprint: str
    """Fingerprint of the tokenizer whose codes they are."""

    @property
    def text(self) -> str:
        """The words in a row."""
        return " ".join(word.word for word in self.words)

    def speak(self, tokenizer: TasteTokenizer, seed: int = 0) -> SpokenWords:
        """Speak the words with a tokenizer's speech decoder.

        Args:
            tokenizer: The tokenizer whose codes they are.
            seed: For whatever the decoder draws.

        Raises:
            ConfigError: there are no words, or no speech decoder, or it cannot change words and is to.
            FingerprintError: the codes are of another tokenizer.
        """
        check_fingerprint(
            self.tokenizer_fingerprint, tokenizer.fingerprint, "The speech", f"the tokenizer {tokenizer.name!r}"
        )
        if not self.words:
            raise ConfigError("There is no word to say.")
        changes = {place: word.change for place, word in enumerate(self.words) if word.change != WordChange()}
        words, decoder = [word.word for word in self.words], speech_of(tokenizer).decoder
        with torch.inference_mode():
            spoken = decoder.speak(words, self.vectors(tokenizer), self.speaker, changes or None, seed)
        return spoken._replace(waveform=spoken.waveform.cpu())

    @torch.inference_mode()
    def vectors(self, tokenizer: TasteTokenizer) -> Float[Tensor, "words dim"]:
        """Return the vector of each word; 0 where its delivery is not known."""
        quantizer = tokenizer.words.quantizer
        unknown = (-1,) * len(quantizer.codebook_sizes)
        codes = torch.tensor([word.codes or unknown for word in self.words]).T
        known = (codes[0] >= 0)[:, None]
        vectors = quantizer.decode(codes.clamp(min=0)[None].to(tokenizer.encoder.device))[0]
        return vectors * known.to(vectors)

    def save(self, path: Path) -> None:
        """Write the words, codes and speaker as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        pitch = self.speaker.pitch
        values = {
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
            "text": self.text,
            "speaker": {
                "vector": self.speaker.vector.tolist(),
                "log_f0": None if pitch is None else pitch.tolist(),
            },
        }
        # a line a word, for people who look
        words = ",\n".join("  " + json.dumps(_word_values(word), ensure_ascii=False) for word in self.words)
        write_text(json.dumps(values, ensure_ascii=False)[:-1] + f',\n"words": [\n{words}\n]}}\n', path)

    @classmethod
    def load(cls, path: Path, tokenizer: TasteTokenizer) -> "DeliveredSpeech":
        """Read what `save` wrote.

        Raises:
            AssetError: the file is not such a file, or was changed and is no longer right.
            FingerprintError: it holds codes of another tokenizer.
        """
        try:
            values = json.loads(read_text(path))
            vector, log_f0 = torch.tensor(values["speaker"]["vector"]), values["speaker"]["log_f0"]
            found, fingerprint = [_word_of(entry) for entry in values["words"]], str(values["tokenizer_fingerprint"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AssetError(
                f"{path}: not a {WORDS_FILE} that an edit wrote ({error!r}). Edit the recording."
            ) from error
        check_fingerprint(fingerprint, tokenizer.fingerprint, str(path), f"the tokenizer {tokenizer.name!r}")
        sizes = tokenizer.words.quantizer.codebook_sizes
        for word in found:
            fits = word.codes is None or len(word.codes) == len(sizes)
            if not fits or any(not 0 <= code < size for code, size in zip(word.codes or (), sizes)):
                raise AssetError(
                    f"{path}: the word {word.word!r} has codes {word.codes}, but the tokenizer has {len(sizes)} levels "
                    f"of {', '.join(map(str, sizes))} codes."
                )
        speaker = Speaker(vector, None if log_f0 is None else torch.tensor(log_f0))
        return cls(words=tuple(found), speaker=speaker, tokenizer_fingerprint=fingerprint)


def speech_of(tokenizer: TasteTokenizer) -> WordSynthesizer:
    """Return what speaks a tokenizer's codes.

    Raises:
        ConfigError: it was trained without a speech decoder, or not at all.
    """
    if tokenizer.speech is None:
        raise ConfigError(
            f"The tokenizer {tokenizer.name!r} has no speech decoder, so nothing could be heard. Take one that was "
            "trained with its decoder: vocable train, with a recipe whose system is taste."
        )
    return tokenizer.speech


class Read(NamedTuple):
    """A speech, and the recording that it was read from."""

    speech: DeliveredSpeech
    recording: SpokenWords | None
    """The recording at the tokenizer's rate, with the times of its words where an aligner found them; None where the
    words come from an earlier edit."""


def read_delivered(
    path: Path,
    tokenizer: TasteTokenizer,
    text: str | None = None,
    aligner: Aligner | None = None,
) -> Read:
    """Read a recording, or what an earlier edit wrote, as words with codes and a speaker.

    Args:
        path: An audio file, words.json of an earlier edit, or the folder that it lies in.
        tokenizer: Encodes, and knows voices; also transcribes, where it was given a recogniser.
        text: What is said; None: as the tokenizer's recogniser hears it.
        aligner: Finds the words in the recording, and so notices a text of another recording. None: no times, and only
            a text that is far too long is noticed.

    Raises:
        AlignmentError: the text is not that of the recording, or holds no word.
        AudioFormatError: the recording cannot be read, is silent, or has no text; or is too short to take a voice from.
        AssetError, FingerprintError: see `DeliveredSpeech.load`.
        ConfigError: the tokenizer has no speech decoder.
    """
    saved = path / WORDS_FILE if path.is_dir() else path
    if saved.suffix == ".json":
        speech = DeliveredSpeech.load(saved, tokenizer)
        if text is not None and [*split_words(text)] != [word.word for word in speech.words]:
            raise AlignmentError(f"{saved} says {speech.text!r}, not {text!r}. Leave out the text: it is in the file.")
        return Read(speech, None)
    audio, language = read_audio(path, tokenizer.sample_rate), tokenizer.config.language
    times = None
    if text is not None and text.strip() and aligner is not None:
        times = _find_words(path, text, aligner, language)
    try:
        (tokens,) = tokenizer.encode([Clip(audio.waveform, text, times)])
    except AlignmentError as error:
        raise AlignmentError(f"{path}: {error}") from error
    words = [word.word for word in tokens.words or ()]
    if not words:
        heard = "Nothing was heard in it" if text is None else "The text holds no word"
        raise AlignmentError(f"{path}: {heard}. Give the words that are said in it as the text.")
    if times is None and aligner is not None:
        times = _find_words(path, " ".join(words), aligner, language)
    delivered = [DeliveredWord(word=word, codes=tuple(codes)) for word, codes in zip(words, tokens.codes.T.tolist())]
    speech = DeliveredSpeech(
        words=tuple(delivered),
        speaker=speech_of(tokenizer).speaker(audio),
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    return Read(speech, SpokenWords(audio.waveform, () if times is None else time_words(words, times)))


def time_spoken(
    spoken: SpokenWords, path: Path, speech: DeliveredSpeech, aligner: Aligner, language: str
) -> SpokenWords:
    """Return what was spoken with the times of its words, which an aligner finds where the decoder does not know them.

    Args:
        spoken: The sound.
        path: The file that it was written to.
        speech: What it says.
        aligner: Finds the words.
        language: Language of the words.

    Raises:
        AlignmentError: most of the words are not heard in it.
    """
    if spoken.words:
        return spoken
    times = _find_words(path, speech.text, aligner, language)
    return spoken._replace(words=time_words([word.word for word in speech.words], times))


def _find_words(path: Path, text: str, aligner: Aligner, language: str) -> tuple[Word, ...]:
    """Return the words of a recording with times.

    Raises:
        AlignmentError: most of them are not in it.
    """
    words = spoken_words(text, language)
    utterance = Utterance(id=path.stem, audio=path, text=text, language=language)
    try:
        found = aligner.find(utterance, words, language)
        strange = [word.word for word, time in zip(words, found.times) if time is None or time.note is not None]
        if len(strange) > MOST_STRANGE * len(words):
            raise AlignmentError(
                f"{len(strange)} of the text's {len(words)} words were not heard in it, such as {strange[0]!r}. Is it "
                "the text of another recording?"
            )
        return complete_times(words, found.times, audio_info(path).duration, found.notes).words
    except AlignmentError as error:
        raise AlignmentError(f"{path}: {error}") from error


def edited(speech: DeliveredSpeech, words: Sequence[DeliveredWord]) -> DeliveredSpeech:
    """Return the speech with other words."""
    return replace(speech, words=tuple(words))


def _word_values(word: DeliveredWord) -> dict[str, Any]:
    changes = {name: value for name in CHANGES if (value := getattr(word.change, name)) != getattr(WordChange(), name)}
    return {"word": word.word, "codes": None if word.codes is None else list(word.codes), **changes}


def _word_of(values: Mapping[str, Any]) -> DeliveredWord:
    codes = values["codes"]
    return DeliveredWord(
        word=str(values["word"]),
        codes=None if codes is None else tuple(int(code) for code in codes),
        change=WordChange(**{name: float(values[name]) for name in CHANGES if name in values}),
    )
