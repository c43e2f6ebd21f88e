"""A tokenizer by word trains with the unit decoder in all three parts, is saved with it, and speaks."""

import torch

from tiny import make_tiny_tokenizer, make_tiny_vocoder, save_tiny_whisper, write_speech
from vocable.audio.io import read_clip
from vocable.audio.manifest import read_manifest
from vocable.features import EncoderConfig
from vocable.features.speaker import SpeakerEncoder
from vocable.systems.taste.config import GridConfig, TasteConfig
from vocable.systems.taste.recipe import PartConfig, TasteRecipe, TasteTrainingConfig
from vocable.systems.taste.relative_transformer import BlockConfig
from vocable.systems.taste.stages import train_tokenizer
from vocable.systems.taste.unit_decoder import UnitDecoderConfig
from vocable.systems.taste.unit_network import UnitNetworkConfig
from vocable.tokens import load_tokenizer


def test_a_tokenizer_trains_and_speaks_with_units(tmp_path, make_speechlike):
    manifest = write_speech(tmp_path / "speech", make_speechlike, 6, texts=["the cat sat", "rivers and hills far away"])
    units = make_tiny_tokenizer()
    units.save_pretrained(tmp_path / "units")
    make_tiny_vocoder(units).save_pretrained(tmp_path / "vocoder")
    blocks = BlockConfig(num_blocks=1, width=16, num_heads=2, feedforward_dim=32)
    network = UnitNetworkConfig(
        text_encoder=blocks, word_encoder=blocks, language_model=blocks, embedding_dim=8, speaker_dim=12
    )
    part = PartConfig(
        max_steps=4, batch_seconds=8.0, learning_rate=3e-3, warmup_steps=1, precision="fp32", log_every=1,
        validate_every=4, checkpoint_every=4,
    )  # fmt: skip
    encoder = EncoderConfig(name=str(save_tiny_whisper(tmp_path / "whisper")), layer=3)
    config = TasteRecipe(
        tokenizer=TasteConfig(encoder=encoder, shallow_layer=1, quantizer=GridConfig(levels=(4, 4), num_groups=2)),
        decoder=UnitDecoderConfig(
            units=str(tmp_path / "units"), synthesizer=str(tmp_path / "vocoder"), voice="default", network=network,
            most_units=4.0,
        ),
        training=TasteTrainingConfig(text_only=part, continuous=part, quantized=part),
        valid_share=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    speakers = SpeakerEncoder(16, 12).eval()
    utterances = read_manifest(manifest)
    results = train_tokenizer(config, utterances, tmp_path / "run", speaker_encoder=speakers, device="cpu", show=False)
    losses = [line["loss"] for result in results.values() for line in result.train_curve]
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    for result in results.values():
        last = result.valid_curve[-1]
        assert 0 <= last["accuracy_top1"] <= last["accuracy_top5"] <= 1
    tokenizer = load_tokenizer(tmp_path / "run" / "tokenizer")
    (tokens,) = tokenizer.encode([read_clip(utterances[1], tokenizer.sample_rate)])
    (sound,) = tokenizer.decode([tokens])
    assert tokens.codes.shape == (2, 5) and tokenizer.decode_rate == 16_000 and len(sound) > 1_600
    assert torch.equal(tokenizer.decode([tokens])[0], sound)
