"""Editing a recording: codes that stay to the bit, sound and page that show the edits, and what does not fit."""

import base64
import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from systems.taste.tone_decoder import RATE, ToneDecoder, tone_of
from tiny import save_tiny_whisper
from vocable.audio.io import read_audio
from vocable.audio.writing import write_audio
from vocable.cli import main
from vocable.errors import AlignmentError, AssetError, AudioFormatError, ConfigError, FingerprintError
from vocable.features import EncoderConfig
from vocable.features.speaker import SpeakerEncoder
from vocable.features.voice import Speaker
from vocable.recognition.opening import AlignerConfig, open_aligner
from vocable.systems.taste.config import TasteConfig
from vocable.systems.taste.delivered import WORDS_FILE, DeliveredSpeech, read_delivered
from vocable.systems.taste.edit_page import compare_words, mean_shift, measure_words
from vocable.systems.taste.edit_run import edit_recording
from vocable.systems.taste.editing import Change, Delete, DeliveredWord, Insert, Replace, Take, apply_edits
from vocable.systems.taste.speech import WordSynthesizer
from vocable.systems.taste.speech_decoder import SpokenWords, WordChange
from vocable.systems.taste.tokenizer import TasteTokenizer
from vocable.tokens.quantizers import ResidualQuantizerConfig, VectorQuantizerConfig
from vocable.types import Clip, Word

TEXT = "The cat sat on the mat, didn't it?"
QUANTIZER = ResidualQuantizerConfig(
    level=VectorQuantizerConfig(dim=8, codebook_size=64, init="random"), num_levels=4, dropout=1.0
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, make_speechlike):
    """A tokenizer that speaks in tones, and a folder with two recordings."""
    folder = tmp_path_factory.mktemp("edit")
    whisper = save_tiny_whisper(folder / "whisper")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = TasteConfig(
            encoder=EncoderConfig(name=str(whisper), layer=3), shallow_layer=1, quantizer=QUANTIZER
        )  # fmt: skip
        tokenizer, speakers = TasteTokenizer.of_checkpoint(config), SpeakerEncoder()
    (folder / "speakers").mkdir()
    save_file(speakers.state_dict(), folder / "speakers" / "model.safetensors")
    voice = Speaker(torch.ones(256) / 16, None)
    tokenizer.speech = WordSynthesizer(tokenizer, ToneDecoder(), voice, str(folder / "speakers"))
    for seed, name in enumerate(("one", "two")):
        write_audio(folder / f"{name}.wav", make_speechlike(48_000, seed=seed), 16_000)
    return tokenizer, folder


def run(parts, out, *edits, recording="one.wav", text=TEXT, **settings):
    tokenizer, folder = parts
    return edit_recording(folder / recording, out, tokenizer, edits, text, **settings)


def aligner(folder, **stamps):
    """Times as another program would write them: `name=[(word, start, end), ...]`."""
    lines = [f"{name} 1 {a} {b - a:.3f} {w}" for name, rows in stamps.items() for w, a, b in rows]
    (folder / "times.ctm").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_aligner(AlignerConfig(aligner=f"ctm:{folder / 'times.ctm'}"))


def stamps_of(text, step=0.3):
    return [(word, round(i * step, 3), round((i + 1) * step, 3)) for i, word in enumerate(text.split())]


def test_words_have_the_codes_of_the_tokenizer_and_swapping_with_itself_keeps_them(parts, tmp_path):
    tokenizer, folder = parts
    (tokens,) = tokenizer.encode([Clip(read_audio(folder / "one.wav", 16_000).waveform, TEXT)])
    swap = Take(take=TEXT, recording=str(folder / "one.wav"), text=TEXT)
    result = run(parts, tmp_path / "out", swap)
    assert [one.word for one in result.speech.words] == TEXT.split()
    assert torch.equal(torch.tensor([one.codes for one in result.speech.words]).T, tokens.codes)
    assert not any(row.is_edited for row in result.rows)
    assert (tmp_path / "out" / "edited.wav").read_bytes() == (tmp_path / "out" / "before.wav").read_bytes()


def test_taken_words_have_the_others_codes_and_the_rest_their_own(parts, tmp_path):
    tokenizer, folder = parts
    other_text = "It didn't sit on the mat"
    take = Take(take="on the mat", recording=str(folder / "two.wav"), text=other_text)
    result = run(parts, tmp_path, take)
    own, others = (
        read_delivered(folder / name, tokenizer, text).speech.words
        for name, text in (("one.wav", TEXT), ("two.wav", other_text))
    )
    found = result.speech.words
    assert [one.codes for one in found] == [one.codes for one in own[:3] + others[3:6] + own[6:]]
    assert all(a.codes != b.codes for a, b in zip(own[3:6], others[3:6])) and result.speech.text == TEXT


def test_sound_follows_the_edits_and_unedited_words_keep_length_and_pitch(parts, tmp_path):
    """Every tone is measured in the written file, and lies where the codes and the changes say."""
    tokenizer, _ = parts
    result = run(
        parts, tmp_path,
        Change(change="cat", stretch=2.0), Change(change="sat", semitones=5), Change(change="mat", decibels=6),
        Delete(delete="on"), Replace(replace="it", by="she"),
    )  # fmt: skip
    by_word = {row.before or row.after: row for row in result.rows}
    assert " ".join(one.word for one in result.speech.words) == "The cat sat the mat, didn't she?"
    written = read_audio(tmp_path / "edited.wav")
    assert written.sample_rate == RATE
    median = math.exp(float(result.speech.speaker.pitch[0]))
    place = 0.0
    for word, vector, row in zip(
        result.speech.words, result.speech.vectors(tokenizer), [r for r in result.rows if r.after is not None]
    ):  # fmt: skip
        seconds, hertz, amplitude = tone_of(vector, median, word.change)
        measured = row.measured_after
        assert measured.seconds == pytest.approx(seconds, abs=1 / RATE)
        assert measured.hertz == pytest.approx(hertz, rel=0.01)
        piece = written.waveform[round(place * RATE) : round((place + seconds) * RATE)]
        power = amplitude**2 / 2 * sum(1 / k**2 for k in range(1, 6))  # of five partials
        assert float(piece.square().mean()) == pytest.approx(power, rel=0.03)
        assert measured.decibels == pytest.approx(10 * math.log10(power), abs=0.15)
        place += seconds + 0.05
    cat, sat, mat, it = (by_word[word] for word in ("cat", "sat", "mat,", "it?"))
    assert cat.measured_after.seconds == pytest.approx(2 * cat.measured_before.seconds, abs=2 / RATE)
    assert sat.measured_after.hertz / sat.measured_before.hertz == pytest.approx(2 ** (5 / 12), rel=0.02)
    assert mat.measured_after.decibels - mat.measured_before.decibels == pytest.approx(6, abs=0.1)
    assert (it.after, it.is_edited) == ("she?", True) and by_word["on"].after is None
    still = mean_shift(result.rows, is_edited=False)
    assert still.num_words == 3 and still.seconds < 1e-4 and still.semitones < 0.05 and still.decibels < 0.05
    moved = mean_shift(result.rows, is_edited=True)
    assert moved.num_words == 4 and moved.seconds > 0.05 and moved.semitones > 1 and moved.decibels > 1


def test_page_holds_sound_words_and_measures(parts, tmp_path):
    times = aligner(tmp_path, one=stamps_of(TEXT))
    result = run(parts, tmp_path / "out", Replace(replace="mat", by="<rug>"), Delete(delete="on"), aligner=times)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)  # self-contained
    sounds = re.findall(r'src="data:audio/ogg;base64,([^"]+)"', page)
    assert [base64.b64decode(one)[:4] for one in sounds] == [b"OggS"] * 3
    assert re.findall(r"<strong>(Recording|Before[^<]*|After)</strong>", page) == [
        "Recording", "Before: spoken from its codes", "After"
    ]  # fmt: skip
    assert '<span class="delete">on</span>' in page and '<span class="delete">mat,</span>' in page
    assert "<rug>" not in page and "mat, &rarr; &lt;rug&gt;<" in page
    cells = [re.findall(r">([^<>]*)</td>", row) for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL)]
    sat = next(row for row in result.rows if row.after == "sat")
    expected = [f"{sat.measured_before.seconds:.2f}", f"{sat.measured_after.seconds:.2f}"]
    assert [row[1:3] for row in cells if row[:1] == ["sat"]] == [expected]
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert svg.count(">sat<") == 3 and svg.count("#f3d9a4") == 5  # two edited words, one of them left in the last


def test_another_edit_starts_from_the_words_of_the_first(parts, tmp_path):
    first = run(
        parts, tmp_path / "1", Change(change="cat", stretch=1.5), Insert(insert="black", before="cat", delivery="none")
    )
    again = run(parts, tmp_path / "2", Change(change="cat", stretch=2.0), recording=tmp_path / "1", text=None)
    (tokenizer, *_) = parts
    loaded = DeliveredSpeech.load(tmp_path / "1" / WORDS_FILE, tokenizer)
    assert loaded.words == first.speech.words and loaded.text == first.speech.text
    assert torch.equal(loaded.speaker.vector, first.speech.speaker.vector)
    assert torch.equal(loaded.speaker.pitch, first.speech.speaker.pitch)
    assert (tmp_path / "2" / "before.wav").read_bytes() == (tmp_path / "1" / "edited.wav").read_bytes()
    cat = again.speech.words[2]
    assert (cat.word, cat.change) == ("cat", WordChange(stretch=3.0)) and again.speech.words[1].codes is None
    assert again.rows[2].measured_after.seconds == pytest.approx(2 * again.rows[2].measured_before.seconds, abs=1e-3)
    with pytest.raises(AlignmentError, match=r"says .The black cat sat .* not 'The dog'. Leave out the text"):
        run(parts, tmp_path / "3", Delete(delete="cat"), recording=tmp_path / "1", text="The dog")


def test_unknown_delivery_has_a_vector_of_zeros(parts):
    tokenizer, *_ = parts
    words = (DeliveredWord(word="a", codes=None), DeliveredWord(word="b", codes=(3, 1, 0, 15)))
    speech = DeliveredSpeech(
        words=words, speaker=Speaker(torch.ones(2), None), tokenizer_fingerprint=tokenizer.fingerprint
    )
    vectors = speech.vectors(tokenizer)
    assert not vectors[0].any()
    expected = tokenizer.words.quantizer.decode(torch.tensor([[[3], [1], [0], [15]]]))[0, 0]
    torch.testing.assert_close(vectors[1], expected, atol=1e-6, rtol=1e-6)  # other shapes


def test_aligner_gives_the_times_that_a_decoder_does_not_know(parts, tmp_path, monkeypatch):
    exact = ToneDecoder().speak(TEXT.split(), None, Speaker(torch.ones(2), None))
    heard = [(one.word, one.start, one.end) for one in exact.words]
    times = aligner(tmp_path, one=stamps_of(TEXT), before=heard, edited=[row for row in heard if row[0] != "cat"])
    monkeypatch.setattr(parts[0].speech.decoder, "knows_times", False)
    result = run(parts, tmp_path / "out", Delete(delete="cat"), aligner=times)
    seconds = [row.measured_before.seconds for row in result.rows]
    assert seconds == pytest.approx([one.end - one.start for one in exact.words], abs=2e-3)
    nothing = run(parts, tmp_path / "no", Delete(delete="cat"))
    assert {row.measured_after for row in nothing.rows} == {None} and mean_shift(nothing.rows, True).seconds is None
    unheard = aligner(tmp_path, one=stamps_of(TEXT), before=heard, edited=stamps_of("who would say this to you all"))
    run(parts, tmp_path / "odd", Delete(delete="cat"), aligner=unheard)
    page = (tmp_path / "odd" / "index.html").read_text(encoding="utf-8")
    assert "After: word times are not known." in page and "7 words were not heard in it" in page


def test_text_of_another_recording_is_noticed(parts, tmp_path):
    times = aligner(tmp_path, one=stamps_of("He never said that to her again"))
    with pytest.raises(
        AlignmentError, match=r"one.wav: .* of the text's 8 words were not heard .*'The'. Is it the text"
    ):
        run(parts, tmp_path / "out", Delete(delete="cat"), aligner=times)
    near = aligner(tmp_path, one=stamps_of("The cat sat on the map, isn't it?"))
    run(parts, tmp_path / "out", Delete(delete="cat"), aligner=near)
    with pytest.raises(AlignmentError, match=r"one.wav: The text has .* letters"):
        run(parts, tmp_path / "out", Delete(delete="cat"), text="word " * 100)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"text": "  "}, AlignmentError, "one.wav: The text holds no word"),
        ({"text": None}, AudioFormatError, "comes without text"),
        ({"recording": "none.wav"}, AudioFormatError, "none.wav"),
        ({"recording": "."}, Exception, "words.json"),
    ],
)
def test_recordings_that_cannot_be_read(parts, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run(parts, tmp_path / "out", Delete(delete="cat"), **settings)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_edits_do_not_fit(parts, tmp_path):
    *_, folder = parts
    with pytest.raises(ConfigError, match="no word 'dog' to delete"):
        run(parts, tmp_path / "out", Delete(delete="dog"))
    with pytest.raises(ConfigError, match=r"no word 'cat' in .*two.wav to take the delivery of"):
        run(parts, tmp_path / "out", Take(take="cat", recording=str(folder / "two.wav"), text="Who sat there"))
    with pytest.raises(ConfigError, match=r"edited\.wav is the name of an audio file"):
        run(parts, tmp_path / "edited.wav", Delete(delete="cat"))
    assert list(tmp_path.iterdir()) == []


def test_silence_and_short_recordings_have_no_voice(parts, tmp_path):
    tokenizer, _ = parts
    for name, sound, message in (
        ("silent", torch.zeros(32_000), "silen"),
        ("short", torch.randn(8000), "needs at least 1"),
    ):
        write_audio(tmp_path / f"{name}.wav", 0.1 * sound, 16_000)
        with pytest.raises(AudioFormatError, match=message):
            read_delivered(tmp_path / f"{name}.wav", tokenizer, "A cat")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda v: v.pop("speaker"), AssetError, "not a words.json that an edit wrote"),
        (lambda v: v["words"][0].pop("codes"), AssetError, "not a words.json"),
        (lambda v: v["words"][0].update(codes=[1, 2]), AssetError, r"'The' has codes \(1, 2\), but the"),
        (lambda v: v["words"][0].update(codes=[1, 2, 3, 64]), AssetError, "'The' has codes"),
        (lambda v: v["words"][0].update(stretch=-1), AssetError, "not a words.json"),
        (lambda v: v.update(tokenizer_fingerprint="another"), FingerprintError, "was made for fingerprint another"),
    ],
)  # fmt: skip
def test_words_files_that_were_changed(parts, tmp_path, change, error, message):
    tokenizer, folder = parts
    read_delivered(folder / "one.wav", tokenizer, TEXT).speech.save(tmp_path / WORDS_FILE)
    values = json.loads((tmp_path / WORDS_FILE).read_text(encoding="utf-8"))
    change(values)
    (tmp_path / WORDS_FILE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(error, match=message):
        DeliveredSpeech.load(tmp_path / WORDS_FILE, tokenizer)
    (tmp_path / WORDS_FILE).write_text("no JSON", encoding="utf-8")
    with pytest.raises(AssetError, match=r"not a words\.json"):
        DeliveredSpeech.load(tmp_path / WORDS_FILE, tokenizer)


def test_rows_put_words_beside_those_they_were():
    words = [DeliveredWord(word=w, codes=(i,)) for i, w in enumerate(["a", "b", "c", "d", "e", "f"])]
    made = apply_edits(
        words, [Delete(delete="a"), Replace(replace="c d", by="x"), Insert(insert="y", after="e"), Delete(delete="f")]
    )
    rows = [(row.before, row.after, row.is_edited) for row in compare_words(words, made)]
    assert rows == [
        ("a", None, True), ("b", "b", False), ("c", "x", True), ("d", None, True), ("e", "e", False),
        (None, "y", True), ("f", None, True),
    ]  # fmt: skip


def test_measures_of_a_word_without_voice():
    noise = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    (measured,) = measure_words(SpokenWords(noise, (Word(word="s", start=0.2, end=0.7),)), 16_000)
    assert measured.seconds == pytest.approx(0.5) and measured.decibels == pytest.approx(-20, abs=0.3)
    silent = measure_words(SpokenWords(torch.zeros(16_000), (Word(word="s", start=0.2, end=0.7),)), 16_000)
    assert silent[0].hertz is None and silent[0].decibels == -100
    assert measure_words(SpokenWords(noise, ()), 16_000) == []


def test_tokenizer_without_a_decoder_edits_nothing(parts, tmp_path):
    tokenizer, folder = parts
    mute = TasteTokenizer(tokenizer.encoder, tokenizer.reader, tokenizer.words, tokenizer.config)
    with pytest.raises(ConfigError, match="'taste' has no speech decoder"):
        edit_recording(folder / "one.wav", tmp_path / "out", mute, [Delete(delete="cat")], TEXT)
    assert not (tmp_path / "out").exists()


def test_command(parts, tmp_path, capsys, monkeypatch):
    tokenizer, folder = parts
    tokenizer.save_pretrained(tmp_path / "taste")
    aligner(tmp_path, one=stamps_of(TEXT), two=stamps_of("It didn't sit"))
    monkeypatch.chdir(tmp_path)
    plain = ["--tokenizer", "taste", "--aligner", "ctm:times.ctm", "--device", "cpu"]
    one, two = str(folder / "one.wav"), str(folder / "two.wav")
    taking = ["--take", "didn't", "--from", two, "--from-text", "It didn't sit"]
    assert main(["edit", one, "out", *plain, "--text", TEXT, *taking, "--slower", "cat=2,sat=1.5"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == TEXT and "8 words, 3 edited" in told[1] and told[2].endswith("out/index.html")
    assert main(["edit", "out", "again", *plain, "--replace", "mat=rug"]) == 0
    words = DeliveredSpeech.load(tmp_path / "again" / WORDS_FILE, tokenizer).words
    (taken,) = read_delivered(folder / "two.wav", tokenizer, "It didn't sit").speech.words[1:2]
    assert words[6] == DeliveredWord(word="didn't", codes=taken.codes) and words[5].word == "rug,"
    assert [one.change.stretch for one in words] == [1, 2, 1.5, 1, 1, 1, 1, 1]
    assert main(["edit", one, "no", *plain, "--text", TEXT, "--delete", "dog"]) == 2
    assert "vocable edit: There is no word 'dog' to delete" in capsys.readouterr().err
    assert main(["edit", one, "no", *plain, "--text", TEXT]) == 2
    assert "nothing to edit" in capsys.readouterr().err and not (tmp_path / "no").exists()
