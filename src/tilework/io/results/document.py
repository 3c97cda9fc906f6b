"""The JSON document that travels with the arrays: what they mean and where they come from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tilework import __version__
from tilework.io.results.jsonable import jsonable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tilework.io.results.channel import ResultChannel

__all__ = ["FORMAT", "make_document", "parse_document"]

FORMAT = "tilework-results"
VERSION = 1


def make_document(channels: Mapping[str, ResultChannel], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document for some channels; version and date are added to the provenance."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "provenance": {"tilework_version": __version__, "saved": now, **jsonable(provenance)},
        "channels": {name: channel.describe() for name, channel in channels.items()},
    }


def parse_document(text: str | bytes) -> dict[str, Any]:
    """Return the document that a file holds.

    Raises
    ------
    ValueError
        When it is none, or a newer tilework wrote it.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        msg = "it does not hold results that tilework saved"
        raise ValueError(msg)
    if document["format_version"] > VERSION:
        writer = document["provenance"].get("tilework_version", "a newer version")
        msg = f"it was written by tilework {writer}, in a newer format: update tilework"
        raise ValueError(msg)
    return document
