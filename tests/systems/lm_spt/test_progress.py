"""What is shown of a codec in training: the sounds are the codec's, and no step is there twice."""

import io
import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from systems.lm_spt.tiny_codec import HOP, RATE, VOCOS, codec_config, tiny_config, weights_of, write_recordings
from vocable.audio.io import read_audio
from vocable.audio.waveforms import resample
from vocable.errors import ConfigError, missing_extra
from vocable.systems.lm_spt import progress
from vocable.systems.lm_spt.data import CropData
from vocable.systems.lm_spt.progress import curves_of, drop_old_steps, speak, usage_table
from vocable.systems.lm_spt.stages import build_codec, train_codec
from vocable.tokens import load_tokenizer
from vocable.training.logs import read_metrics

PLAIN = codec_config(decoder=VOCOS)  # nothing random in it, and no pitch to measure


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, make_speechlike):
    return write_recordings(tmp_path_factory.mktemp("recordings"), make_speechlike)


@pytest.fixture(scope="module")
def run(recordings, tmp_path_factory) -> Path:
    """A run of six steps that showed two recordings three times."""
    out = tmp_path_factory.mktemp("runs") / "run"
    start(recordings, out)
    return out


def start(recordings, out, stop_at_step=None, **training):
    config = tiny_config(codec=PLAIN, validate_every=2, **{"max_steps": 6, "validation_examples": 2, **training})
    return train_codec(config, recordings, out, recordings[:3], stop_at_step=stop_at_step, show=False)


def board(out: Path) -> EventAccumulator:
    everything = {"audio": 0, "images": 0, "scalars": 0}
    return EventAccumulator(str(out / "training" / "tensorboard"), size_guidance=everything).Reload()


def steps_on_page(out: Path) -> list[int]:
    page = (out / "training" / "progress.html").read_text()
    return [int(step) for step in re.findall(r"<strong>Step (\d+)</strong>", page)]


def test_sounds_are_those_of_the_codec_that_is_saved(recordings, run):
    shown = board(run)
    names = [recordings[0].id, recordings[1].id]
    kinds = ("original", "all levels", "semantic only")
    assert set(shown.Tags()["audio"]) == {f"{name}/{kind}" for name in names for kind in kinds}
    tokenizer = load_tokenizer(run / "training" / "last")
    data = CropData(recordings[:2], tokenizer.codec.decoder, crop_samples=HOP, loudness_db=-27.0)
    for index, name in enumerate(names):
        crops = data.whole(index, 8 * RATE, HOP)
        waveform = crops.waveforms[0, : int(crops.lengths[0])]
        semantic, acoustic = tokenizer.codec.encode(waveform)
        wanted = {
            "original": waveform,
            "all levels": tokenizer.codec.decode(semantic, acoustic),
            "semantic only": resample(tokenizer.codec.decode(semantic, None), VOCOS.sample_rate, RATE),
        }
        for kind, samples in wanted.items():
            event = shown.Audio(f"{name}/{kind}")[-1]
            found, rate = soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="float32")
            assert rate == RATE and event.step == (0 if kind == "original" else 6)
            samples = samples[: len(waveform)].clamp(-1, 1)
            torch.testing.assert_close(torch.from_numpy(found), samples, atol=2 / 32767, rtol=0)  # 16 bits
        assert [event.step for event in shown.Images(name)] == [2, 4, 6]
        folder = run / "training" / "progress"
        heard = read_audio(folder / "step-00000006" / f"{index}-all.opus").waveform
        assert abs(len(heard) - len(waveform)) <= 1


def test_every_file_that_the_page_names_is_there(run):
    folder = run / "training"
    page = (folder / "progress.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 1 + 2 * (1 + 3 * 3) and all((folder / source).is_file() for source in sources)
    assert steps_on_page(run) == [6, 4, 2] * 2
    assert "acoustic 1" in page and "Step 6, " in page


def test_the_first_and_the_newest_steps_are_kept(tmp_path):
    for step in range(1, 10):
        (tmp_path / "progress" / f"step-{step:08d}").mkdir(parents=True)
    drop_old_steps(tmp_path)
    assert sorted(int(path.name[5:]) for path in (tmp_path / "progress").iterdir()) == [1, 5, 6, 7, 8, 9]


def test_a_run_that_goes_on_shows_no_step_twice(recordings, run, tmp_path):
    """A run that was killed after it showed step 4, its last checkpoint being that of step 3."""
    out = tmp_path / "run"
    start(recordings, out, stop_at_step=4, validation_examples=1)
    shutil.rmtree(out / "training" / "checkpoints" / "step-00000004")
    folder = out / "training" / "progress"
    shutil.copytree(folder / "step-00000004", folder / "step-00000099")  # shown before the run went back
    start(recordings, out, validation_examples=2)  # which may change
    assert steps_on_page(out) == [6, 4, 2] + [6, 4] and not (folder / "step-00000099").exists()
    shown = board(out)
    assert [event.step for event in shown.Audio(f"{recordings[0].id}/original")] == [0]
    assert [event.step for event in shown.Audio(f"{recordings[0].id}/all levels")] == [2, 4, 6]
    assert [event.step for event in shown.Images(recordings[0].id)] == [2, 4, 6]
    assert [event.step for event in shown.Images(recordings[1].id)] == [4, 6]
    for step in (4, 6):
        name = f"step-{step:08d}/0-all.opus"
        whole = read_audio(run / "training" / "progress" / name).waveform
        assert torch.equal(read_audio(folder / name).waveform, whole)


def test_without_examples_nothing_is_shown_and_the_weights_are_the_same(recordings, run, tmp_path):
    start(recordings, tmp_path / "run", validation_examples=0)
    assert not (tmp_path / "run" / "training" / "progress.html").exists()
    assert not board(tmp_path / "run").Tags()["audio"]
    first, second = (weights_of(one / "tokenizer") for one in (run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ConfigError, match="validation_examples"):
        tiny_config(validation_examples=-1)


def test_without_matplotlib_there_is_sound_and_one_warning(recordings, tmp_path, monkeypatch, caplog):
    error = missing_extra("matplotlib", "report", "Drawing the report")

    def refuse():
        raise error

    monkeypatch.setattr(progress, "load_pyplot", refuse)
    progress._warn_once.cache_clear()
    start(recordings, tmp_path / "run", validation_examples=1)
    assert len(board(tmp_path / "run").Audio(f"{recordings[0].id}/all levels")) == 3
    assert not (tmp_path / "run" / "training" / "progress.html").exists()
    assert [record.name for record in caplog.records].count(progress.__name__) == 1 and "matplotlib" in caplog.text


def test_before_the_codebooks_vectors_are_spoken():
    codec = build_codec(tiny_config(codec=PLAIN)).eval()
    waveform = torch.randn(2 * HOP + 5) * 0.1
    made = speak(codec, waveform)
    assert not made.is_quantized and len(made.all_levels) == len(made.semantic) == len(waveform)
    semantic, acoustic = codec.features(waveform[None])
    assert torch.equal(made.all_levels, codec.decoder(semantic + acoustic)[0, : len(waveform)])


def test_curves_and_the_table_hold_the_numbers_of_the_log(run):
    lines = read_metrics(run / "training")
    curves = curves_of(lines)
    trained = [line for line in lines if line["split"] == "train"]
    assert curves["mel"]["train"] == ([1, 2, 3, 4, 5, 6], [line["mel"] for line in trained])
    assert curves["mel"]["valid"][0] == [2, 4, 6]
    assert curves["perplexity"]["acoustic_2"][1] == [line["acoustic_2_perplexity"] for line in trained]
    assert set(curves["usage"]) == {"semantic", "acoustic_1", "acoustic_2"}
    assert not {"seconds", "learning_rate", "acoustic_1_top_share"} & set(curves)
    table = usage_table(trained[-1])
    assert [name for name, _ in table] == ["semantic", "acoustic_1", "acoustic_2"]
    assert table[0][1][0] == trained[-1]["semantic_usage"] and table[0][1][3] == trained[-1]["semantic_top_share"]
