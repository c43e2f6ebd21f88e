"""Training of tokenizer and speech decoder together, in training/loop.py, one part after another.

    text_only     decoder(text, speaker)                                      no vectors: the aggregator rests
    continuous    decoder(text, aggregator's vectors, speaker)
    quantized     decoder(text, quantizer(aggregator's vectors), speaker) + commitment

The loss is the decoder's, a mean over its targets, and in the last part the quantizer's, a mean over words and numbers.
Tokens of the loop are words. Source: Tseng et al., 2025, arXiv:2504.07053, section 3.1.3; the text-only part is in the
published code alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vocable.errors import AssetError
from vocable.systems.taste.data import Pieces, PieceStream, TasteBatch, group_pieces
from vocable.systems.taste.model import WordEncoder
from vocable.systems.taste.quantizer import Codebooks
from vocable.systems.taste.recipe import PartConfig, TasteTrainingConfig
from vocable.systems.taste.speech import DECODER
from vocable.systems.taste.speech_decoder import DecoderLoss, SpeechDecoder
from vocable.tokens.quantizers import QuantizedLevels
from vocable.training.task import AdamWTask, DataSize, LossSum

PartName = Literal["text_only", "continuous", "quantized"]
WEIGHTS_FILE = "model.safetensors"
QUANTIZER = "quantizer."


class Spoken(NamedTuple):
    """What a batch gives."""

    loss: DecoderLoss
    quantized: QuantizedLevels | None


class Trainee(nn.Module):
    """Tokenizer and speech decoder."""

    def __init__(self, words: WordEncoder, decoder: SpeechDecoder) -> None:
        super().__init__()
        self.words, self.decoder = words, decoder

    def forward(self, batch: TasteBatch, part: PartName) -> Spoken:
        """Return the losses of a batch in a part of the training."""
        if part == "text_only":
            return Spoken(self.decoder.loss(batch.words(None), batch.targets), None)
        found = self.words(
            batch.ids, batch.word_ids, batch.last, batch.shallow, batch.frame_mask, quantize=part == "quantized"
        )
        vectors = found.words * found.mask[..., None] if found.quantized is None else found.quantized.quantized
        return Spoken(self.decoder.loss(batch.words(vectors), batch.targets), found.quantized)

    def learn(self, part: PartName) -> None:
        """Let the weights of a part learn, and no others; those that a decoder keeps frozen stay so."""
        learned = set() if part == "text_only" else self.words.aggregator.trained_names()
        for name, parameter in self.words.named_parameters():
            is_own = name.removeprefix("aggregator.") in learned or (part == "quantized" and name.startswith(QUANTIZER))
            parameter.requires_grad_(is_own)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights that are not Whisper's, by the names that a saved tokenizer has."""
        learned = self.words.learned_names()
        own = {name: tensor for name, tensor in self.words.state_dict().items() if name in learned}
        return own | {f"{DECODER}{name}": tensor for name, tensor in self.decoder.saved_tensors().items()}

    def save(self, folder: Path) -> None:
        """Write the weights, for the part that comes next."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.weights().items()}
        safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE)

    def start_from(self, folder: Path, quantizer: bool) -> None:
        """Take the weights that an earlier part saved; with `quantizer`, those of the quantizer as well.

        Raises:
            AssetError: they cannot be read, or are of other networks.
        """
        try:
            tensors = safetensors.torch.load_file(Path(folder) / WEIGHTS_FILE)
        except (OSError, safetensors.SafetensorError) as error:
            raise AssetError(f"{folder}: there are no weights to start from ({error}).") from error
        wanted = {name: value for name, value in self.weights().items() if quantizer or not name.startswith(QUANTIZER)}
        found = {name: value for name, value in tensors.items() if name in wanted}
        wrong = sorted(wanted.keys() - found.keys())
        wrong += [name for name in sorted(found) if found[name].shape != wanted[name].shape]
        if wrong:
            raise AssetError(
                f"{folder}: its weights are those of other networks ({wrong[0]} and {len(wrong) - 1} others do not "
                "fit). Give aggregator and decoder the settings of that run."
            )
        own = {name: value for name, value in found.items() if not name.startswith(DECODER)}
        self.words.load_state_dict({**self.words.state_dict(), **own})
        decoder = {name.removeprefix(DECODER): value for name, value in found.items() if name.startswith(DECODER)}
        self.decoder.load_state_dict({**self.decoder.state_dict(), **decoder})


class TasteTask(AdamWTask):
    """One part of the training."""

    target_name = "word"

    def __init__(
        self,
        trainee: Trainee,
        part: PartName,
        config: PartConfig,
        data: Pieces,
        validation: Pieces | None,
        identity: Mapping[str, Any],
        save: Callable[[Trainee, Path], None],
    ) -> None:
        """Choose what learns, and plan the data.

        Args:
            trainee: Tokenizer and decoder, as the part before left them.
            part: Name of the part.
            config: Its settings.
            data: Pieces to train on.
            validation: Pieces to validate on.
            identity: Further settings that the weights depend on.
            save: Writes the model for use.
        """
        trainee.learn(part)
        super().__init__(trainee, config)
        self.part, self.config, self.data, self.validation = part, config, data, validation
        self.trainee, self._identity, self._save = trainee, dict(identity), save
        self.part_names = (*trainee.decoder.part_names, *self._own_names())
        self.stream = PieceStream(data, config.batch_seconds, config.seed, config.speaker)

    def _own_names(self) -> tuple[str, ...]:
        return ("commitment", "loss_without_codes") if self.part == "quantized" else ()

    def data_sizes(self) -> dict[str, DataSize]:
        """Count pieces of recordings."""
        found = {"train": self.data, "valid": self.validation}
        return {name: DataSize(len(one), "piece", float(one.seconds.sum())) for name, one in found.items() if one}

    def next_batches(self, count: int, process: int, num_processes: int) -> list[TasteBatch]:
        """Return this process's share of the next batches."""
        return self.stream.next_batches(count, process, num_processes)

    def num_targets(self, batch: TasteBatch) -> int:
        """Count words."""
        return batch.num_words

    def loss_sum(self, model: nn.Module, batch: TasteBatch) -> LossSum:
        """Weigh the mean loss by the words of the batch; in validation, without codes as well."""
        spoken: Spoken = model(batch, self.part)
        count, loss, quantized = batch.num_words, spoken.loss, spoken.quantized
        unknown = sorted(loss.parts.keys() - set(self.part_names))
        assert not unknown, f"the decoder reports {unknown}, which are not in its part_names"
        mean, parts = loss.total / max(loss.count, 1), dict(loss.parts)
        if quantized is not None:
            parts["commitment"] = (float(quantized.commitment_loss.detach()) * count, count)
            if model.training:
                mean = mean + quantized.loss
            else:
                smooth = model(batch, "continuous").loss
                parts["loss_without_codes"] = (float(smooth.total) / max(smooth.count, 1) * count, count)
        return LossSum(mean * count, parts)

    def training_metrics(self, parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return means of the parts, and in the last part how many codes are in use."""
        values = super().training_metrics(parts)
        if self.part == "quantized":
            values |= {f"perplexity_{name}": usage.latest.perplexity for name, usage in self._usages().items()}
        return values

    def validation_batches(self, process: int, num_processes: int) -> list[TasteBatch]:
        """Return this process's share of the held-out pieces."""
        if self.validation is None:
            return []
        count = min(len(self.validation), self.config.validation_pieces)
        order = torch.arange(count).numpy()
        plan = list(group_pieces(self.validation.seconds, order, self.config.batch_seconds))
        return [self.validation.batch(numbers) for numbers in plan[process::num_processes]]

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the model for use, or for the part that comes next."""
        assert isinstance(model, Trainee)
        self._save(model, folder)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, and the windows in which usage is counted."""
        return {"stream": self.stream.state_dict(), "usage": {k: v.state_dict() for k, v in self._usages().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        self.stream.load_state_dict(state["stream"])
        for name, usage in self._usages().items():
            usage.load_state_dict(state["usage"][name])

    def _usages(self) -> dict[str, Any]:
        quantizer = self.trainee.words.quantizer
        return quantizer.residual.usages() if isinstance(quantizer, Codebooks) else {}

    def identity(self) -> dict[str, Any]:
        """Describe the data, and all that the weights depend on."""
        valid = None if self.validation is None else self.validation.describe()
        return {"part": self.part, "data": {"train": self.data.describe(), "valid": valid}, **self._identity}


def start_part(trainee: Trainee, part: PartName, data: Pieces, config: PartConfig, start: TasteTrainingConfig) -> None:
    """Prepare a part by the words of the training data's first batches: their scale, and the first codebooks.

    See `WordEncoder.standardize` and `Codebooks.start_from`.
    """
    words, settings = trainee.words, trainee.words.config
    if part != "text_only" and settings.standardize and not words.is_standardized:
        words.standardize(_first_words(trainee, data, config, start.kmeans_words))
    if part == "quantized" and isinstance(words.quantizer, Codebooks):
        first = _first_words(trainee, data, config, start.kmeans_words)
        words.quantizer.start_from(first, start.quantizer_start == "principal")


@torch.no_grad()
def _first_words(trainee: Trainee, data: Pieces, config: PartConfig, count: int) -> Float[Tensor, "words dim"]:
    device = next(trainee.words.parameters()).device
    stream = PieceStream(data, config.batch_seconds, config.seed, "same")
    found: list[Tensor] = []
    while sum(map(len, found)) < count and stream.batch < len(stream.plan):
        (batch,) = stream.next_batches(1)
        batch = batch.to(device)
        words, mask = trainee.words.words(batch.ids, batch.word_ids, batch.last, batch.shallow, batch.frame_mask)
        found.append(words[mask])
    return torch.cat(found)
