"""Text files that users give: reading them, and telling when they changed."""

import re
from pathlib import Path

from persona_prune.common.cache import atomic

_UNENCODABLE = re.compile("[\x00\ud800-\udfff]")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file; a byte-order mark is left out, and all line ends become ``\\n``.

    Raises:
        ValueError: the file is empty, not UTF-8, or holds NUL characters; the message names the line.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + len(content) - len(error.object)  # a byte-order mark is no part of the object
        line = _lines(content[:start].decode("utf-8", "replace")).count("\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text (byte {start})") from None
    text = _lines(text)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path}, line {line}: holds a NUL character: is it UTF-8 text?")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def unencodable(text: str) -> str | None:
    """Return what is said of a text that no tokenizer can be given, and None of any other."""
    found = _UNENCODABLE.search(text)
    if found is None:
        return None
    kind = "a NUL character" if found[0] == "\0" else f"{found[0]!a}, half of a character, which can't be encoded"
    return f"holds {kind}: leave it out"


def encodable(text: str) -> str:
    """Return ``text``; raise ValueError if no tokenizer can be given it."""
    if told := unencodable(text):
        raise ValueError(told)
    return text


def directory_stamp(path: str) -> object:
    """Return what changes when the files in a directory do; None where there is no such directory."""
    directory = Path(path).expanduser()
    files = directory.iterdir() if directory.is_dir() else []
    there = [(file.name, file.stat()) for file in files if file.exists()]  # a link may lead nowhere
    return sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in there) or None


def write_text(path: Path, text: str) -> None:
    """Write a file, all or nothing."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_last_word(path: Path, text: str, shorter: str) -> None:
    """Write a file, all or nothing; where the disk is full, over what is there, and ``shorter`` if that is too long.

    Raises:
        OSError: nothing is there to write over, or it can't be written either.
    """
    try:
        write_text(path, text)
    except OSError:
        if not path.is_file():
            raise
        try:
            _write_over(path, text)
        except OSError:
            _write_over(path, shorter)


def _write_over(path: Path, text: str) -> None:
    # Not truncated before it is written: the blocks that it has are the only ones to be had.
    with path.open("r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()
