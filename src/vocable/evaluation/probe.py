"""What a linear classifier reads from tokens: which phone is spoken, which word, or who speaks.

    codes (levels, frames) -> one-hot vectors of a frame and its neighbours -> linear map -> phone, word, or speaker
                                                                     sums over frames -> speaker of the utterance

The map is all that is learned: what it cannot read is not there in the open. Two streams of a codec are told apart by
it: content in the one (phones right, speakers not), the voice in the other. Every code of every level has a row of
weights; the rows of a frame are added. Where tokens follow words, a frame is a word: codes that are to say how a word
is spoken, beside its text, need not say which word it is, and what they do say of it has leaked. Content as text is
measured by `recognition`, over any stream as well.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from vocable.errors import ConfigError
from vocable.evaluation.ctc_probe_model import Example, ProbeTask, ProbeTraining, train_probe
from vocable.evaluation.phone_labels import Fold, PhoneLabels, read_phones
from vocable.evaluation.results import Score, column_mean, column_ratio
from vocable.evaluation.runner import Benchmark, Item, Items
from vocable.evaluation.token_sources import TokenSource, TrainTest, TrainTestConfig
from vocable.evaluation.units import check_ids
from vocable.evaluation.unusable import reasons
from vocable.sequences.word_search import plain_letters
from vocable.tokens.runs import frames_of
from vocable.training.task import LossSum
from vocable.types import SpeechTokens, Utterance

UNKNOWN = -1
"""A label that training does not have: never right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig(ProbeTraining, TrainTestConfig):
    """Which tokens are read, and what is read from them."""

    target: Literal["phone", "word", "speaker"] = "speaker"
    """What the classifier tells: the phone of a frame, the word of a position (for tokens that follow words), or the
    speaker of an utterance."""
    phones: Path | None = None
    """A .ctm or .tsv file with the phones of both manifests, instead of the manifests' own."""
    ignore: tuple[str, ...] = ()
    """Phones whose frames are left out, such as sil; or words, in lower case and without punctuation."""
    fold: Fold | None = None
    """Classes that phones are put into: timit-39 makes 39 of TIMIT's 61, closures and pauses being sil."""
    context_frames: int = 1
    """Frames on either side that are read too."""
    epochs: int = 20
    """How often every utterance is trained on."""
    batch_utterances: int = 8
    """Utterances in one update."""
    learning_rate: float = 0.05
    """The highest learning rate; it rises over a tenth of the updates, then falls to 0 as a cosine."""

    def __post_init__(self) -> None:
        ProbeTraining.__post_init__(self)
        TrainTestConfig.__post_init__(self)
        if self.context_frames < 0:
            raise ConfigError(f"context_frames is {self.context_frames}; it must be 0 or more.")


class _Labelled(NamedTuple):
    """An utterance, as the classifier reads it."""

    utterance: Utterance
    inputs: Int[Tensor, "rows frames"]
    """Numbers of the one-hot places of each frame."""
    labels: list[str]


class Probe(Benchmark[LinearProbeConfig]):
    """Train a linear classifier from tokens to phones, words or speakers, and count how often it is right elsewhere.

    Writes probe.json (phone_accuracy; word_accuracy; or speaker_accuracy and speaker_frame_accuracy; with 95 %
    intervals) and probe.items.parquet (one row per utterance). `majority_accuracy` is what the commonest answer would
    score. For speakers, both manifests hold the same speakers; for phones, the manifests name the phones, or a file
    does; words are those of the tokens.

    vocable evaluate probe --manifest train.jsonl --test-manifest dev.jsonl --tokenizer codec --stream acoustic --out r
    """

    name, Config = "probe", LinearProbeConfig

    def items(self) -> Iterator[Item]:
        """Train on the one manifest, and classify the utterances of the other."""
        config, run = self.config, self.run
        train, test = TrainTest.open(run, config)
        self.stream = train.stream
        spoken = read_phones(config.phones) if config.phones is not None else None
        self.frame_phones = PhoneLabels(spoken, config.ignore, config.fold)
        learn, asked = self._read(train, "train"), self._read(test, "test")
        self.labels = sorted({label for one in learn for label in one.labels})
        if config.target == "speaker":
            known = set(self.labels)
            run.excluded["test: speaker not in training"] += sum(one.labels[0] not in known for one in asked)
            asked = [one for one in asked if one.labels[0] in known]
        run.excluded += Counter()  # drop zeros
        if len(self.labels) < 2 or not asked:
            raise ConfigError(
                f"{len(learn)} utterances to train on name {len(self.labels)} {config.target}s, and {len(asked)} are "
                f"there to test; the probe needs two, and one. Left out: {reasons(run.excluded, 'nothing')}."
            )
        numbers = {label: number for number, label in enumerate(self.labels)}
        examples = [Example(one.inputs, torch.tensor([numbers[label] for label in one.labels])) for one in learn]
        make = partial(LinearProbe, self.num_places, len(numbers))
        self.model, self.losses = train_probe(
            make, LinearTask, examples, config, run.device, partial(run.advance, "Training")
        )
        counts = Counter(number for one in examples for number in one.targets.tolist())
        majority, device = max(counts, key=lambda number: (counts[number], -number)), self.model.bias.device
        for one in asked:
            with torch.inference_mode():
                log_probs = self.model(one.inputs.to(device)).log_softmax(-1).cpu()
            truth = torch.tensor([numbers.get(label, UNKNOWN) for label in one.labels])
            best = log_probs.argmax(-1)
            row = {
                "id": one.utterance.id,
                "speaker": one.utterance.speaker,
                "num_frames": len(truth),
                "frames_right": int((best == truth).sum()),
                "frames_of_majority": int((truth == majority).sum()),
            }
            if config.target == "speaker":
                heard = int(log_probs.sum(0).argmax())
                row |= {"heard": self.labels[heard], "speaker_right": float(heard == int(truth[0]))}
            yield row

    def _read(self, source: TokenSource, part: str) -> list[_Labelled]:
        """Frames and their labels; what has none is counted under the name of the part."""
        config, excluded, found = self.config, self.run.excluded, []
        before, sizes = Counter(source.excluded), source.stream.codebook_sizes
        self.num_places = (2 * config.context_frames + 1) * (sum(sizes) + 1)
        for utterance, tokens in source:
            check_ids(tokens.codes, sizes, f"{utterance.id}, tokenizer {source.card.get('name')!r}: ")
            inputs = one_hot_places(frames_of(tokens).cpu().long(), sizes, config.context_frames)
            kept, labels = self._labels(utterance, tokens, inputs.shape[1], source)
            if not kept:
                excluded[f"{part}: no {config.target}"] += 1
                continue
            found.append(_Labelled(utterance, inputs[:, kept], labels))
        excluded.update({f"{part}: {reason}": count for reason, count in (source.excluded - before).items()})
        return found

    def _labels(
        self, utterance: Utterance, tokens: SpeechTokens, num_frames: int, source: TokenSource
    ) -> tuple[list[int], list[str]]:
        """Frames that count, and the label of each."""
        if self.config.target == "word":
            return self._words(tokens, source)
        if self.config.target == "speaker":
            known = utterance.speaker is not None and utterance.speaker not in self.config.ignore
            frames = list(range(num_frames * known))
            return frames, [str(utterance.speaker)] * len(frames)
        found = self.frame_phones.of(utterance, num_frames, source.frame_rate)
        return ([], []) if found is None else (found.places, found.phones)

    def _words(self, tokens: SpeechTokens, source: TokenSource) -> tuple[list[int], list[str]]:
        """Positions whose word counts, and its letters."""
        if tokens.words is None or tokens.spans is None:
            raise ConfigError(
                f"The tokens of {source.card.get('name')!r} do not say which word each is of; target=word reads tokens "
                "that follow words, such as those of TASTE."
            )
        named = [plain_letters(word.word) for word in tokens.words]
        found = [
            (place, name)
            for name, (start, stop) in zip(named, tokens.spans.tolist(), strict=True)
            for place in range(start, stop)
            if name and name not in self.config.ignore
        ]
        return [place for place, _ in found], [name for _, name in found]

    def scores(self, items: Items) -> dict[str, Score]:
        """Shares that are right: of frames, and of utterances where speakers are told."""
        target, columns = self.config.target, ("frames_right", "num_frames")
        by_frame = partial(column_ratio, items, *columns, **self.draws)
        if target == "phone":
            meaning = "frames whose phone a linear classifier of tokens names"
            return {"phone_accuracy": by_frame(better="higher", meaning=meaning)}
        if target == "word":
            meaning = "words that a linear classifier of their codes names"
            return {"word_accuracy": by_frame(better=None, meaning=meaning)}
        meaning = "utterances whose speaker a linear classifier of tokens names, frames together"
        return {
            "speaker_accuracy": column_mean(items, "speaker_right", better=None, meaning=meaning, **self.draws),
            "speaker_frame_accuracy": by_frame(better=None, meaning="frames whose speaker the classifier names"),
        }

    def conventions(self) -> dict[str, Any]:
        """The classifier, its training, and what it tells."""
        config = self.config
        return {
            **{field.name: getattr(config, field.name) for field in fields(ProbeTraining) if field.name != "seed"},
            "target": config.target,
            "ignore": list(config.ignore),
            "fold": config.fold,
            "context_frames": config.context_frames,
            "classifier": "linear, of one-hot codes of all levels, added",
            "sampled_at": "frame centres, (i + 0.5) / frame_rate",
            "device": self.run.device,
        }

    def measurements(self, items: Items) -> dict[str, Any]:
        """What the commonest answer scores, how training went, and what is read."""
        frames = sum(item["num_frames"] for item in items)
        return {
            "majority_accuracy": sum(item["frames_of_majority"] for item in items) / frames,
            f"num_{self.config.target}s": len(self.labels),
            "num_test_frames": frames,
            "num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "train_loss": self.losses,
            "stream": self.stream.name,
            "frame_rate": self.stream.rate,
            "codebook_sizes": list(self.stream.codebook_sizes),
        }

    def notes(self, items: Items) -> list[str]:
        """Say what the numbers do not show."""
        notes = [
            *self.frame_phones.notes(),
            "Accuracies grow with the codebook and with the levels: compare at equal bits, or say them too.",
        ]
        rate = self.stream.rate
        if self.config.target == "phone" and rate and rate < 25:
            notes.append(f"At {rate:g} frames a second a frame holds several phones, and is asked for the middle one.")
        return notes


class LinearProbe(nn.Module):
    """Adds up the rows of weights of a frame's codes; begins at zero, where every class is as likely."""

    def __init__(self, num_places: int, num_classes: int) -> None:
        super().__init__()
        self.rows = nn.Embedding.from_pretrained(torch.zeros(num_places, num_classes), freeze=False)
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, inputs: Int[Tensor, "rows frames"]) -> Tensor:
        """Return logits, (frames, classes)."""
        return nn.functional.embedding_bag(inputs.mT, self.rows.weight, mode="sum") + self.bias


class LinearTask(ProbeTask[LinearProbeConfig]):
    """Training of a linear probe: cross-entropy, every frame of a batch alike."""

    def loss_sum(self, model: nn.Module, batch: list[Example]) -> LossSum:
        """Average over frames, times utterances: the loop divides by these."""
        device = next(model.parameters()).device
        logits = model(torch.cat([one.codes for one in batch], dim=1).to(device))
        targets = torch.cat([one.targets for one in batch]).to(device)
        return LossSum(len(batch) * nn.functional.cross_entropy(logits, targets), {})


def one_hot_places(
    codes: Int[Tensor, "levels frames"], sizes: tuple[int, ...], context_frames: int
) -> Int[Tensor, "rows frames"]:
    """Number the places of the one-hot vectors of each frame and its neighbours; one place stands for no neighbour."""
    offsets = (torch.tensor(sizes).cumsum(0) - torch.tensor(sizes))[:, None]
    width, total = 2 * context_frames + 1, sum(sizes)
    padded = nn.functional.pad(codes + offsets, (context_frames, context_frames), value=total)
    shifted = padded.unfold(1, codes.shape[1], 1)  # (levels, width, frames)
    return (shifted + torch.arange(width)[:, None] * (total + 1)).flatten(0, 1)
