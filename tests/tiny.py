"""Tiny random models in folders, and a little speech, for tests that run whole commands."""

import copy
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from features.tiny_encoders import save_tiny
from sequences.joint_examples import text_tokenizer
from vocable.audio.manifest import write_manifest
from vocable.audio.writing import write_audio
from vocable.features import EncoderConfig, load_encoder
from vocable.lm.checkpoint import LMCard, save_lm
from vocable.lm.surgery import UnitLMConfig, build_lm
from vocable.sequences.joint_layouts import make_layout
from vocable.sequences.joint_vocabulary import joint_vocabulary
from vocable.sequences.layouts import UnitsLayout
from vocable.sequences.subwords import UnitSubwords
from vocable.sequences.vocabulary import UnitVocabulary
from vocable.synthesis import UnitVocoder, VocoderConfig
from vocable.synthesis.source_filter import SourceFilterConfig
from vocable.synthesis.unit_frontend import FrontendConfig
from vocable.tokens.kmeans import KMeans, KMeansConfig
from vocable.tokens.unit_tokenizer import UnitTokenizer, UnitTokenizerConfig
from vocable.types import Utterance, Word

WORDS = ["the", "cat", "sat", "on", "mats", "by", "rivers", "and", "hills", "far", "away", "."]
TINY_FRONTEND = FrontendConfig(dim=8, hidden_dim=16, token_layers=1, frame_layers=1, kernel_size=3)
TINY_DECODER = SourceFilterConfig(
    content_dim=4, dim=8, hidden_dim=16, num_layers=1, kernel_size=3, sample_rate=16_000, hop_length=200, n_fft=400
)
_LANGUAGE_MODELS = {
    "opt": {"num_attention_heads": 4, "ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": True},
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": True},
}


def save_tiny_encoder(published: str, folder: Path) -> Path:
    """Write a tiny random encoder of the family that a published name belongs to."""
    return save_tiny("whisper" if "whisper" in published else "hubert-base", folder)


def save_tiny_lm(published: str, folder: Path, positions: int = 2048) -> Path:
    """Write a tiny random language model of the family that a published name belongs to."""
    family = next(f for f, word in (("opt", "opt"), ("qwen2", "Qwen"), ("llama", "SmolLM")) if word in published)
    config = AutoConfig.for_model(
        family,
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        max_position_embeddings=positions,
        **_LANGUAGE_MODELS[family],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_speech(folder: Path, make_speechlike, count: int = 12, texts=None) -> Path:
    """Write a few short recordings and their manifest; return the manifest. With texts, words share out the time."""
    utterances = []
    for index in range(count):
        path = folder / f"clip{index:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        waveform = make_speechlike(16_000 + 2_400 * index, seed=index)
        write_audio(path, waveform, 16_000)
        duration, text, words = len(waveform) / 16_000, "one two", None
        if texts is not None:
            text = texts[index % len(texts)]
            step = duration / len(text.split())
            words = tuple(Word(word=w, start=i * step, end=(i + 1) * step) for i, w in enumerate(text.split()))
        utterances.append(
            Utterance(id=path.stem, audio=path, duration=duration, speaker=f"s{index % 3}", text=text, words=words)
        )
    write_manifest(utterances, folder / "manifest.jsonl")
    return folder / "manifest.jsonl"


def make_tiny_recogniser():
    """Whisper with two narrow layers, random weights, a vocabulary of twelve words and at most six of them.

    Returns the model, its feature extractor and its tokenizer; each has `save_pretrained`.
    """
    import tokenizers
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Whisper

    vocabulary = {word: index for index, word in enumerate(["<end>", "<start>", "<pad>", *WORDS, "<notimestamps>"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="."))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="<pad>", bos_token="<start>"
    )
    torch.manual_seed(1)
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        eos_token_id=0,
        bos_token_id=1,
        decoder_start_token_id=1,
        pad_token_id=2,
        init_std=1.0,
        max_target_positions=12,
    )
    model = Whisper(config)
    model.generation_config._from_model_config = False  # else transformers drops what only Whisper has on saving
    model.generation_config.suppress_tokens = [1, 2, vocabulary["<notimestamps>"]]
    model.generation_config.begin_suppress_tokens = [0]
    model.generation_config.no_timestamps_token_id = vocabulary["<notimestamps>"]  # type: ignore[attr-defined]  # of Whisper alone
    return model, WhisperFeatureExtractor(feature_size=80), tokenizer


def save_tiny_recogniser(folder: Path) -> Path:
    """Write `make_tiny_recogniser` as a checkpoint."""
    for part in make_tiny_recogniser():
        part.save_pretrained(folder)
    return folder


def save_tiny_whisper(folder: Path, multilingual: bool = True, seed: int = 0) -> Path:
    """Write a Whisper with three encoder and two decoder layers, random weights, and a byte-level text tokenizer."""
    from transformers import WhisperConfig, WhisperFeatureExtractor
    from transformers import WhisperForConditionalGeneration as Whisper

    text = copy.deepcopy(text_tokenizer())
    languages = ["<|en|>", "<|de|>"]
    symbols = ["<|startoftranscript|>", *languages, "<|transcribe|>", "<|notimestamps|>"]
    text.add_special_tokens({"additional_special_tokens": symbols})
    config = WhisperConfig(
        d_model=32, encoder_layers=3, encoder_attention_heads=4, encoder_ffn_dim=64, decoder_layers=2,
        decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=len(text), num_mel_bins=80, init_std=0.2,
        max_target_positions=120, pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Whisper(config)
        with torch.no_grad():  # norms and biases other than 1 and 0, which would hide one left out
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    model.generation_config._from_model_config = False  # else transformers drops what only Whisper has on saving
    model.generation_config.is_multilingual = multilingual  # type: ignore[attr-defined]
    for part in (model, WhisperFeatureExtractor(feature_size=80), text):
        part.save_pretrained(folder)
    return folder


def make_tiny_tokenizer() -> UnitTokenizer:
    """Eight units of log-mel frames."""
    generator = torch.Generator().manual_seed(0)
    encoder = load_encoder(EncoderConfig(name="log-mel", layer=0))
    kmeans = KMeans(torch.randn(8, encoder.dim, generator=generator) * 3)
    config = UnitTokenizerConfig(
        encoder=EncoderConfig(name="log-mel", layer=0), kmeans=KMeansConfig(num_clusters=8, init_frames=8)
    )
    return UnitTokenizer(encoder, kmeans, config)


def make_tiny_vocoder(tokenizer: UnitTokenizer) -> UnitVocoder:
    """A random vocoder for the units of `make_tiny_tokenizer`."""
    torch.manual_seed(0)
    config = VocoderConfig(
        codebook_size=8,
        token_frame_rate=tokenizer.frame_rate or 50.0,
        frontend=TINY_FRONTEND,
        decoder=TINY_DECODER,
        prosody_dim=8,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    return UnitVocoder(config).eval()


def save_tiny_joint_run(folder: Path, tokenizer: UnitTokenizer, subwords: UnitSubwords | None = None) -> Path:
    """Write a run with a random language model of speech and text: `tokenizer/`, `vocoder/` and `lm/best/`."""
    tokenizer.save_pretrained(folder / "tokenizer")
    make_tiny_vocoder(tokenizer).save_pretrained(folder / "vocoder")
    vocabulary = joint_vocabulary(text_tokenizer(), subwords or tokenizer.codebook_size)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary.size,
        hidden_size=32,
        num_hidden_layers=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        **_LANGUAGE_MODELS["llama"],
    )
    torch.manual_seed(0)
    card = LMCard(
        vocabulary=vocabulary,
        layout=make_layout("cst", vocabulary).card(),
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_card=tokenizer.card(),
        unit_seconds=(0.03,) * tokenizer.codebook_size,
    )
    model = AutoModelForCausalLM.from_config(config)
    save_lm(model, folder / "lm" / "best", card, text_tokenizer=text_tokenizer(), subwords=subwords)
    return folder


def save_tiny_unit_run(folder: Path, tokenizer: UnitTokenizer) -> Path:
    """Write a run with a random language model of units: `tokenizer/`, `vocoder/` and `lm/last/`."""
    tokenizer.save_pretrained(folder / "tokenizer")
    make_tiny_vocoder(tokenizer).save_pretrained(folder / "vocoder")
    vocabulary = UnitVocabulary(codebook_size=tokenizer.codebook_size)
    text_model = save_tiny_lm("opt", folder / "text-model")
    card = LMCard(
        vocabulary=vocabulary,
        layout=UnitsLayout(vocabulary=vocabulary).card(),
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_card=tokenizer.card(),
        unit_seconds=(0.03,) * tokenizer.codebook_size,
    )
    save_lm(build_lm(UnitLMConfig(text_model=str(text_model)), vocabulary), folder / "lm" / "last", card)
    return folder
