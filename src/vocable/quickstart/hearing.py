"""Recordings through units and back: in their own voice and in another, judged, and drawn with their units."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vocable.audio.io import Audio, audio_info, read_utterance
from vocable.audio.waveforms import resample
from vocable.evaluation.judges import JUDGE_RATE, vocoder_fingerprint
from vocable.evaluation.metrics.wer import AlignedText, ErrorCounts, align_texts, column_error_rate, count_errors
from vocable.evaluation.results import column_mean
from vocable.evaluation.units import UnitCounter
from vocable.features.log_mel import LogMelConfig, log_mel
from vocable.files import replace_file, write_json
from vocable.quickstart.data import PIECE_SECONDS, READ_SECONDS
from vocable.quickstart.page import Picture, Player, Row, Section, Table
from vocable.quickstart.plots import spectrogram_with_units
from vocable.quickstart.run import MOS, RECOGNISER, SPEAKER, Run, encode_mp3, name_of, read_recording
from vocable.types import SpeechTokens, Utterance

TITLES = {"original": "recording", "own": "in its own voice", "other": "in another voice"}
Record = Mapping[str, Any]


def hear_resynthesis(run: Run) -> Section:
    """Send every recording through the units, speak it twice, and let the judges listen."""
    with run.step("Opening models and recordings"):
        tokenizer, utterances = run.tokenizer, run.heard
        tokens = tokenizer.encode([read_utterance(u, tokenizer.sample_rate) for u in utterances])
    with run.step("Units to speech, and judging it"):
        folders = [run.out / "sound" / f"{number}" for number in range(1, len(utterances) + 1)]
        records = [_speak_and_judge(run, *each) for each in zip(utterances, tokens, folders, strict=True)]
    run.weights += [tokenizer.card()["encoder"]["name"], *run.judges]
    return Section(
        title="Through units and back",
        text=[_introduction(run)],
        rows=[_row(run, *each) for each in zip(utterances, records, folders, strict=True)],
        tables=[_score_table(run, records), _rate_table(run, tokens)],
        pictures=[_draw(run, utterances[0], tokens[0])],
    )


def _introduction(run: Run) -> str:
    text = (
        f"Each recording became a row of units, ids from 0 to {run.tokenizer.streams[0].codebook_size - 1}, and speech "
        "again. In its own voice: units, a vector of the speaker's voice, and pitch and loudness of the recording. In "
        "another voice: units alone, spoken by a voice that the vocoder knows by name."
    )
    config = run.vocoder.config
    if config.decoder.speaker_dim is None:
        text += " This vocoder has one voice, and copies none."
    elif run.own_voice(run.heard[0]) is None:
        text += f" No voice was copied, which takes: vocable assets fetch {config.speaker_encoder}"
    return (
        f"{text} Of recordings over {PIECE_SECONDS:g} s, pieces of the first {READ_SECONDS:g} s with speech are taken."
    )


def _speak_and_judge(run: Run, utterance: Utterance, tokens: SpeechTokens, folder: Path) -> Record:
    """Speak one utterance in both voices and judge all versions; read what an earlier run made of the same."""
    recording, own = read_recording(utterance, run.vocoder.sample_rate), run.own_voice(utterance)
    made_of = {
        "utterance": [utterance.id, str(utterance.audio), utterance.start, utterance.duration, utterance.text],
        "recording": [utterance.audio.stat().st_mtime_ns, own is not None],
        "judges": [*run.judges, run.language],
        "voice": run.voice and str(run.voice),
        "tokenizer": run.tokenizer.fingerprint,
        **vocoder_fingerprint(run.tokenizer),
    }
    if (folder / "record.json").is_file():
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        if record["made_of"] == made_of:
            return record
    name = run.voice or _least_like(run, own)
    sounds = {"original": recording.waveform}
    if own is not None:
        (sounds["own"],) = run.tokenizer.decode([tokens], own, [recording])
    (sounds["other"],) = run.tokenizer.decode([tokens], name)
    for version, waveform in sounds.items():
        with replace_file(folder / f"{version}.mp3") as file:
            file.write(encode_mp3(waveform, recording.sample_rate))
    heard = {version: resample(waveform, recording.sample_rate, JUDGE_RATE) for version, waveform in sounds.items()}
    record = {"made_of": made_of, "versions": list(sounds), "other": str(name or "of the vocoder")}
    record |= {"speaker": utterance.speaker, **_judge(run, heard, utterance.text)}
    write_json(record, folder / "record.json")
    return record


def _least_like(run: Run, recording: Audio | None) -> str | None:
    """The named voice whose vector is farthest from the recording's; the first where nothing can be compared."""
    voices = run.vocoder.voices
    if recording is None or not voices:
        return next(iter(voices), None)
    vector = run.vocoder.speaker(recording).vector
    return min(voices, key=lambda name: float(torch.cosine_similarity(run.vocoder.speaker(name).vector, vector, 0)))


def _judge(run: Run, sounds: Mapping[str, Tensor], text: str | None) -> dict[str, Any]:
    """Transcript, errors where there is a text, opinion score, and likeness to the recording's voice, by version."""
    waveforms, verdicts = list(sounds.values()), {}
    if run.transcriber is not None:
        for version, transcript in zip(sounds, run.transcriber.transcribe(waveforms), strict=True):
            verdicts[f"{version}_transcript"] = transcript
            if text is not None:
                counts = count_errors(text, transcript, normaliser=run.normaliser)
                verdicts |= {f"{version}_{part}": count for part, count in counts._asdict().items()}
    if run.mos is not None:
        verdicts |= {f"{one}_mos": score for one, score in zip(sounds, run.mos.predict(waveforms), strict=True)}
    if run.speaker is not None:
        vectors = {version: run.speaker.embed(waveform) for version, waveform in sounds.items() if waveform.any()}
        original = vectors.pop("original")
        verdicts |= {f"{version}_voice": float(vector @ original) for version, vector in vectors.items()}
    return verdicts


def _row(run: Run, utterance: Utterance, record: Record, folder: Path) -> Row:
    """The recording beside both copies, with what the judges say."""
    players = []
    for version in record["versions"]:
        transcript, words, notes = record.get(f"{version}_transcript"), [], []
        if transcript is not None and utterance.text is not None:
            words = align_texts(utterance.text, transcript, run.normaliser)
            counts = ErrorCounts(*(record[f"{version}_{part}"] for part in ErrorCounts._fields))
            notes.append(f"{counts.errors} of {counts.reference_length} words wrong")
        elif transcript is not None:
            words = [AlignedText("equal", transcript, transcript)] if transcript else []
            notes.append("transcript below" if transcript else "the recogniser heard nothing")
        scores = {"quality": record.get(f"{version}_mos"), "voice": record.get(f"{version}_voice")}
        notes += [f"{name} {score:.2f}" for name, score in scores.items() if score is not None]
        title = f"in the voice {Path(record['other']).stem}" if version == "other" else TITLES[version]
        sound = (folder / f"{version}.mp3").read_bytes()
        players.append(Player(title=title, audio=sound, note=" · ".join(notes), words=words))
    return Row(title=name_of(utterance), text=utterance.text or "", players=players)


def _score_table(run: Run, records: Sequence[Record]) -> Table:
    """Means over the recordings, with intervals."""
    rows = []
    for version in [version for version in TITLES if any(version in record["versions"] for record in records)]:
        with_text = [record for record in records if f"{version}_substitutions" in record]
        errors = column_error_rate(with_text, version, meaning="").rounded(1, 100) if with_text else "–"
        means = [column_mean(records, f"{version}_{part}", better="higher", meaning="") for part in ("mos", "voice")]
        rows.append((TITLES[version], errors, *(mean.rounded() for mean in means)))
    notes = [
        f"{len(records)} recordings; 95 % intervals by bootstrap. Words: Whisper base. Quality: DistillMOS, "
        "1 to 5. Voice: likeness to the recording's (Resemblyzer); two recordings of one reader have about 0.85, of "
        "two readers 0.6."
    ]
    if all(utterance.text is None for utterance in run.heard):
        notes.append("These recordings have no text, so that wrong words cannot be counted: compare the transcripts.")
    missing = " ".join(name.rsplit("/", 1)[-1] for name in (RECOGNISER, MOS, SPEAKER) if name not in run.judges)
    if missing:
        notes.append(f"Some judges are missing: vocable assets fetch {missing}")
    columns = ("", "word errors, % [95 %]", "quality [95 %]", "voice [95 %]")
    return Table(title="What the judges say", columns=columns, rows=rows, note=" ".join(notes))


def _rate_table(run: Run, tokens: Sequence[SpeechTokens]) -> Table:
    """Bits per second of the recordings and of their units."""
    (stream,) = run.tokenizer.streams
    counter = UnitCounter(stream.codebook_sizes)
    for units in tokens:
        counter.add(units)
    statistics = counter.statistics(stream.rate)
    files = {utterance.audio: audio_info(utterance.audio) for utterance in run.heard}
    seconds = sum(info.duration for info in files.values())
    plain = sum(16 * info.num_samples * info.num_channels for info in files.values()) / seconds
    packed = (statistics.empirical_bits_per_second or 0) + (statistics.duration_bits_per_second or 0)
    rows = [
        ("recordings, 16 bits a sample", f"{plain:,.0f}"),
        ("their files", f"{8 * sum(path.stat().st_size for path in files) / seconds:,.0f}"),
        ("units, one a frame", f"{statistics.nominal_bits_per_second or 0:,.0f}"),
        ("runs of equal units and their lengths, as an ideal code packs them", f"{packed:,.0f}"),
    ]
    note = (
        f"A language model reads {statistics.positions_per_second or 0:.1f} runs a second. Pitch and loudness, which "
        "the copies in their own voice take from the recording, are not counted."
    )
    return Table(title="How much is left", columns=("", "bits a second"), rows=rows, note=note)


def _draw(run: Run, utterance: Utterance, tokens: SpeechTokens) -> Picture:
    config, (stream,) = LogMelConfig(), run.tokenizer.streams
    waveform = read_utterance(utterance, config.sample_rate)
    seconds, words = len(waveform) / config.sample_rate, tuple(utterance.words or ())
    html = spectrogram_with_units(log_mel(waveform, config), tokens, stream.rate or 1.0, seconds, words)
    caption = "spectrogram, words where their times are known, and runs of equal units below."
    return Picture(html=html, caption=f"{name_of(utterance)}: {caption}")
