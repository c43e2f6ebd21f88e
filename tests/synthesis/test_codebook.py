"""A vocoder that embeds units by their vectors serves any codebook of the encoder."""

import pytest
import torch

from synthesis.small_vocoders import make_config
from vocable.errors import ConfigError
from vocable.synthesis.codebook import CodebookEmbedding
from vocable.synthesis.vocoder import UnitVocoder
from vocable.types import SpeechTokens

TWO = {"voices": ("a", "b"), "decoder": {"speaker_dim": 5}, "codebook_dim": 6}


@pytest.fixture
def codebook() -> torch.Tensor:
    return 3 + 2 * torch.randn(12, 6)


@pytest.fixture
def vocoder(codebook) -> UnitVocoder:
    vocoder = UnitVocoder(make_config(codebook_size=12, **TWO)).eval()
    torch.nn.init.normal_(vocoder.decoder.head.weight)
    vocoder.voice_vectors.copy_(torch.randn(2, 5))
    vocoder.set_codebooks([codebook], standardise=True)
    return vocoder


def test_embedding_is_a_linear_map_of_standardised_vectors(codebook):
    table = CodebookEmbedding(12, 6, 5)
    table.set_codebooks([codebook], standardise=True)
    ids = torch.tensor([[3, 0], [11, 3]])
    vector = (codebook[3] - codebook.mean(0)) / codebook.std(0)
    by_hand = (
        table.linear.weight @ torch.cat([vector, torch.tensor([torch.tensor(12.0).log2() / 8])]) + table.linear.bias
    )
    torch.testing.assert_close(table(ids)[0, 0], by_hand)
    assert torch.equal(table(ids)[0, 0], table(ids)[1, 1])


def test_a_permuted_codebook_gives_the_same_sound(vocoder, codebook):
    order = torch.randperm(12)
    units = torch.randint(0, 12, (1, 20))
    inverse = torch.argsort(order)  # unit u of the old codebook is number inverse[u] in the new one
    (old,) = vocoder.synthesize([SpeechTokens(codes=units)], voice="b")
    (new,) = vocoder.for_codebook(codebook[order], "other").synthesize([SpeechTokens(codes=inverse[units])], voice="b")
    torch.testing.assert_close(new, old, atol=1e-5, rtol=0)  # products over the table's rows sum in another order


def test_codebooks_of_other_sizes_work_and_the_fingerprint_is_theirs(vocoder):
    larger = vocoder.for_codebook(torch.randn(30, 6), "larger")
    assert larger.tokenizer_fingerprint == "larger"
    (speech,) = larger.synthesize([SpeechTokens(codes=torch.tensor([[29, 3]]), durations=torch.tensor([5, 5]))])
    assert len(speech) == 10 * 160
    assert speech.abs().max() > 0
    assert larger.voices == ["a", "b"] and torch.equal(larger.voice_vectors, vocoder.voice_vectors)


def test_several_codebooks_stand_one_after_the_other(vocoder, codebook):
    both = UnitVocoder(make_config(codebook_size=20, **TWO))
    both.load_state_dict(
        {k: v for k, v in vocoder.state_dict().items() if not k.endswith((".codebook", ".log_size"))}, strict=False
    )
    both.set_codebooks([torch.randn(8, 6), codebook])
    units = torch.randint(0, 12, (1, 9))
    durations = torch.full((9,), 2)
    (alone,) = vocoder.synthesize([SpeechTokens(codes=units, durations=durations)])
    (second,) = both.eval().synthesize([SpeechTokens(codes=units + 8, durations=durations)])
    torch.testing.assert_close(second, alone, atol=1e-5, rtol=0)


def test_saved_and_loaded_it_sounds_the_same(vocoder, tmp_path):
    vocoder.save_pretrained(tmp_path)
    tokens = SpeechTokens(codes=torch.randint(0, 12, (1, 15)))
    assert torch.equal(UnitVocoder.from_pretrained(tmp_path).synthesize([tokens])[0], vocoder.synthesize([tokens])[0])


def test_what_does_not_fit_is_refused(vocoder):
    with pytest.raises(ConfigError, match="vectors of 5 dimensions, but this vocoder reads 6"):
        vocoder.for_codebook(torch.randn(30, 5), "x")
    table = UnitVocoder(make_config(codebook_size=12))
    with pytest.raises(ConfigError, match="the ids of one codebook only"):
        table.for_codebook(torch.randn(12, 6), "x")
