"""Everything that an LM-SPT recipe sets; defaults live here and in the configs that are named here.

The defaults are our CPU preset at 12.5 Hz. Published settings are in recipes/lm-spt, with what is not known of them.
"""

from dataclasses import dataclass, field
from typing import Literal

from vocable.errors import ConfigError
from vocable.features.config import EncoderConfig
from vocable.splits import check_valid_share
from vocable.synthesis.discriminators import DiscriminatorConfig
from vocable.systems.lm_spt.acoustics_training import AcousticsConfig
from vocable.systems.lm_spt.conv_transformer import ConvTransformerConfig
from vocable.systems.lm_spt.decoders import SourceFilterCodecConfig
from vocable.systems.lm_spt.distillation import DistillationConfig, TeacherConfig
from vocable.systems.lm_spt.mel import MelEncoderConfig
from vocable.systems.lm_spt.networks import DecoderChoice, EncoderChoice
from vocable.systems.lm_spt.speech_text import SpeechTextConfig
from vocable.systems.lm_spt.vocos import VocosDecoderConfig
from vocable.tokens.quantizers import ResidualQuantizerConfig, SplitQuantizerConfig, VectorQuantizerConfig
from vocable.training.config import TrainingConfig
from vocable.training.vocoder_losses import AdversarialKind


def _quantizer() -> SplitQuantizerConfig:
    """One semantic and seven acoustic levels of 2,048 codes (the paper's numbers at 12.5 Hz), over 32 numbers."""
    level = VectorQuantizerConfig(dim=32, codebook_size=2048, init_batches=20, decay=0.99)
    return SplitQuantizerConfig(
        semantic=level, acoustic=ResidualQuantizerConfig(level=level, num_levels=7, dropout=0.5)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """The networks of a codec."""

    sample_rate: int = 24_000
    """Samples per second that the encoders read and the main decoder writes, Hz. Published: 24 kHz (release), 16 kHz
    (paper)."""
    frame_rate: float = 12.5
    """Tokens per second, Hz."""
    dim: int = 32
    """Numbers between encoders, quantizer and decoders, for each token."""
    encoder: EncoderChoice = field(default_factory=MelEncoderConfig)
    """The network from waveforms to vectors; there are two of them, one for each stream."""
    shared: Literal["nothing", "transformer", "encoder"] = "nothing"
    """Parts that both encoders share: none, as in the release; the transformer of a `conv_transformer`, as the paper's
    first version seems to; or all, which is one encoder for both streams."""
    quantizer: SplitQuantizerConfig = field(default_factory=_quantizer)
    decoder: DecoderChoice = field(default_factory=SourceFilterCodecConfig)
    """The network from the vectors of all levels to speech."""
    auxiliary: DecoderChoice = field(
        default_factory=lambda: VocosDecoderConfig(
            dim=128, hidden_dim=384, num_layers=2, upsample=(2, 2, 2), fine_layers=1
        )
    )
    """The network from the semantic vectors alone to speech. Distillation listens to it, and it speaks what language
    models write. The paper finds that a small one distils better."""

    def __post_init__(self) -> None:
        if self.frame_rate <= 0 or self.sample_rate % self.frame_rate:
            raise ConfigError(
                f"codec.frame_rate is {self.frame_rate}; a token must take a whole number of samples at "
                f"{self.sample_rate} Hz (codec.sample_rate)."
            )
        if self.shared == "transformer" and not isinstance(self.encoder, ConvTransformerConfig):
            raise ConfigError(f"codec.shared is 'transformer', but an encoder of kind {self.encoder.kind!r} has none.")
        if self.quantizer.semantic.dim != self.dim:
            raise ConfigError(
                f"codec.dim is {self.dim}, but codec.quantizer.semantic.dim is {self.quantizer.semantic.dim}: the "
                "quantizer reads what the encoders write, so both must be the same."
            )
        for name in ("decoder", "auxiliary"):
            rate = getattr(self, name).sample_rate
            if rate % self.frame_rate:
                raise ConfigError(
                    f"codec.{name} writes {rate} samples a second, which {self.frame_rate} tokens cannot share evenly."
                )
        if self.decoder.sample_rate != self.sample_rate:
            raise ConfigError(
                f"codec.decoder writes {self.decoder.sample_rate} Hz, but codec.sample_rate is {self.sample_rate}: "
                "speech is compared with what was read. Set both to the same rate."
            )

    @property
    def hop_length(self) -> int:
        """Samples per token."""
        return round(self.sample_rate / self.frame_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecTrainingConfig(TrainingConfig):
    """How a codec is trained. Its tokens are crops; a step's batches are numbered, whatever process draws them."""

    batch_size: int = 8
    """Crops per batch."""
    crop_seconds: float = 1.6
    """Length of a crop; shorter recordings are filled up with silence."""
    loudness_db: float | None = -27.0
    """RMS level that every recording is brought to, dB below full scale; None leaves levels alone, as published."""
    gain_db: tuple[float, float] = (-9.0, 6.0)
    """Range from which a gain is drawn for each crop, dB, so that the codec keeps levels. Published: none."""
    learning_rate: float = 1e-3
    """Highest rate of the generator; linear warm-up, then cosine."""
    pretrained_learning_rate: float = 3e-4
    """Highest rate of a source-filter decoder that starts from pretrained weights (`start` or `fine_tune`)."""
    discriminator_learning_rate: float = 2e-4
    """Highest rate of the discriminators. (The release trains them at 1e-3, by what looks like a mistake.)"""
    final_learning_rate_ratio: float = 0.02
    """End of the cosine, as a share of the highest rate (release: 0.25)."""
    warmup_steps: int = 50
    """Steps of linear increase to the highest rates (release: 100)."""
    beta1: float = 0.8
    """AdamW's decay of the mean gradient, as published."""
    beta2: float = 0.98
    """AdamW's decay of the squared gradient (release: 0.9)."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    waveform_from: float = 0.0
    """Share of the run after which sound is made and compared with the recording. Before it, a decoder that predicts
    content learns content, pitch, energy and voice, several times as fast; other decoders always make sound."""
    quantize_from: float = 0.05
    """Share of the run after which vectors are quantized; before that, they go straight to the decoder."""
    adversarial_from: float | None = None
    """Share of the run after which the discriminators join (release: 0); None: never."""
    adversarial_kind: AdversarialKind = "least_squares"
    """Form of the adversarial loss."""
    adversarial_crop_seconds: float | None = 0.8
    """Only this much of each crop, at a random place, is judged by the discriminators; None judges all of it."""
    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    top_hz: float | None = 7600.0
    """Highest frequency at which speech is compared with recordings; None: half the sample rate. Recordings of 16 kHz
    hold nothing above 8 kHz."""
    loss_scale: Literal["relative", "dac"] = "relative"
    """Scale of the mel distance and of what discriminators say. `relative`: averages over windows, discriminators and
    layers, of magnitudes and features relative to their usual size, so that weights near 1 do. `dac`: sums of absolute
    differences, as in DAC and the release of LM-SPT."""
    mel_weight: float = 1.0
    """Weight of the mel distance over several window sizes (release: 15)."""
    stft_weight: float = 1.0
    """Weight of the distance of spectra over several window sizes (published: none)."""
    listener: EncoderConfig | None = None
    """A frozen encoder whose last three layers hear the made and the recorded speech; their difference is a loss.
    Published: none."""
    listener_weight: float = 1.0
    """Weight of what the listener hears."""
    quantizer_weight: float = 1.0
    """Weight of the quantizers' own losses, commitment and codebook, which have weights of their own."""
    prosody_weight: float = 0.5
    """Weight of pitch, voicing, energy and voice, where the decoder predicts them."""
    content_weight: float = 0.0
    """Weight of the error of content in recordings whose phonemes the manifest knows (`symbols` or `phones`; see
    `vocable vocoder align`), for a decoder that predicts it: it learns in minutes what to say. Above 0, the asset
    `hibari` is needed. Published: none."""
    auxiliary_weight: float = 0.0
    """Weight of the mel distance of the auxiliary decoder's speech, which then sounds better. Its gradient stays in
    that decoder and tells the tokens nothing. Published: none."""
    adversarial_weight: float = 1.0
    """Weight of the discriminators' verdict."""
    feature_weight: float = 2.0
    """Weight of feature matching."""
    max_gradient_norm: float | None = 1.0
    """Gradients longer than this are shortened to it, as published; None: never."""
    ema_decay: float | None = 0.999
    """Decay of the averaged weights, which are the ones that are saved; None: no averaging, as published."""
    num_workers: int = 0
    """Processes that prepare batches."""
    validation_utterances: int = 16
    """Recordings that are validated on, at most."""
    validation_seconds: float = 8.0
    """Longest part of a recording that is validated on."""
    validation_examples: int = 3
    """Recordings whose speech and spectrograms are shown at each validation, in TensorBoard and in progress.html; 0:
    none."""
    log_every: int = 25
    """Steps between lines of metrics.jsonl; each is the mean since the line before."""
    validate_every: int | None = 1000
    """Steps between validations; None: only at the end."""
    checkpoint_every: int | None = 500
    """Steps between checkpoints; None: only at the end."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        self.require_at_least(batch_size=1, warmup_steps=0, num_workers=0)
        self.require_at_least(validation_utterances=0, validation_examples=0)
        self.require_above_zero("crop_seconds", "learning_rate", "pretrained_learning_rate", "validation_seconds")
        self.require_above_zero("discriminator_learning_rate")
        if self.loss_scale == "dac" and self.top_hz is not None:
            raise ConfigError(
                f"training.top_hz is {self.top_hz}, but DAC's mel distance (training.loss_scale) has no such limit. "
                "Set training.top_hz to null."
            )
        for name in ("waveform_from", "quantize_from", "adversarial_from"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"training.{name} is {share}; it is a share of the run, 0 to 1.")
        if self.gain_db[0] > self.gain_db[1]:
            raise ConfigError(f"training.gain_db is {self.gain_db}; it names the lowest and the highest gain.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LmSptConfig:
    """A codec whose semantic code is distilled by resynthesis, and its training (LM-SPT, arXiv:2506.16738)."""

    training: CodecTrainingConfig
    system: Literal["lm-spt"] = "lm-spt"
    name: str = "lm-spt"
    """Name of the tokenizer for people."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    distillation: DistillationConfig = field(
        default_factory=lambda: DistillationConfig(
            weight=1.0,
            teacher=TeacherConfig(encoder=EncoderConfig(name="openai/whisper-tiny.en", layer=4), padding="crop"),
        )
    )
    start: str | None = None
    """Unit vocoder or codec whose source-filter decoder is the start of one that learns (codec.decoder.weights is
    null), a folder or a shipped name; None: random weights."""
    fine_tune: str | None = None
    """Trained codec, a folder or a shipped name, whose weights are the start; None: none. With another rate or other
    codebooks, the weights of the networks that have the same shapes are, and codebooks are fitted anew."""
    speaker_encoder: str = "resemblyzer"
    """Speaker encoder whose vectors a source-filter decoder learns to predict: an asset or a folder."""
    valid_share: float = 0.02
    """Share of the recordings, chosen by the hash of their id, to validate on where neither a validation manifest is
    given nor the manifest says who is held out."""
    speech_text: SpeechTextConfig | None = None
    """Language model that transcribes and speaks the semantic tokens; None: none is trained."""
    acoustics: AcousticsConfig | None = None
    """Predictor of the acoustic levels of semantic tokens; None: none is trained."""

    def __post_init__(self) -> None:
        check_valid_share(self.valid_share)
        if self.training.crop_seconds * self.codec.frame_rate < 1:
            raise ConfigError(
                f"training.crop_seconds is {self.training.crop_seconds}, shorter than a token, which lasts "
                f"{1 / self.codec.frame_rate:g} s (codec.frame_rate). Make crops longer."
            )

    @property
    def crop_tokens(self) -> int:
        """Tokens of a crop."""
        return int(self.training.crop_seconds * self.codec.frame_rate + 1e-6)
