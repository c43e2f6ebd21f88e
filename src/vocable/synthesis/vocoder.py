"""Units -> waveform: a small vocoder of ConvNeXt blocks with an inverse STFT at the end.

    units (codebooks, runs) + durations -> frames + voice + pitch -> ConvNeXt at the vocoder rate -> spectra -> samples

Family: Vocos (Siuzdak, 2023, arXiv:2306.00814). Instead of upsampling to samples inside the network, as HiFi-GAN does,
every frame predicts one short-time spectrum: the same work per second of audio is over ten times cheaper.
Weights are trained by `training/vocoder.py`. Next stage: none; this is the end of the line.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from vocable.config import config_from_dict, config_to_dict
from vocable.errors import AssetError, ConfigError, FingerprintError
from vocable.features.pitch import Pitch
from vocable.features.voice import Voice, voice_row
from vocable.files import replace_file, write_text
from vocable.synthesis.codebook import CodebookEmbedding
from vocable.synthesis.excitation import PitchPredictor, harmonic_phase, harmonics_from_phase, noise
from vocable.synthesis.layers import ConvNeXtStack, DurationPredictor, frame_signal, overlap_add
from vocable.types import SpeechTokens

LARGEST_MAGNITUDE = 1e2
"""Ceiling of exp(log magnitude), as in Vocos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocoderConfig:
    """A unit vocoder: what it reads, what it writes, and its size."""

    codebook_size: int
    """Distinct ids per codebook."""
    num_codebooks: int = 1
    """Parallel codebooks; their embeddings are summed."""
    codebook_sizes: tuple[int, ...] | None = None
    """Distinct ids of each codebook where they differ; None: `codebook_size` for each of `num_codebooks`."""
    token_frame_rate: float = 50.0
    """Token frames per second, Hz."""
    sample_rate: int = 16_000
    """Of the waveform, Hz."""
    hop_length: int = 160
    """Samples per vocoder frame; the token hop must be a multiple of it."""
    n_fft: int = 640
    """Samples per spectrum; a multiple of hop_length."""
    dim: int = 256
    """Channels of the trunk."""
    hidden_dim: int = 768
    """Channels inside a ConvNeXt block."""
    num_layers: int = 8
    """ConvNeXt blocks in the trunk."""
    kernel_size: int = 7
    """Frames per depthwise convolution; odd."""
    excitation: Literal["none", "harmonic"] = "harmonic"
    """none: the network predicts magnitude and phase, as Vocos does. harmonic: it predicts pitch, and filters harmonics
    and noise (see pitch.py), which needs far less training."""
    prosody_dim: int = 128
    """Channels of the duration and pitch predictors."""
    pitch_layers: int = 4
    """ConvNeXt blocks in the pitch predictor."""
    voices: tuple[str, ...] = ()
    """Names of the rows of the voice table; empty means that there is one voice, without a name. The first is the
    default."""
    duration_scale: float = 1.0
    """Predicted durations are multiplied by this. A mean of logarithms is below the logarithm of the mean, so that
    predictions are too short on the whole; training measures by how much."""
    collapsed: bool = True
    """What tokens without durations are: runs, whose durations are predicted (True), or one column a frame (False)."""
    tokenizer_fingerprint: str | None = None
    """Of the tokenizer that made the training tokens; None is not checked."""
    codebook_dim: int | None = None
    """Length of the vectors that units stand for. Set, units are embedded by their vectors, and the vocoder serves any
    codebook of the same encoder (`for_codebook`); None: a table with a row per id, for one codebook."""
    encoder_fingerprint: str | None = None
    """With `codebook_dim`: of the encoder in whose space the vectors lie."""

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
        if self.n_fft % self.hop_length or self.n_fft < 2 * self.hop_length or (self.n_fft - self.hop_length) % 2:
            raise ConfigError(
                f"vocoder.n_fft is {self.n_fft}; it must be a multiple of hop_length ({self.hop_length}), at least "
                "twice it, with an even difference. Common: n_fft = 4 * hop_length."
            )
        token_hop = self.sample_rate / self.token_frame_rate
        if token_hop != int(token_hop) or int(token_hop) % self.hop_length:
            raise ConfigError(
                f"vocoder.hop_length is {self.hop_length}, but a token lasts {token_hop:g} samples "
                f"({self.sample_rate} Hz / {self.token_frame_rate:g} Hz). Choose a hop_length that divides it."
            )
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"vocoder.kernel_size is {self.kernel_size}; an odd number keeps frames in the middle.")
        if len(set(self.voices)) != len(self.voices):
            raise ConfigError("vocoder.voices names a voice twice.")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Distinct ids of each codebook."""
        return self.codebook_sizes or (self.codebook_size,) * self.num_codebooks

    @property
    def token_hop(self) -> int:
        """Samples per token frame."""
        return int(self.sample_rate / self.token_frame_rate)


class UnitVocoder(nn.Module):
    """Turn units, or codes of several codebooks, into waveforms."""

    window: Tensor
    first_row: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        rows, num_voices = sum(config.sizes), len(config.voices)
        self.unit_embedding = _make_embedding(config, rows, config.dim)
        self.prosody_embedding = _make_embedding(config, rows, config.prosody_dim)
        self.voice_embedding = nn.Embedding(num_voices, config.dim) if num_voices else None
        self.prosody_voice = nn.Embedding(num_voices, config.prosody_dim) if num_voices else None
        self.duration_predictor = DurationPredictor(config.prosody_dim, config.prosody_dim)
        self.trunk = ConvNeXtStack(config.dim, config.hidden_dim, config.num_layers, config.kernel_size)
        has_pitch = config.excitation == "harmonic"
        self.pitch_predictor = (
            PitchPredictor(config.prosody_dim, config.pitch_layers, config.kernel_size) if has_pitch else None
        )
        self.pitch_in = nn.Linear(2, config.dim) if has_pitch else None
        self.head = nn.Linear(config.dim, (3 if has_pitch else 2) * (config.n_fft // 2 + 1))
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        sizes = torch.tensor(config.sizes)
        self.register_buffer("first_row", sizes.cumsum(0) - sizes, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every layer here has a bias
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms, Hz."""
        return self.config.sample_rate

    @property
    def voices(self) -> list[str]:
        """Names that `synthesize` accepts as `voice`; the first is the default."""
        return list(self.config.voices)

    @property
    def reach(self) -> int:
        """Token frames to either side that can change a sample: the context that streaming keeps."""
        config = self.config
        overlap = -(-(config.n_fft - config.hop_length) // (2 * config.hop_length))
        frames = self.trunk.reach + overlap
        tokens = -(-frames * config.hop_length // config.token_hop)
        return tokens + (self.pitch_predictor.reach + 2 if self.pitch_predictor is not None else 0)

    def voice_index(self, voice: Voice | None) -> int | None:
        """Row of a voice in the table; None when there is no table. Errors are those of `voice_row`."""
        return voice_row(voice, self.config.voices)

    def embed(
        self,
        codes: Int[Tensor, "batch num_codebooks positions"],
        voice: Int[Tensor, " batch"] | None,
        table: nn.Embedding | CodebookEmbedding,
        voices: nn.Embedding | None,
    ) -> Float[Tensor, "batch positions dim"]:
        """Sum the embeddings of all codebooks and of the voice."""
        frames = table(codes + self.first_row[:, None]).sum(1)
        return frames if voices is None else frames + voices(voice)[:, None]

    def prosody_input(
        self, codes: Int[Tensor, "batch num_codebooks positions"], voice: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch positions dim"]:
        """What the duration predictor reads (for runs) and the pitch predictor (for frames)."""
        return self.embed(codes, voice, self.prosody_embedding, self.prosody_voice)

    def forward(self, *arguments: object, **settings: object) -> Float[Tensor, "batch samples"]:
        """Same as `decode`: what wrappers for distributed training call."""
        return self.decode(*arguments, **settings)  # type: ignore[arg-type]  # passed through

    def decode(
        self,
        codes: Int[Tensor, "batch num_codebooks frames"],
        voice: Int[Tensor, " batch"] | None,
        pitch: Pitch | None,
        start: int = 0,
        phase: float = 0.0,
    ) -> Float[Tensor, "batch samples"]:
        """Turn token frames, pitch at the token frame rate, and voices into frames * token_hop samples.

        `start` (samples) chooses the stretch of noise and `phase` (radians) is where the harmonics begin: streaming
        sets both so that its chunks continue each other.
        """
        config = self.config
        ratio = config.token_hop // config.hop_length
        frames = self.embed(codes, voice, self.unit_embedding, self.voice_embedding)
        if self.pitch_in is not None:
            assert pitch is not None
            voiced = pitch.voiced.float()
            frames = frames + self.pitch_in(torch.stack([pitch.log_f0.float() * voiced, voiced], -1))
        frames = frames.repeat_interleave(ratio, dim=1)
        outputs = self.head(self.trunk(frames)).float()
        excitation = None if pitch is None else self._excitation(pitch, start, phase)
        return overlap_add(self._spectra(outputs, excitation), self.window, config.hop_length)

    def _excitation(self, pitch: Pitch, start: int, phase: float) -> tuple[Tensor, Tensor]:
        """Short-time spectra of the harmonics and of the noise, at unit power."""
        config = self.config
        tones = harmonics_from_phase(harmonic_phase(pitch, config.sample_rate, config.token_hop), phase)
        hiss = noise(tones.shape[1], start, tones.device).expand_as(tones)
        unit = self.window.square().sum().sqrt()
        return (
            frame_signal(tones, self.window, config.hop_length) / unit,
            frame_signal(hiss, self.window, config.hop_length) / unit,
        )

    def _spectra(
        self, outputs: Float[Tensor, "batch frames values"], excitation: tuple[Tensor, Tensor] | None
    ) -> Complex[Tensor, "batch frames bins"]:
        """Exponentiate magnitudes, clipped, and turn by the phase; filter the excitation where there is one."""
        bins = self.config.n_fft // 2 + 1
        log_magnitude, phase, *rest = outputs.split(bins, dim=-1)
        magnitude = log_magnitude.exp().clamp(max=LARGEST_MAGNITUDE)
        turned = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        if excitation is None:
            return turned
        tones, hiss = excitation
        return tones * turned + hiss * rest[0].exp().clamp(max=LARGEST_MAGNITUDE)

    @torch.inference_mode()
    def synthesize(
        self, tokens: Sequence[SpeechTokens], voice: Voice | None = None
    ) -> list[Float[Tensor, " _samples"]]:
        """Turn tokens into waveforms, each by itself, so that results do not depend on what stands beside them.

        Durations are used where the tokens have them, else predicted (see VocoderConfig.collapsed). Columns with an id
        below 0 are dropped, as published vocoders do. No tokens give no samples.

        Raises:
            FingerprintError: an id is outside the codebook.
            UnknownNameError: there is no such voice.
            ConfigError: the voice is a recording or a vector.
        """
        row = self.voice_index(voice)
        device = self.unit_embedding.weight.device
        index = None if row is None else torch.tensor([row], device=device)
        results = []
        for item in tokens:
            frames = self.to_frames(item, index)
            results.append(self._synthesize_frames(frames, index) if frames.shape[-1] else torch.zeros(0))
        return results

    def to_frames(
        self, tokens: SpeechTokens, voice: Int[Tensor, " batch"] | None
    ) -> Int[Tensor, "num_codebooks frames"]:
        """Check codes, drop negative ones, and repeat each run by its duration, given or predicted."""
        codes, durations = clean_codes(tokens, self.config.sizes)
        codes = codes.to(self.unit_embedding.weight.device)
        if durations is None and self.config.collapsed and codes.shape[1]:
            inputs = self.prosody_input(codes[None], voice)
            durations = self.duration_predictor.durations(inputs, self.config.duration_scale)[0]
        return codes if durations is None else codes.repeat_interleave(durations.to(codes.device), dim=1)

    def predict_pitch(
        self, frames: Int[Tensor, "num_codebooks frames"], voice: Int[Tensor, " batch"] | None
    ) -> Pitch | None:
        """Pitch of every token frame, or None where the vocoder has no pitch of its own."""
        if self.pitch_predictor is None:
            return None
        return self.pitch_predictor.pitch(self.prosody_input(frames[None], voice))

    def _synthesize_frames(
        self, frames: Int[Tensor, "num_codebooks frames"], voice: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, " samples"]:
        waveform = self.decode(frames[None], voice, self.predict_pitch(frames, voice))
        return waveform[0].clamp(-1, 1).cpu()

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Fingerprint of the tokenizer whose tokens it reads; None where it is not recorded."""
        return self.config.tokenizer_fingerprint

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
        size = len(codebook)
        config = replace(
            self.config,
            codebook_size=size,
            num_codebooks=1,
            codebook_sizes=None,
            tokenizer_fingerprint=tokenizer_fingerprint,
        )
        other = UnitVocoder(config)
        tables = {
            f"{name}.{part}" for name in ("unit_embedding", "prosody_embedding") for part in ("codebook", "log_size")
        }
        weights = {key: value for key, value in self.state_dict().items() if key not in tables}
        other.load_state_dict(weights, strict=False)
        other.set_codebooks([codebook])
        return other.to(self.window.device).eval()

    def with_voices(self, names: Sequence[str]) -> "UnitVocoder":
        """A copy that keeps only these voices, in this order."""
        rows = torch.tensor([self.voice_index(name) for name in names])
        smaller = UnitVocoder(replace(self.config, voices=tuple(names)))
        weights = self.state_dict()
        for key in ("voice_embedding.weight", "prosody_voice.weight"):
            weights[key] = weights[key][rows]
        smaller.load_state_dict(weights)
        return smaller.eval()

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
            AssetError: the folder has no config.json or model.safetensors, or is of another class.
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
            f"writes {config.sample_rate} Hz audio.",
            f"Tokenizer fingerprint: {config.tokenizer_fingerprint or 'not recorded'}.",
            f"Voices: {', '.join(voices) or 'one, without a name'}.",
            "",
            "Load it with `vocable.synthesis.UnitVocoder.from_pretrained(folder)`.",
            "",
        ]
    )
