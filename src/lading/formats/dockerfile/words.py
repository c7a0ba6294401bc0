"""Words of a line before expansion: quotes and escapes are kept and only keep white space from dividing."""

import re
from typing import Final

SPACE: Final = re.compile(r"[\t\v\f\r ]+")
"""What divides a line's parts; a line has no newline."""


def split_words(text: str, escape: str) -> list[str]:
    """Words divided by bare white space, with their quotes and escapes; a trailing escape is dropped."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if not quote and char.isspace():
            if word:
                words.append("".join(word))
                word.clear()
            continue
        if char == escape and quote != "'":
            if place == len(text):
                break
            word.append(char)
            char = text[place]
            place += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        word.append(char)
    if word:
        words.append("".join(word))
    return words


def split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """The flags (``--x``) at the start of an instruction's arguments, without their quotes, and what follows them."""
    flags: list[str] = []
    place = 0
    while True:
        while place < len(text) and text[place].isspace():
            place += 1
        if not text.startswith("--", place):
            return flags, text[place:]
        flag, place = _flag(text, place, escape)
        if flag == "--":
            return flags, text[place:]
        flags.append(flag)


def _flag(text: str, place: int, escape: str) -> tuple[str, int]:
    """One flag and the place after it."""
    flag: list[str] = []
    quote = ""
    while place < len(text):
        char = text[place]
        if not quote and char.isspace():
            break
        place += 1
        if char == escape:
            if place < len(text):
                flag.append(text[place])
            place += 1
        elif quote:
            if char == quote:
                quote = ""
            else:
                flag.append(char)
        elif char in "'\"":
            quote = char
        else:
            flag.append(char)
    return "".join(flag), place
