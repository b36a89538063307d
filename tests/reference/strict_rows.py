"""A slow, strict reader of CSV and JSON Lines: one character at a time, nothing guessed, no library that parses.

What it returns is what a file says; what it refuses, it refuses at the line on which the faulty row begins.
"""

SPACE = " \t\n"


class RefusedError(Exception):
    """The file says nothing certain; ``line`` is where the faulty row begins."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def text_of(content: bytes) -> str:
    """Decode UTF-8 with one line end; refuse at the line of the first byte that is none of it, then of a NUL."""
    content = content[3:] if content[:3] == b"\xef\xbb\xbf" else content
    decoded, line, at = [], 1, 0
    while at < len(content):
        first = content[at]
        size = 1 if first < 0x80 else 2 if 0xC2 <= first < 0xE0 else 3 if 0xE0 <= first < 0xF0 else 4
        try:
            letter = content[at : at + size].decode("utf-8")
        except UnicodeDecodeError:
            raise RefusedError(line) from None
        at += size
        if letter == "\r":
            at += content[at : at + 1] == b"\n"
            letter = "\n"
        line += letter == "\n"
        decoded.append(letter)
    text = "".join(decoded)
    if "\0" in text:
        raise RefusedError(1 + text.split("\0")[0].count("\n"))
    return text


def csv_rows(text: str) -> list[tuple[int, dict]]:
    header, rows, line = None, [], 1
    for begins, fields, blank in _records(text):
        line = begins
        if blank:
            continue
        if header is None:
            header = fields
            if len(set(header)) < len(header):
                raise RefusedError(line)
        elif len(fields) != len(header):
            raise RefusedError(line)
        else:
            rows.append((line, {name: field for name, field in zip(header, fields)}))
    return rows


def _records(text):
    """Yield (line, fields, is blank) of every record, and raise at a bad one only once those before it are taken."""
    begins = line = 1
    fields, field, raw = [], "", ""
    state = "start"  # of a field; or plain, quoted, closed
    for letter in [*text, None]:
        if state == "quoted":
            if letter is None:
                raise RefusedError(begins)
            if letter == '"':
                state = "closed"
            else:
                field += letter
        elif letter == '"':
            if state == "start":
                state = "quoted"
            elif state == "closed":
                field += '"'
                state = "quoted"
            else:
                raise RefusedError(begins)
        elif letter in (",", "\n", None):
            fields.append(field)
            field, state = "", "start"
            if letter != ",":
                yield begins, fields, not raw.strip()
                fields, raw, begins = [], "", line + 1
        elif state == "closed":
            raise RefusedError(begins)
        else:
            state = "plain"
            field += letter
        if letter is not None:
            raw += letter if begins <= line else ""
            line += letter == "\n"


def jsonl_rows(text: str) -> list[tuple[int, dict]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = _Json(line).document()
            except (ValueError, IndexError):
                raise RefusedError(number) from None
            if not isinstance(row, dict):
                raise RefusedError(number)
            rows.append((number, row))
    return rows


class _Json:
    """RFC 8259, and every key once."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def document(self):
        value = self.value(1)
        self.space()
        if self.at < len(self.text):
            raise ValueError
        return value

    def space(self):
        while self.at < len(self.text) and self.text[self.at] in SPACE:
            self.at += 1

    def take(self, wanted):
        if not self.text.startswith(wanted, self.at):
            raise ValueError
        self.at += len(wanted)

    def value(self, depth):
        self.space()
        letter = self.text[self.at]
        if letter in "{[" and depth > 100:
            raise ValueError
        if letter == "{":
            return self.members(depth)
        if letter == "[":
            return self.items(depth)
        if letter == '"':
            return self.string()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        return self.number()

    def members(self, depth):
        found = {}
        self.take("{")
        self.space()
        if self.text[self.at] == "}":
            self.at += 1
            return found
        while True:
            self.space()
            key = self.string()
            if key in found:
                raise ValueError
            self.space()
            self.take(":")
            found[key] = self.value(depth + 1)
            self.space()
            if self.text[self.at] == "}":
                self.at += 1
                return found
            self.take(",")

    def items(self, depth):
        found = []
        self.take("[")
        self.space()
        if self.text[self.at] == "]":
            self.at += 1
            return found
        while True:
            found.append(self.value(depth + 1))
            self.space()
            if self.text[self.at] == "]":
                self.at += 1
                return found
            self.take(",")

    def string(self):
        self.take('"')
        units = []  # UTF-16, in which JSON's escapes are
        while self.text[self.at] != '"':
            letter = self.text[self.at]
            self.at += 1
            if ord(letter) < 0x20:
                raise ValueError
            if letter == "\\":
                kind = self.text[self.at]
                self.at += 1
                if kind == "u":
                    digits = self.text[self.at : self.at + 4]
                    if len(digits) < 4 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
                        raise ValueError
                    self.at += 4
                    units.append(int(digits, 16).to_bytes(2, "little"))
                    continue
                letter = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}.get(
                    kind
                )
                if letter is None:
                    raise ValueError
            units.append(letter.encode("utf-16-le"))
        self.at += 1
        text = b"".join(units).decode("utf-16-le")  # half of a pair is a ValueError
        if "\0" in text:
            raise ValueError
        return text

    def number(self):
        begins = self.at
        while self.at < len(self.text) and self.text[self.at] in "+-.0123456789eE":
            self.at += 1
        number = self.text[begins : self.at]
        whole = number.removeprefix("-")
        digits = len(whole) - len(whole.lstrip("0123456789"))
        if digits == 0 or (whole[0] == "0" and digits > 1):
            raise ValueError
        return int(number) if digits == len(whole) else self.fraction(number, whole[digits:])

    @staticmethod
    def fraction(number, rest):
        point, exponent = rest, ""
        for mark in "eE":
            if mark in rest:
                point, exponent = rest.split(mark, 1)
                exponent = exponent[1:] if exponent[:1] in ("+", "-") else exponent
                if not exponent.isdigit():
                    raise ValueError
                break
        if point and not (point[0] == "." and point[1:].isdigit()):
            raise ValueError
        return float(number)
