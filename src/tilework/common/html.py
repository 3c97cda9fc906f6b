"""Tables and pictures for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["html_picture", "html_table", "html_title"]


def html_title(text: str) -> str:
    """Return a title; characters that mean something in HTML are escaped."""
    return f"<h3>{_escape(text)}</h3>"


def html_table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Return a table; characters that mean something in HTML are escaped.

    Parameters
    ----------
    rows
        The cells. Without a header, the first of each row is a heading.
    header
        The names of the columns.
    """
    lines = [_cells("th", header)] if header else []
    lines += [_cells("td", row) if header else _cells("th", row[:1]) + _cells("td", row[1:]) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def html_picture(png: bytes, size: tuple[int, int], caption: Iterable[str]) -> str:
    """Return a picture with lines of text below it; its pixels stay what they are when it is enlarged.

    Parameters
    ----------
    png
        The file.
    size
        Width and height on the screen, in its pixels.
    caption
        The lines.
    """
    from base64 import b64encode  # of use in notebooks only; this module is loaded by all programs

    source = f"data:image/png;base64,{b64encode(png).decode()}"
    style = f"image-rendering: pixelated; width: {size[0]}px; height: {size[1]}px; max-width: none"
    text = "<br>".join(map(_escape, caption))
    return (
        f'<figure style="display: inline-block; margin: 0.5em; width: {max(size[0], 256)}px; vertical-align: top">'
        f'<img style="{style}" src="{source}"><figcaption>{text}</figcaption></figure>'
    )


def _cells(tag: str, cells: Sequence[str]) -> str:
    return "".join(f"<{tag}>{_escape(cell)}</{tag}>" for cell in cells)


def _escape(text: str) -> str:
    from html import escape  # loads the names of all characters; this module is loaded by all programs

    return escape(text)
