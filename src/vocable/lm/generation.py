"""Continue rows of token ids: sampling with lengths in seconds, and guards against loops and endless silence.

    prompt  <s> 17 4 233 ...  ->  model with a key-value cache  ->  new tokens, seconds, why it stopped

A row's result depends on its prompt and its seed, not on the rows beside it (up to rounding of batched products). What
may be drawn, and how long it lasts, `TokenRules` say; each language model makes its own (model.py).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vocable.errors import ConfigError, NumericsError
from vocable.lm.sampling import draw, next_token_probabilities, penalise_repeats

StopReason = Literal["eos", "max_seconds", "max_text_tokens", "context", "loop", "silence"]
"""`max_text_tokens`: of models that write, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How to continue a prompt."""

    temperature: float = 0.8
    """Below 1 keeps to likely units; 0 always takes the likeliest. TWIST's example code samples at 0.8."""
    top_k: int | None = None
    """Draw from this many likeliest tokens; None from all. (TWIST's example inherits 50 from transformers.)"""
    top_p: float | None = None
    """Draw from the fewest tokens that hold this much probability; None from all."""
    repetition_penalty: float = 1.0
    """Above 1 makes units less likely that occur among the last `repetition_window` tokens."""
    repetition_window: int = 32
    """Tokens that the penalty looks back on."""
    min_seconds: float = 0.0
    """The end symbol is not allowed before speech is this long; where text is allowed, it always is."""
    max_seconds: float = 10.0
    """Stop once the continuation is this long; the prompt does not count."""
    loop_period: int = 16
    """Longest pattern of tokens that the loop guard looks for."""
    loop_repeats: int | None = 4
    """The loop guard acts before a pattern would occur this often in a row; None: no guard."""
    max_silence_seconds: float | None = 2.0
    """The silence guard acts after this long in silence units (where those are known), and in rows of frames after this
    long in one unit; None: no guard."""
    guard: Literal["resample", "stop"] = "resample"
    """What guards do: forbid the token that would go on looping or being silent, or end the continuation there."""
    word_temperature: float = 0.0
    """Text-aligned models: temperature of the codes of words, and share of the deviation that a latent head adds to its
    mean; 0 takes the likeliest."""
    batch_size: int = 16
    """Prompts continued together."""
    seed: int = 0
    """Row i of a call draws with seed + i, unless seeds are given."""

    def __post_init__(self) -> None:
        for name, good, want in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or null"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or null"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("repetition_window", self.repetition_window >= 1, "at least 1"),
            ("max_seconds", self.max_seconds > 0, "above 0"),
            ("min_seconds", 0 <= self.min_seconds <= self.max_seconds, "between 0 and max_seconds"),
            ("loop_period", self.loop_period >= 1, "at least 1"),
            ("loop_repeats", self.loop_repeats is None or self.loop_repeats >= 2, "at least 2, or null"),
            (
                "max_silence_seconds",
                self.max_silence_seconds is None or self.max_silence_seconds > 0,
                "above 0, or null",
            ),
            ("word_temperature", self.word_temperature >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        ):
            if not good:
                raise ConfigError(f"generation.{name} is {getattr(self, name)}; it must be {want}.")

    def sampling(self) -> dict[str, Any]:
        """Return what decides a continuation beside its prompt and its seed."""
        left_out = ["batch_size", "seed", *(["word_temperature"] if self.word_temperature == 0 else [])]
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """Properties of token ids that generation needs."""

    banned: Bool[Tensor, " vocabulary"]
    """Never drawn."""
    seconds: Float[Tensor, " vocabulary"]
    """How long each token lasts; 0 for those that are not speech."""
    end_id: int
    pad_id: int
    silence: frozenset[int] = frozenset()
    """Token ids of the silence guard."""
    max_text_tokens: int | None = None
    """Stop after this many tokens that last no time; None: no limit."""
    held: bool = False
    """Whether rows have a token a frame: one that comes again lasts longer, and only runs of them can be a loop."""


@dataclass(slots=True)
class Row:
    """One prompt being continued."""

    prompt: list[int]
    """Token ids, all symbols included."""
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    """New token ids."""
    seconds: float = 0.0
    silent_seconds: float = 0.0
    held_seconds: float = 0.0
    """Time since the last token that was another one."""
    text_tokens: int = 0
    stopped: StopReason | None = None

    @property
    def history(self) -> list[int]:
        """Prompt and new tokens."""
        return self.prompt + self.tokens


def token_seconds(size: int, first_id: int, seconds: Float[Tensor, " speech"]) -> Float[Tensor, " vocabulary"]:
    """Return how long each of `size` token ids lasts: those from `first_id` on as `seconds` says, the others no time.

    Raises:
        ConfigError: one of `seconds` is 0 or less.
    """
    if float(seconds.min()) <= 0:
        raise ConfigError("The language model's card has a unit that lasts 0 s or less; every unit lasts some time.")
    lasting = torch.zeros(size)
    lasting[first_id : first_id + len(seconds)] = seconds
    return lasting


def start_rows(prompts: Sequence[list[int]], config: GenerationConfig, seeds: Sequence[int] | None) -> list[Row]:
    """Make a row of each prompt, with its own random stream.

    Raises:
        ConfigError: the number of seeds differs from that of prompts.
    """
    if seeds is not None and len(seeds) != len(prompts):
        raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one each.")
    drawn = range(config.seed, config.seed + len(prompts)) if seeds is None else seeds
    return [Row(prompt, torch.Generator().manual_seed(seed)) for prompt, seed in zip(prompts, drawn)]


def continue_rows(model: PreTrainedModel, rows: Sequence[Row], config: GenerationConfig, rules: TokenRules) -> None:
    """Continue rows in place, in batches of prompts of like length.

    Raises:
        ConfigError: a prompt is empty, or longer than the model's context.
        NumericsError: the model returned NaN.
    """
    by_length = sorted(rows, key=lambda row: len(row.prompt))  # prompts of like length waste least in a batch
    was_training = model.training
    model.eval()
    for start in range(0, len(rows), config.batch_size):
        _continue_batch(model, by_length[start : start + config.batch_size], config, rules)
    model.train(was_training)


@torch.inference_mode()
def _continue_batch(model: PreTrainedModel, rows: list[Row], config: GenerationConfig, rules: TokenRules) -> None:
    device = next(model.parameters()).device
    for _ in draw_tokens(_next_logits(model, rows, rules.pad_id, device), rows, config, rules):
        pass


def draw_tokens(
    steps: Iterator[Float[Tensor, "rows vocabulary"]], rows: Sequence[Row], config: GenerationConfig, rules: TokenRules
) -> Iterator[None]:
    """Draw the next token of every row at each step, until all have stopped; yield after each.

    Args:
        steps: logits after the rows as they stand, each time they are asked for.
        rows: changed in place.

    Raises:
        NumericsError: logits are NaN or infinite.
    """
    allowed = (~rules.banned).nonzero()[:, 0]
    seconds = rules.seconds.tolist()
    for logits in steps:
        if not bool(torch.isfinite(logits).all()):
            raise NumericsError(
                "The model's logits are NaN or infinite. Its weights are broken, or its precision (float16?) overflows."
            )
        logits = penalise_repeats(
            logits, [row.history[-config.repetition_window :] for row in rows], config.repetition_penalty
        )
        banned = rules.banned.expand(len(rows), -1).clone()
        for place, row in enumerate(rows):
            banned[place, _banned_now(row, config, rules)] = True
        probabilities = next_token_probabilities(  # of what can be drawn at all, which may be a small part
            logits[:, allowed],
            banned[:, allowed],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        chosen = allowed[draw(probabilities.nan_to_num(0.0), [row.generator for row in rows])].tolist()
        exhausted = banned.all(-1).tolist()
        for row, token, stuck in zip(rows, chosen, exhausted):
            if row.stopped is None:
                _append(row, token, stuck, config, rules, seconds[token])
        yield
        if all(row.stopped is not None for row in rows):
            return


def _next_logits(
    model: PreTrainedModel, rows: list[Row], pad_id: int, device: torch.device
) -> Iterator[Float[Tensor, "rows vocabulary"]]:
    """Yield the logits after the rows as they stand, reading only what was appended since; prompts are left-padded.

    A row that fills the model's context is stopped; the rows beside it go on.
    """
    longest = max(len(row.prompt) for row in rows)
    context = getattr(model.config, "max_position_embeddings", None) or float("inf")
    if longest == 0 or min(len(row.prompt) for row in rows) == 0:
        raise ConfigError("A prompt is empty and no start symbol is used; the model needs at least one token to go on.")
    if longest > context:
        raise ConfigError(f"A prompt has {longest} tokens, the model {context} positions. Cut the prompt.")
    token_ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        token_ids[place, longest - len(row.prompt) :] = torch.tensor(row.prompt)
        mask[place, longest - len(row.prompt) :] = 1
    token_ids, mask = token_ids.to(device), mask.to(device)
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    padded, cache = bool((mask == 0).any()), DynamicCache(config=model.config)
    while True:
        output = model(
            input_ids=token_ids,
            attention_mask=mask if padded else None,  # without a mask, attention takes its fast form
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        yield output.logits[:, -1].float().cpu()
        for row, position in zip(rows, position_ids[:, -1].tolist()):
            if row.stopped is None and position + 1 >= context:
                row.stopped = "context"
        if all(row.stopped is not None for row in rows):
            return
        token_ids = torch.tensor([[row.history[-1]] for row in rows], device=device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        position_ids = position_ids[:, -1:] + 1
        if math.isfinite(context):
            position_ids = position_ids.clamp(max=int(context) - 1)  # of rows that stopped


def _banned_now(row: Row, config: GenerationConfig, rules: TokenRules) -> list[int]:
    may_write = rules.max_text_tokens is not None  # a text is as long as it is
    banned = [rules.end_id] if row.seconds < config.min_seconds and not may_write else []
    if config.guard == "resample":
        banned += _loop_tokens(row.history, config, rules)
        banned += _endless(row, config, rules)
    return banned


def _append(row: Row, token: int, stuck: bool, config: GenerationConfig, rules: TokenRules, seconds: float) -> None:
    """Add a token, which lasts `seconds`, to a row, or stop the row instead; `stuck`: every token was forbidden."""
    if token == rules.end_id and not stuck:
        row.stopped = "eos"
    elif stuck or (config.guard == "stop" and token in _loop_tokens(row.history, config, rules)):
        row.stopped = "loop"
    elif config.guard == "stop" and token in _endless(row, config, rules):
        row.stopped = "silence"
    if row.stopped is not None:
        return
    row.held_seconds = (row.held_seconds if row.tokens[-1:] == [token] else 0.0) + seconds
    row.tokens.append(token)
    row.seconds += seconds
    row.silent_seconds = row.silent_seconds + seconds if token in rules.silence else 0.0
    row.text_tokens += seconds == 0
    if row.seconds >= config.max_seconds:
        row.stopped = "max_seconds"
    elif rules.max_text_tokens is not None and row.text_tokens >= rules.max_text_tokens:
        row.stopped = "max_text_tokens"


def _loop_tokens(tokens: list[int], config: GenerationConfig, rules: TokenRules) -> list[int]:
    """Tokens that would make the end of the row a pattern of up to `loop_period` tokens, `loop_repeats` times over.

    Where tokens are held, the pattern is one of runs: two or more different tokens, however long each of them is.
    """
    if config.loop_repeats is None:
        return []
    found = []
    if rules.held:
        tokens = _last_runs(tokens, config.loop_period * config.loop_repeats, rules)
    for period in range(1, config.loop_period + 1):
        needed = period * config.loop_repeats - 1  # tokens at the end that must already repeat with this period
        tail = tokens[len(tokens) - needed :] if needed <= len(tokens) else []
        if tail and tail[period:] == tail[:-period]:
            found.append(tail[-period])
    return found


def _last_runs(tokens: list[int], count: int, rules: TokenRules) -> list[int]:
    """Return the last `count` tokens at most, of which those of speech that are repeated count as one."""
    runs: list[int] = []
    for token in reversed(tokens):
        if len(runs) == count:
            break
        if not runs or token != runs[-1] or rules.seconds[token] == 0:
            runs.append(token)
    return runs[::-1]


def _endless(row: Row, config: GenerationConfig, rules: TokenRules) -> list[int]:
    """Tokens that would make a silence, or one unit that is held, too long."""
    limit = config.max_silence_seconds
    if limit is None:
        return []
    silence = list(rules.silence) if row.silent_seconds >= limit else []
    return silence + (row.tokens[-1:] if rules.held and row.held_seconds >= limit else [])
