"""Units -> waveform: a front end for the units, and the source-filter decoder.

    units (codebooks, runs) + durations -> content, pitch, energy (unit_frontend.py) + voice -> decoder -> samples

A voice is a name, a recording, or a speaker vector. Pitch, voicing and energy come from the units, from a recording, or
are given frame by frame. Weights are trained by `training/vocoder.py`, from the pretrained decoder or from nothing.
Next stage: none; this is the end of the line.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vocable.audio.io import Audio, read_audio
from vocable.audio.waveforms import resample
from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.features.pitch import REFERENCE_HZ, Prosody, measure_energy, measure_pitch
from vocable.features.speaker import SpeakerEncoder, load_speaker_encoder
from vocable.features.voice import LEAST_SPREAD, Speaker, Voice, find_speaker, pitch_of, voice_row
from vocable.files import replace_file, write_text
from vocable.synthesis.codebook import CodebookEmbedding
from vocable.synthesis.layers import DurationPredictor
from vocable.synthesis.source_filter import SourceFilterConfig, SourceFilterDecoder, Spectra
from vocable.synthesis.unit_frontend import (
    ENERGY_DEVIATION,
    ENERGY_MEAN,
    LARGEST_DEVIATION,
    FrontendConfig,
    NeutralSpeech,
    UnitFrontend,
    frame_positions,
)
from vocable.types import SpeechTokens

USUAL_PITCH = (math.log(160.0), 0.25)
"""Mean and standard deviation of log F0 of a voice that nothing is known of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderConfig:
    """A unit vocoder: what it reads, and its size."""

    codebook_size: int
    """Distinct ids per codebook."""
    num_codebooks: int = 1
    """Parallel codebooks; their embeddings are summed."""
    codebook_sizes: tuple[int, ...] | None = None
    """Distinct ids of each codebook where they differ; None: `codebook_size` for each of `num_codebooks`."""
    token_frame_rate: float = 50.0
    """Token frames per second, Hz."""
    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    """The network from units to content and prosody."""
    decoder: SourceFilterConfig = field(default_factory=SourceFilterConfig)
    """The network from content and prosody to sound."""
    prosody_dim: int = 128
    """Channels of the duration predictor."""
    speaker_encoder: str = "resemblyzer"
    """Speaker encoder whose vectors the decoder reads, where `decoder.speaker_dim` is set: an asset or a folder."""
    voices: tuple[str, ...] = ()
    """Names of the rows of the voice table; empty means that there is one voice, without a name. The first is the
    default."""
    duration_scale: float = 1.0
    """Predicted durations are multiplied by this. A mean of logarithms is below the logarithm of the mean, so that
    predictions are too short on the whole; training measures by how much."""
    collapsed: bool = True
    """Kind of tokens without durations: runs, whose durations are predicted (True), or one column a frame (False)."""
    tokenizer_fingerprint: str | None = None
    """Fingerprint of the tokenizer that made the training tokens; None is not checked."""
    codebook_dim: int | None = None
    """Length of the vectors that units stand for. Set, units are embedded by their vectors, and the vocoder serves any
    codebook of the same encoder (`for_codebook`); None: a table with a row per id, for one codebook."""
    encoder_fingerprint: str | None = None
    """Fingerprint of the encoder in whose space the vectors lie, with `codebook_dim`."""

    def __post_init__(self) -> None:
        if self.codebook_size < 1 or self.num_codebooks < 1:
            raise ConfigError(
                f"vocoder.codebook_size is {self.codebook_size} and num_codebooks {self.num_codebooks}; "
                "both are 1 or more."
            )
        if self.codebook_sizes is not None and (
            len(self.codebook_sizes) != self.num_codebooks or max(self.codebook_sizes) != self.codebook_size
        ):
            raise ConfigError(
                f"vocoder.codebook_sizes is {self.codebook_sizes}; it must name {self.num_codebooks} sizes "
                f"(num_codebooks), the largest of them {self.codebook_size} (codebook_size)."
            )
        if not self.token_frame_rate > 0:
            raise ConfigError(f"vocoder.token_frame_rate is {self.token_frame_rate}; it must be above 0.")
        if len(set(self.voices)) != len(self.voices):
            raise ConfigError("vocoder.voices names a voice twice.")
        if len(self.voices) > 1 and self.decoder.speaker_dim is None:
            raise ConfigError(
                f"vocoder.voices names {len(self.voices)} voices, but vocoder.decoder.speaker_dim is null: such a "
                "decoder has one. Set it to the length of the speaker vectors (resemblyzer: 256)."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Distinct ids of each codebook."""
        return self.codebook_sizes or (self.codebook_size,) * self.num_codebooks

    @property
    def tokens_per_frame(self) -> float:
        """Token frames per frame of the decoder."""
        return self.token_frame_rate / self.decoder.frame_rate

    @property
    def reach(self) -> tuple[int, int]:
        """Frames of the decoder before and after its own that can change a frame's samples."""
        front, back = self.frontend.reach(self.tokens_per_frame), self.decoder.reach
        return front[0] + back[0], front[1] + back[1]

    def num_frames(self, tokens: int) -> int:
        """Count the frames of the decoder that so many token frames take."""
        return math.ceil(tokens / self.tokens_per_frame - 1e-9)

    def num_samples(self, tokens: int) -> int:
        """Count the samples that so many token frames last."""
        return round(tokens * self.decoder.sample_rate / self.token_frame_rate)


class UnitVocoder(nn.Module):
    """Turn units, or codes of several codebooks, into waveforms."""

    follows_prosody: ClassVar[bool] = True
    first_row: Tensor
    voice_vectors: Tensor
    voice_pitch: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        rows, num_voices, speaker_dim = sum(config.sizes), max(1, len(config.voices)), config.decoder.speaker_dim
        self.unit_embedding = _make_embedding(config, rows, config.frontend.dim)
        self.prosody_embedding = _make_embedding(config, rows, config.prosody_dim)
        self.duration_predictor = DurationPredictor(config.prosody_dim, config.prosody_dim)
        self.frontend = UnitFrontend(config.frontend, config.decoder.content_dim)
        self.decoder = SourceFilterDecoder(config.decoder)
        self.pitch_of_vector = nn.Linear(speaker_dim or 1, 2)
        nn.init.zeros_(self.pitch_of_vector.weight)
        self.pitch_of_vector.bias.data = torch.tensor(USUAL_PITCH)
        self.register_buffer("voice_vectors", torch.zeros(num_voices, speaker_dim or 1))
        self.register_buffer("voice_pitch", torch.tensor([USUAL_PITCH] * num_voices))
        sizes = torch.tensor(config.sizes)
        self.register_buffer("first_row", sizes.cumsum(0) - sizes, persistent=False)
        self._encoder: list[SpeakerEncoder] = []  # in a list, so that it is no part of this module

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms, Hz."""
        return self.config.decoder.sample_rate

    @property
    def voices(self) -> list[str]:
        """Names that `synthesize` accepts as `voice`; the first is the default."""
        return list(self.config.voices)

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Fingerprint of the tokenizer whose tokens it reads; None where it is not recorded."""
        return self.config.tokenizer_fingerprint

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.first_row.device

    @torch.no_grad()
    def speaker(self, voice: Voice | None = None) -> Speaker:
        """Return the speaker vector and the pitch of a voice; None is the first one.

        Raises:
            UnknownNameError: there is no voice of that name.
            ConfigError: the voice is a recording or a vector, and the decoder has one voice; or the vector's length.
            AudioFormatError: the recording cannot be read, is silent, or too short.
        """
        if self.config.decoder.speaker_dim is None or voice is None or isinstance(voice, str):
            row = voice_row(voice, self.config.voices) or 0
            return Speaker(self.voice_vectors[row], self.voice_pitch[row])
        found = find_speaker(voice, None if isinstance(voice, Tensor | Speaker) else self.speaker_encoder())
        if found.vector.shape != self.voice_vectors[0].shape:
            raise ConfigError(
                f"The speaker vector has shape {tuple(found.vector.shape)}; this vocoder reads vectors of "
                f"{self.config.decoder.speaker_dim} numbers, of the speaker encoder {self.config.speaker_encoder!r}."
            )
        vector = found.vector.to(self.device).float()
        if found.pitch is not None:
            return Speaker(vector, found.pitch.to(self.device))
        mean, spread = self.pitch_of_vector(vector)
        return Speaker(vector, torch.stack([mean, spread.clamp(min=LEAST_SPREAD)]))

    def speaker_encoder(self) -> SpeakerEncoder:
        """Return the encoder of its speaker vectors; loaded once."""
        if not self._encoder:
            self._encoder.append(load_speaker_encoder(self.config.speaker_encoder))
        return self._encoder[0]

    def embed(
        self, codes: Int[Tensor, "batch num_codebooks positions"], table: nn.Embedding | CodebookEmbedding
    ) -> Float[Tensor, "batch positions dim"]:
        """Sum the embeddings of all codebooks."""
        return table(codes + self.first_row[:, None]).sum(1)

    def forward(
        self,
        codes: Int[Tensor, "batch num_codebooks tokens"],
        positions: Float[Tensor, "batch frames"],
        spoken: Prosody | None = None,
        speakers: Float[Tensor, "batch speaker_dim"] | None = None,
        start: int = 0,
    ) -> tuple[NeutralSpeech, Float[Tensor, "batch samples"] | None, Spectra | None]:
        """Return content and prosody of a neutral speaker at `positions`, in tokens; and the sound of that content.

        Sound is made where `spoken`, F0 in Hz and energy of (batch, frames), is given: by these voices, with the noise
        of frames from `start` on. What wrappers for distributed training call.
        """
        embedded = self.embed(codes, self.unit_embedding)
        if self.training and self.config.codebook_dim is not None and self.config.frontend.noise:
            spread = embedded.detach().std()
            embedded = embedded + self.config.frontend.noise * spread * torch.randn_like(embedded)
        speech = self.frontend(embedded, positions)
        if spoken is None:
            return speech, None, None
        spectra = self.decoder(speech.content, *spoken, speakers)
        return speech, self.decoder.synthesise(spectra, spoken.f0, start), spectra

    def log_durations(self, runs: Int[Tensor, "batch num_codebooks runs"], mask: Tensor | None = None) -> Tensor:
        """Predict log(1 + duration in frames) of every run."""
        return self.duration_predictor(self.embed(runs, self.prosody_embedding), mask)

    def neutral(
        self, codes: Int[Tensor, "num_codebooks tokens"], first: int, count: int, first_token: int = 0
    ) -> NeutralSpeech:
        """Return frames `first` to `first + count` of one utterance, whose codes are given from `first_token` on."""
        positions = frame_positions(first, count, self.config.tokens_per_frame, first_token)
        return self(codes[None], positions[None].to(self.device))[0]

    def with_voice(self, speech: NeutralSpeech, speaker: Speaker) -> Prosody:
        """Return the F0 (Hz) and energy of neutral speech in a voice, (batch, frames) each."""
        assert speaker.pitch is not None
        pitch = speech.pitch.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
        f0 = (pitch * speaker.pitch[1] + speaker.pitch[0]).exp() * (speech.voiced > 0)
        return Prosody(f0, speech.energy * ENERGY_DEVIATION + ENERGY_MEAN)

    def waveform(
        self,
        content: Float[Tensor, "batch frames content_dim"],
        prosody: Prosody,
        speakers: Float[Tensor, "batch speaker_dim"] | None,
        start: int = 0,
        phase: float = 0.0,
    ) -> Float[Tensor, "batch samples"]:
        """Speak content; `start` and `phase` as in SourceFilterDecoder.synthesise."""
        f0, energy = prosody
        spectra = self.decoder(content, f0, energy, speakers)
        return self.decoder.synthesise(spectra, f0, start, phase)

    @torch.inference_mode()
    def synthesize(
        self,
        tokens: Sequence[SpeechTokens],
        voice: Voice | None = None,
        prosody: Sequence[Prosody | Audio | Path | None] | None = None,
    ) -> list[Float[Tensor, " _samples"]]:
        """Turn tokens into waveforms, each by itself, so that results do not depend on what stands beside them.

        Durations are used where the tokens have them, else predicted (see VocoderConfig.collapsed). Columns with an id
        below 0 are dropped, as published vocoders do. No tokens give no samples.

        Args:
            tokens: utterances.
            voice: for all of them; None: the first voice.
            prosody: for each, where its pitch and energy come from: the units (None), a recording of the same words at
                the same times (its pitch is moved to the voice's; the units say what is voiced, since trackers of
                pitch miss a third of it), or values for every frame of the decoder (F0 in Hz, as it shall sound).

        Raises:
            FingerprintError: an id is outside the codebook.
            UnknownNameError: there is no such voice.
            ConfigError: the vocoder cannot take this voice; prosody has another length, or is not finite.
            AudioFormatError: a recording cannot be read.
        """
        speaker = self.speaker(voice)
        results = []
        for item, source in zip(tokens, repeat(None) if prosody is None else prosody, strict=prosody is not None):
            codes = self.to_frames(item)
            if not codes.shape[1]:
                results.append(torch.zeros(0))
                continue
            speech = self.neutral(codes, 0, self.config.num_frames(codes.shape[1]))
            spoken = self.with_voice(speech, speaker) if source is None else self._given(source, speech, speaker)
            waveform = self.waveform(speech.content, spoken, speaker.vector[None])[0]
            results.append(waveform[: self.config.num_samples(codes.shape[1])].clamp(-1, 1).cpu())
        return results

    def to_frames(self, tokens: SpeechTokens) -> Int[Tensor, "num_codebooks frames"]:
        """Check codes, drop negative ones, and repeat each run by its duration, given or predicted."""
        codes, durations = clean_codes(tokens, self.config.sizes)
        codes = codes.to(self.device)
        if durations is None and self.config.collapsed and codes.shape[1]:
            inputs = self.embed(codes[None], self.prosody_embedding)
            durations = self.duration_predictor.durations(inputs, self.config.duration_scale)[0]
        return codes if durations is None else codes.repeat_interleave(durations.to(codes.device), dim=1)

    def _given(self, source: Prosody | Audio | Path, speech: NeutralSpeech, speaker: Speaker) -> Prosody:
        """Prosody of a recording, moved to a voice, or prosody that was given as it is."""
        frames = speech.content.shape[1]
        if not isinstance(source, Prosody):
            source = self._measured(source, speech, speaker)
        f0, energy = (values.to(self.device).float() for values in source)
        if f0.shape != (frames,) or energy.shape != (frames,):
            raise ConfigError(
                f"The prosody has {tuple(f0.shape)} values of F0 and {tuple(energy.shape)} of energy; these tokens "
                f"take {frames} frames, {self.config.decoder.frame_rate:g} a second."
            )
        if not (f0.isfinite().all() and energy.isfinite().all() and (f0 >= 0).all()):
            raise ConfigError("The prosody holds NaN, infinity, or an F0 below 0 Hz; unvoiced frames have an F0 of 0.")
        return Prosody(f0[None], energy[None])

    def _measured(self, recording: Audio | Path, speech: NeutralSpeech, speaker: Speaker) -> Prosody:
        rate, hop, frames = self.sample_rate, self.config.decoder.hop_length, speech.content.shape[1]
        if isinstance(recording, Path):
            waveform = read_audio(recording, rate).waveform
        else:
            waveform = resample(recording.waveform, recording.sample_rate, rate)
        if abs(len(waveform) / hop - frames) > 0.05 * frames + 4:
            raise ConfigError(
                f"The recording whose prosody is wanted lasts {len(waveform) / rate:.2f} s, but the tokens "
                f"{frames * hop / rate:.2f} s. Give the recording that the tokens were made of."
            )
        waveform = nn.functional.pad(waveform, (0, max(0, frames * hop - len(waveform))))[: frames * hop]
        measured = measure_pitch(waveform[None], rate, hop)
        own, energy = pitch_of(measured), measure_energy(waveform, rate, hop)
        if own is None or speaker.pitch is None:
            return Prosody(torch.zeros(frames), energy)
        place, spread = speaker.pitch.cpu()
        log_f0 = (measured.log_f0[0] + math.log(REFERENCE_HZ) - own[0]) / own[1] * spread + place
        return Prosody(log_f0.exp() * (speech.voiced[0].cpu() > 0), energy)

    def set_codebooks(self, codebooks: Sequence[Float[Tensor, "_ codebook_dim"]], standardise: bool = False) -> None:
        """Set the vectors that units stand for; see CodebookEmbedding. Their sizes must add up to `codebook_size`."""
        for table in (self.unit_embedding, self.prosody_embedding):
            if not isinstance(table, CodebookEmbedding):
                raise ConfigError(
                    "This vocoder has a table of its own (vocoder.codebook_dim is null); it takes no codebook."
                )
            table.set_codebooks(codebooks, standardise)

    def for_codebook(
        self, codebook: Float[Tensor, "codebook_size codebook_dim"], tokenizer_fingerprint: str
    ) -> "UnitVocoder":
        """A copy that reads the units of another codebook, whose vectors are features of the same encoder.

        Raises:
            ConfigError: the vocoder has a table with a row per unit, or the vectors have another length.
        """
        if self.config.codebook_dim is None or codebook.shape[1] != self.config.codebook_dim:
            raise ConfigError(
                f"The codebook has vectors of {codebook.shape[1]} dimensions, but this vocoder reads "
                + (
                    "the ids of one codebook only."
                    if self.config.codebook_dim is None
                    else f"{self.config.codebook_dim}."
                )
            )
        other = UnitVocoder(
            replace(
                self.config,
                codebook_size=len(codebook),
                num_codebooks=1,
                codebook_sizes=None,
                tokenizer_fingerprint=tokenizer_fingerprint,
            )
        )
        tables = {
            f"{name}.{part}" for name in ("unit_embedding", "prosody_embedding") for part in ("codebook", "log_size")
        }
        weights = {key: value for key, value in self.state_dict().items() if key not in tables}
        other.load_state_dict(weights, strict=False)
        other.set_codebooks([codebook])
        return other.to(self.device).eval()

    def with_voices(self, speakers: dict[str, Speaker]) -> "UnitVocoder":
        """A copy whose named voices are these, the first of them the default; a single one may have the name ""."""
        other = UnitVocoder(replace(self.config, voices=tuple(name for name in speakers if name)))
        weights = {key: value for key, value in self.state_dict().items() if not key.startswith("voice_")}
        other.load_state_dict(weights, strict=False)
        for row, speaker in enumerate(speakers.values()):
            if self.config.decoder.speaker_dim is not None:
                other.voice_vectors[row] = speaker.vector
            if speaker.pitch is not None:
                other.voice_pitch[row] = speaker.pitch
        return other.to(self.device).eval()

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype = torch.float32) -> None:
        """Write config.json, model.safetensors (stored as `dtype`) and a README card."""
        from safetensors.torch import save

        folder = Path(folder)
        weights = {key: value.detach().to("cpu", dtype).contiguous() for key, value in self.state_dict().items()}
        with replace_file(folder / "model.safetensors") as file:
            file.write(save(weights, metadata={"format": "pt"}))
        description = {"vocable_class": "UnitVocoder", "config": config_to_dict(self.config)}
        write_text(json.dumps(description, indent=2) + "\n", folder / "config.json")
        write_text(_card(self.config, self.voices), folder / "README.md")

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "UnitVocoder":
        """Read what `save_pretrained` wrote; computes in float32 whatever the stored type.

        Raises:
            AssetError: the folder has no config.json or model.safetensors, or is of another class or version.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise AssetError(
                    f"{folder}: no {name}, so this is not a vocoder folder (vocable vocoder train writes one)."
                )
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if description.get("vocable_class") != "UnitVocoder":
            raise AssetError(
                f"{folder}/config.json: vocable_class is {description.get('vocable_class')!r}, not 'UnitVocoder'."
            )
        if "hop_length" in description["config"]:
            raise AssetError(
                f"{folder} was trained by an older version of Vocable, for a network that is no longer here. Train it "
                "again: vocable vocoder train"
            )
        vocoder = cls(config_from_dict(VocoderConfig, description["config"], source=f"{folder}/config.json"))
        weights = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
        vocoder.load_state_dict(weights)
        return vocoder.eval()


def _make_embedding(config: VocoderConfig, rows: int, dim: int) -> nn.Embedding | CodebookEmbedding:
    if config.codebook_dim is None:
        return nn.Embedding(rows, dim)
    return CodebookEmbedding(rows, config.codebook_dim, dim)


def clean_codes(
    tokens: SpeechTokens, sizes: Sequence[int]
) -> tuple[Int[Tensor, "num_codebooks kept"], Int[Tensor, " kept"] | None]:
    """Drop columns with a negative id, and check the rest.

    Raises:
        FingerprintError: the number of codebooks or an id does not fit the vocoder.
    """
    codes, durations = tokens.codes, tokens.durations
    if codes.shape[0] != len(sizes):
        raise FingerprintError(f"The tokens have {codes.shape[0]} codebooks, but this vocoder reads {len(sizes)}.")
    kept = (codes >= 0).all(0)
    codes, durations = codes[:, kept], None if durations is None else durations[kept]
    for row, size in zip(codes, sizes, strict=True):
        if row.numel() and int(row.max()) >= size:
            raise FingerprintError(
                f"The tokens hold the id {int(row.max())}, but this vocoder was made for a codebook of {size}. "
                "Use the vocoder that belongs to their tokenizer."
            )
    return codes, durations


def _card(config: VocoderConfig, voices: Sequence[str]) -> str:
    return "\n".join(
        [
            "---",
            "library_name: vocable",
            "tags: [speech, vocoder]",
            "---",
            "",
            "# Unit vocoder",
            "",
            f"Reads {' + '.join(map(str, config.sizes))} ids at {config.token_frame_rate:g} Hz, "
            f"writes {config.decoder.sample_rate} Hz audio.",
            f"Tokenizer fingerprint: {config.tokenizer_fingerprint or 'not recorded'}.",
            f"Voices: {', '.join(voices) or 'one, without a name'}.",
            "",
            "Load it with `vocable.synthesis.UnitVocoder.from_pretrained(folder)`.",
            "",
        ]
    )
