"""Streams in a tokenizer's card, and the card of one stream: what tells a reader which codes it is about to read.

    card of a tokenizer {streams: [semantic, acoustic], ...}  --card_of_stream("semantic")-->  card with one stream

Tokens of one stream of many carry a fingerprint of their own, FINGERPRINT-STREAM, so that a language model of semantic
tokens is never given acoustic ones. A tokenizer with one stream has one card and one fingerprint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vocable.errors import ConfigError
from vocable.types import Stream


def streams_to_card(streams: Sequence[Stream]) -> dict[str, Any]:
    """Describe streams as JSON values; for a single stream also under the short names that its readers use."""
    rates = [stream.bits_per_second for stream in streams]
    values: dict[str, Any] = {
        "streams": [
            {"name": stream.name, "codebook_sizes": list(stream.codebook_sizes), "rate": stream.rate}
            for stream in streams
        ],
        "bits_per_second": None if None in rates else sum(rate for rate in rates if rate is not None),
    }
    if len(streams) == 1:
        (stream,) = streams
        values |= {"frame_rate": stream.rate, "num_codebooks": stream.num_levels}
        if len(set(stream.codebook_sizes)) == 1:
            values["codebook_size"] = stream.codebook_sizes[0]
    return values


def streams_of_card(card: Mapping[str, Any]) -> tuple[Stream, ...]:
    """Return the streams that a card describes; cards from before there were several describe one, `units`."""
    if "streams" not in card:
        sizes = (card["codebook_size"],) * card.get("num_codebooks", 1)
        return (Stream(name="units", codebook_sizes=sizes, rate=_rate(card.get("frame_rate"))),)
    return tuple(
        Stream(name=one["name"], codebook_sizes=tuple(one["codebook_sizes"]), rate=_rate(one["rate"]))
        for one in card["streams"]
    )


def _rate(value: Any) -> float | None:
    return None if value is None else float(value)


def choose_stream(streams: Sequence[Stream], name: str | None, owner: str) -> Stream:
    """Return the stream of a name, or the only one where no name is given.

    Raises:
        ConfigError: there is no such stream, or there are several and no name is given.
    """
    if name is None and len(streams) == 1:
        return streams[0]
    known = ", ".join(stream.name for stream in streams)
    if name is None:
        raise ConfigError(f"{owner} has several streams ({known}), and this reads one: set stream to one of them.")
    for stream in streams:
        if stream.name == name:
            return stream
    raise ConfigError(f"{owner} has no stream {name!r}; it has {known}.")


def card_of_stream(card: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """Return the card of one stream; of a tokenizer with a single stream, the card itself."""
    streams = streams_of_card(card)
    chosen = choose_stream(streams, name, f"The tokenizer {card.get('name')!r}")
    if len(streams) == 1:
        return dict(card)
    return {**card, **streams_to_card([chosen]), "fingerprint": stream_fingerprint(card["fingerprint"], chosen.name)}


def fingerprints_of_card(card: Mapping[str, Any]) -> set[str]:
    """Return the fingerprint of a tokenizer, and of each of its several streams."""
    streams = streams_of_card(card)
    return {card["fingerprint"], *(card_of_stream(card, stream.name)["fingerprint"] for stream in streams)}


def find_stream(streams: Sequence[Stream], whole: str, fingerprint: str | None) -> str | None:
    """Return the name of the one of several streams with this fingerprint; `whole` is that of their tokenizer."""
    names = [stream.name for stream in streams if stream_fingerprint(whole, stream.name) == fingerprint]
    return names[0] if names and len(streams) > 1 else None


def stream_fingerprint(fingerprint: str, name: str) -> str:
    """Return the fingerprint of one of several streams of a tokenizer."""
    return f"{fingerprint}-{name}"
