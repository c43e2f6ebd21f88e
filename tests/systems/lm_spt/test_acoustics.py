"""Acoustic levels from semantic codes: the loss by hand, no level too early, greedy decoding, prompts, training."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tiny import make_tiny_tokenizer, write_speech
from tokens.example_tokenizers import SineCodec
from vocable.audio.io import Audio, read_audio
from vocable.audio.manifest import absolute, read_manifest
from vocable.cli import main
from vocable.errors import ConfigError, FingerprintError
from vocable.features.frame_transformer import FrameTransformerConfig
from vocable.synthesis.opening import load_synthesizer
from vocable.systems.from_speech import tokenize_manifest
from vocable.systems.lm_spt import acoustics_training as training
from vocable.systems.lm_spt.acoustics import AcousticPredictor, Codes, PredictorConfig, codes_of
from vocable.systems.lm_spt.acoustics_training import AcousticsConfig, AcousticsTrainingConfig, collate
from vocable.tokens.fingerprint import fingerprint
from vocable.tokens.shards import TokenShards
from vocable.tokens.tokenizer import SpeechTokenizer, register_tokenizer
from vocable.training.logs import read_metrics
from vocable.training.loop import fit
from vocable.types import Clip, SpeechTokens, Stream, Utterance

SMALL = FrameTransformerConfig(
    num_layers=2, width=32, num_heads=2, feedforward_dim=64, dropout=0.0, attention="full", reach_frames=None
)
HOP = 320
SIZES = (8, 5)


@register_tokenizer("twins")
class Twins(SpeechTokenizer):
    """Loudness of frames as semantic codes; a level that follows from them, and one by the length of the recording."""

    name, sample_rate = "twins", 16_000

    def __init__(self, salt: int = 0) -> None:
        self.salt = salt
        self.synthesizer = TwinsSynthesizer(self.fingerprint)

    @property
    def streams(self) -> tuple[Stream, ...]:
        rate = self.sample_rate / HOP
        return (
            Stream(name="semantic", codebook_sizes=(8,), rate=rate),
            Stream(name="acoustic", codebook_sizes=SIZES, rate=rate),
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint({"type": self.tokenizer_type, "salt": self.salt})

    def encode_clips(self, clips: Sequence[Clip], batching: str) -> list[SpeechTokens]:
        return [self._encode(clip.waveform) for clip in clips]

    def _encode(self, waveform: Tensor) -> SpeechTokens:
        frames = waveform[: len(waveform) // HOP * HOP].view(-1, HOP)
        semantic = ((10 * torch.log10(frames.square().mean(1) + 1e-9) + 60) / 6).long().clamp(0, 7)
        acoustic = torch.stack([semantic * 3 % 8, torch.full_like(semantic, voice_of(waveform))])
        return SpeechTokens(
            streams={"semantic": SpeechTokens(codes=semantic[None]), "acoustic": SpeechTokens(codes=acoustic)}
        )

    def saved_config(self) -> dict:
        return {"salt": self.salt}

    def saved_tensors(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def from_saved(cls, config, tensors, device, source) -> "Twins":
        return cls(config["salt"])


def voice_of(waveform: Tensor) -> int:
    return len(waveform) // 2400 % 5


class TwinsSynthesizer:
    """A constant for each frame, which says which codes were given."""

    sample_rate = 8_000
    voices = ()

    def __init__(self, tokenizer_fingerprint: str) -> None:
        self.tokenizer_fingerprint = tokenizer_fingerprint

    def synthesize(self, tokens: Sequence[SpeechTokens], voice=None) -> list[Tensor]:
        values = []
        for item in tokens:
            semantic, acoustic = item.stream("semantic").codes[0], item.stream("acoustic").codes
            values.append(((semantic * 100 + acoustic[0] * 10 + acoustic[1]) / 1000).repeat_interleave(HOP // 2))
        return values


CONFIG = AcousticsConfig(
    predictor=PredictorConfig(transformer=SMALL),
    training=AcousticsTrainingConfig(
        max_steps=4, batch_size=4, crop_frames=40, warmup_steps=1, precision="fp32", log_every=1, validate_every=2,
        checkpoint_every=2,
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory, make_speechlike):
    folder = tmp_path_factory.mktemp("acoustics")
    write_speech(folder / "speech", make_speechlike, count=15)
    Twins().save_pretrained(folder / "tokenizer")
    tokenize_manifest(folder / "speech" / "manifest.jsonl", folder / "tokens", str(folder / "tokenizer"))
    return folder


def predictor(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AcousticPredictor(PredictorConfig(transformer=SMALL, **settings), 8, SIZES)
        for parameter in model.parameters():  # so that everything that is read shows
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def random_codes(frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randint(0, size, (frames,), generator=generator) for size in SIZES]
    return Codes(torch.randint(0, 8, (frames,), generator=generator), torch.stack(levels))


def forward(model, codes, level, prompt_frames=0):
    prompt = (torch.arange(len(codes.semantic)) < prompt_frames)[None]
    with torch.no_grad():
        return model(codes.semantic[None], codes.acoustic[None], level, prompt)[0]


def test_a_level_sees_the_levels_before_it_and_the_prompt():
    model, codes, start = predictor(), random_codes(9), 3
    for level in range(2):
        before = forward(model, codes, level, start)
        for other in range(2):
            for frame in range(9):
                changed = codes.acoustic.clone()
                changed[other, frame] = (changed[other, frame] + 1) % SIZES[other]
                after = forward(model, Codes(codes.semantic, changed), level, start)
                assert torch.equal(before, after) == (other >= level and frame >= start)
        semantic = codes.semantic.clone()
        semantic[8] = (semantic[8] + 1) % 8
        after = forward(model, Codes(semantic, codes.acoustic), level, start)
        assert (before != after).any(-1).all()  # every frame sees every other
    # without a prompt, what is unknown may be anything, padding of another size too
    unknown = Codes(codes.semantic, torch.full_like(codes.acoustic, -1))
    assert torch.equal(forward(model, unknown, 0), forward(model, codes, 0))


def test_in_a_batch_as_alone():
    model, crops, prompts = predictor(), [random_codes(n, n) for n in (7, 12, 3)], [2, 0, 1]
    batch = collate(crops, prompts, [1])
    padded = batch.acoustic.masked_fill(~batch.mask[:, None], 99)
    semantic = batch.semantic.masked_fill(~batch.mask, -5)
    for is_training in (False, True):
        with torch.no_grad():
            logits = model.train(is_training)(semantic, padded, 1, batch.prompt, batch.mask)
        model.eval()
        for row, (crop, start) in enumerate(zip(crops, prompts)):
            alone, together = forward(model, crop, 1, start), logits[row, : len(crop.semantic)]
            if is_training:
                torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)  # sums in another order
            else:
                assert torch.equal(together, alone)


def test_the_loss_by_hand(speech):
    shards = TokenShards(speech / "tokens")
    rows, held_out = shards.divide(0.2)
    task = training.AcousticsTask(predictor(), CONFIG, rows, held_out, shards)
    crops, prompts = [random_codes(n, n) for n in (7, 12, 3)], [2, 0, 1]
    batch = collate(crops, prompts, [0, 1])
    assert batch.num_targets == 2 * (5 + 12 + 2)
    sums, right = [0.0, 0.0], [0, 0]
    for crop, start in zip(crops, prompts):
        for level in range(2):
            logs = forward(task.model, crop, level, start).log_softmax(-1)
            for frame in range(start, len(crop.semantic)):
                code = int(crop.acoustic[level, frame])
                sums[level] -= float(logs[frame, code])
                right[level] += int(logs[frame].argmax()) == code
    with torch.no_grad():
        found = task.loss_sum(task.model, batch)
    assert float(found.total) == pytest.approx(sum(sums), rel=1e-5)  # float32 sums in another order
    for level in range(2):
        assert found.parts[f"level{level}"] == (pytest.approx(sums[level], rel=1e-5), 19)
        assert found.parts[f"level{level}_correct"] == (right[level], 19)
    one = replace(batch, levels=(1,))
    assert float(task.loss_sum(task.model, one).total.detach()) == pytest.approx(sums[1], rel=1e-5)


@pytest.mark.parametrize("prompt_frames", [0, 4])
def test_greedy_prediction_equals_a_loop_over_levels(prompt_frames):
    model, codes = predictor(), random_codes(10)
    prompt = random_codes(prompt_frames, 5) if prompt_frames else None
    found = model.predict(codes.semantic, prompt)
    whole = codes if prompt is None else Codes(*(torch.cat(pair, -1) for pair in zip(prompt, codes)))
    known = whole.acoustic.clone()
    known[:, prompt_frames:] = -1
    for level in range(2):
        logits = forward(model, Codes(whole.semantic, known), level, prompt_frames)
        for frame in range(prompt_frames, prompt_frames + 10):
            known[level, frame] = max(range(SIZES[level]), key=logits[frame].tolist().__getitem__)
    assert torch.equal(found, known[:, prompt_frames:])
    assert model.predict(codes.semantic[:0], prompt).shape == (2, 0)


def test_codes_are_drawn_where_they_are_hot():
    model = predictor(temperature=1.0)
    codes = random_codes(2000)
    found = model.predict(codes.semantic)
    assert torch.equal(found, model.predict(codes.semantic))  # by the seed
    chances = forward(model, codes, 0).softmax(-1).sum(0)
    counts = torch.bincount(found[0], minlength=8)
    # a sum of 2,000 draws strays from its mean by less than 5 deviations of at most 22
    assert (counts - chances).abs().max() < 110
    assert not torch.equal(found, predictor().predict(codes.semantic))


def test_wrong_codes_are_refused():
    model = predictor()
    with pytest.raises(ConfigError, match="Codes of semantic run from 0 to 8; the codebook has 8"):
        model.predict(torch.tensor([0, 8]))
    with pytest.raises(ConfigError, match="acoustic level 1 run from 5 to 5; the codebook has 5"):
        model.predict(torch.tensor([0]), Codes(torch.tensor([0]), torch.tensor([[0], [5]])))
    with pytest.raises(ConfigError, match=r"The prompt's acoustic codes are \(1, 1\), not \(2, its frames\)"):
        model.predict(torch.tensor([0]), Codes(torch.tensor([0]), torch.tensor([[0]])))
    causal = FrameTransformerConfig(num_layers=1, width=8, num_heads=1, feedforward_dim=8)
    for wrong, message in (({"transformer": causal}, "must be 'full'"), ({"temperature": -1.0}, "temperature is -1")):
        with pytest.raises(ConfigError, match=message):
            PredictorConfig(**wrong)


def test_batches_follow_from_the_seed(speech):
    rows = TokenShards(speech / "tokens").training_rows()
    stream, again = (training.CropStream(rows, CONFIG, 2) for _ in range(2))
    first = stream.next_batches(8, 0, 1)
    assert stream.batch == 8
    found = {}
    for process in (0, 1):  # two processes that go on from batch 3 share what one process reads
        again.batch = 3
        found |= dict(zip(range(3 + process, 7, 2), again.next_batches(4, process, 2)))
    assert sorted(found) == [3, 4, 5, 6]
    for number, batch in found.items():
        expected = first[number]
        assert batch.levels == expected.levels
        for name in ("semantic", "acoustic", "mask", "prompt"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
    assert {batch.levels for batch in first} == {(0,), (1,)}
    shares = torch.stack([batch.prompt.any(1) for batch in first]).float().mean()
    assert 0.2 < shares < 0.8 and all(batch.num_targets > 0 for batch in first)
    seen = [tuple(row.tolist()) for batch in first for row in batch.semantic]
    assert len(set(seen)) > 12  # utterances in turn, crops at different places


def test_a_resumed_run_equals_an_uninterrupted_one(speech, tmp_path):
    shards = TokenShards(speech / "tokens")

    def run(out, **more):
        return training.train(CONFIG, shards, out, valid_share=0.2, show=False, **more)

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at_step=2)
    parts = run(tmp_path / "parts")
    files = [(result.last / "model.safetensors").read_bytes() for result in (whole, parts)]
    assert files[0] == files[1]
    curves = [[(line["step"], line["loss"]) for line in result.train_curve] for result in (whole, parts)]
    assert curves[0] == curves[1] and len(curves[0]) == 4
    assert {"level0_loss", "level1_loss", "level1_correct"} <= set(whole.valid_curve[-1])


def test_it_learns_what_codes_say_and_takes_the_voice_from_a_prompt(speech):
    """Random semantic codes; level 0 follows from the code of the frame, level 1 only from the prompt's level 1."""

    def recordings(count, seed):
        generator = torch.Generator().manual_seed(seed)
        for number in range(count):
            semantic = torch.randint(0, 8, (20,), generator=generator)
            voice = torch.full((20,), int(torch.randint(0, 5, (), generator=generator)))
            acoustic = torch.stack([semantic * 3 % 8, voice])
            streams = {"semantic": SpeechTokens(codes=semantic[None]), "acoustic": SpeechTokens(codes=acoustic)}
            yield Utterance(id=str(number), audio=absolute("a.wav")), SpeechTokens(streams=streams)

    settings = {"max_steps": 160, "learning_rate": 5e-3, "validate_every": None, "log_every": 160}
    settings |= {"batch_size": 16, "crop_frames": 20, "prompt_share": 1.0}
    config = replace(CONFIG, training=replace(CONFIG.training, **settings))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AcousticPredictor(config.predictor, 8, SIZES)
    held_out = list(recordings(20, 1))
    task = training.AcousticsTask(model, config, list(recordings(400, 0)), held_out, TokenShards(speech / "tokens"))
    valid = fit(task, config.training, "cpu")[-1]
    assert valid["level0_correct"] > 0.95 and valid["level1_correct"] < 0.6  # validated without prompts
    right = []
    for _, tokens in held_out:
        codes = codes_of(tokens, config.predictor, "a recording")
        prompt = Codes(codes.semantic[:8], codes.acoustic[:, :8])
        right.append((model.predict(codes.semantic[8:], prompt) == codes.acoustic[:, 8:]).float())
    assert torch.stack(right).mean() > 0.9


def test_it_is_a_synthesizer_of_semantic_tokens(speech, tmp_path):
    shards = TokenShards(speech / "tokens")
    training.train(CONFIG, shards, tmp_path / "run", valid_share=0.2, show=False)
    codec, clip = Twins(), read_manifest(speech / "speech" / "manifest.jsonl")[1].audio
    semantic = codec.stream("semantic")
    semantic.synthesizer = load_synthesizer(tmp_path / "run", semantic)
    opened = semantic.synthesizer
    assert opened.sample_rate == 8000 and opened.tokenizer_fingerprint == semantic.fingerprint
    (tokens,) = semantic.encode([read_audio(clip, 16_000).waveform])
    runs = SpeechTokens(codes=torch.tensor([[3, 5]]), durations=torch.tensor([4, 2]))
    for voice in (None, clip, str(clip), Audio(*read_audio(clip, 8000))):
        prompt = None
        if voice is not None:
            whole = codec.encode([read_audio(clip, 16_000).waveform])[0]
            prompt = codes_of(whole, CONFIG.predictor, "the voice")
        frames = torch.tensor([3, 3, 3, 3, 5, 5])
        heard = semantic.decode([tokens, runs], voice=voice)
        assert len(heard[0]) == tokens.num_frames * HOP // 2
        if not isinstance(voice, Audio):  # which is another waveform once it was resampled
            codes = opened.predictor.predict(frames, prompt)
            expected = (frames * 100 + codes[0] * 10 + codes[1]) / 1000
            torch.testing.assert_close(heard[1], expected.repeat_interleave(HOP // 2))
    for voice in ("ann", torch.zeros(3)):
        with pytest.raises(ConfigError, match="take their voice from a recording"):
            semantic.decode([tokens], voice=voice)
    with pytest.raises(FingerprintError, match="The predictor of acoustic levels"):
        load_synthesizer(tmp_path / "run", Twins(1).stream("semantic"))
    with pytest.raises(ConfigError, match="only the codec can make heard"):
        load_synthesizer(tmp_path / "run")
    with pytest.raises(FingerprintError):
        load_synthesizer(tmp_path / "run", make_tiny_tokenizer())


def test_the_chain_speaks_with_predicted_levels(speech, tmp_path, capsys):
    """One recipe makes tokens, a speech-text model and a predictor; `generate` speaks through it."""
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    small = "num_layers: 1, width: 16, num_heads: 1, feedforward_dim: 16, attention: full, reach_frames: null"
    recipe.write_text(
        "system: lm-spt\ntraining: {max_steps: 1}\nvalid_share: 0.2\nspeech_text:\n  text: {vocabulary_size: 300}\n"
        "  lm: {text_model: tiny, warm: false}\n"
        "  training: {max_steps: 1, context_tokens: 512, tokens_per_batch: 1024, precision: fp32}\n"
        f"acoustics:\n  predictor: {{transformer: {{{small}}}}}\n"
        "  training: {max_steps: 2, batch_size: 2, log_every: 1}\n"
    )
    command = ["train", str(recipe), "--manifest", str(speech / "speech" / "manifest.jsonl"), "--out", str(run)]
    command += ["--tokenizer", str(speech / "tokenizer"), "--device", "cpu"]
    # every clip of this speech has the same text, so that it cannot be divided by text
    manifest = speech / "speech" / "manifest.jsonl"
    texts = "\n".join(
        line.replace('"one two"', f'"one {n}"') for n, line in enumerate(manifest.read_text().splitlines())
    )
    (speech / "speech" / "texts.jsonl").write_text(texts + "\n")
    command[command.index(str(manifest))] = str(speech / "speech" / "texts.jsonl")
    assert main(command) == 0, capsys.readouterr().err
    assert "Held-out loss" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(run / "acoustics") if line["split"] == "train"] == [1, 2]
    generate = ["generate", "--model", str(run), "--tokenizer", str(speech / "tokenizer"), "--text", "one two"]
    generate += ["--task", "speak", "--out", str(tmp_path / "a.wav"), "--device", "cpu", "min_seconds=0.2"]
    generate += ["max_seconds=0.2", "--vocoder", str(run / "acoustics")]
    clip = str(read_manifest(manifest)[0].audio)
    for voice in ([], ["--voice", clip]):
        assert main([*generate, *voice]) == 0, capsys.readouterr().err
        assert (tmp_path / "a.wav").is_file()
    assert main(command) == 0
    assert "acoustics: done" in capsys.readouterr().out
    assert main([*command, "acoustics=null"]) == 0  # it is optional
    assert "acoustics:" not in capsys.readouterr().out


def test_what_cannot_be_predicted_is_refused(speech, tmp_path):
    SineCodec.make().save_pretrained(tmp_path / "sines")
    tokenize_manifest(speech / "speech" / "manifest.jsonl", tmp_path / "tokens", str(tmp_path / "sines"))
    with pytest.raises(ConfigError, match=r"have 50 and 25 Hz; levels are predicted for the same frames"):
        training.train(CONFIG, TokenShards(tmp_path / "tokens"), tmp_path / "no", show=False)
    shards = TokenShards(speech / "tokens")
    other = replace(CONFIG, predictor=replace(CONFIG.predictor, acoustic="prosody"))
    with pytest.raises(ConfigError, match="has no stream 'prosody'"):
        training.train(other, shards, tmp_path / "no", show=False)
    with pytest.raises(FingerprintError):
        training.train(CONFIG, shards, tmp_path / "no", TokenShards(tmp_path / "tokens"), show=False)
    streams = {"semantic": SpeechTokens(codes=torch.zeros(1, 3).long())}
    streams["acoustic"] = SpeechTokens(codes=torch.zeros(2, 4).long())
    with pytest.raises(ConfigError, match="Utterance 'a' has 3 frames in its stream 'semantic', but 4 in 'acoustic'"):
        codes_of(SpeechTokens(streams=streams), CONFIG.predictor, "Utterance 'a'")
    with pytest.raises(ConfigError, match=r"training\.prompt_share is 2"):
        AcousticsTrainingConfig(max_steps=1, prompt_share=2.0)
