"""Where a text holds personal data. Each finder yields spans; what only looks like a number of its kind is told apart by its checksum.

Every expression here has bounded repeats of characters that its neighbours do not take: the time grows with the text alone.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterator

Span = tuple[int, int]
Finder = Callable[[str], Iterator[Span]]

_EMAIL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")
_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,63}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,40}")
_PHONE = re.compile(r"(?<![\w+])(?:(?:\+|00)[1-9](?:[ ()./-]{0,2}\d){6,13}|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4})(?!\d)")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:\.\d{1,3}){0,3}(?![\w:])")
_MIN_CARD, _MAX_CARD = 13, 19
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
    "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22,
    "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30,
    "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27,
    "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31,
    "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip
"""Characters of an IBAN by country. Source: SWIFT IBAN registry."""


def is_luhn(digits: str) -> bool:
    """Return whether the last digit is the check digit of the others. Source: ISO/IEC 7812-1 annex B."""
    total = 0
    for index, char in enumerate(reversed(digits)):
        value = ord(char) - 48
        if index % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """Return whether digits are a payment card's number: 13 to 19, of a payment industry (2 to 6), with their check digit."""
    return _MIN_CARD <= len(digits) <= _MAX_CARD and digits[0] in "23456" and len(set(digits)) > 1 and is_luhn(digits)


def is_iban(text: str) -> bool:
    """Return whether a text without spaces is an IBAN: its country's length, and 1 modulo 97. Source: ISO 13616-1, ISO 7064."""
    text = text.upper()
    if _IBAN_LENGTHS.get(text[:2]) != len(text):
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def emails(text: str) -> Iterator[Span]:
    """Yield e-mail addresses."""
    return (match.span() for match in _EMAIL.finditer(text))


def cards(text: str) -> Iterator[Span]:
    """Yield card numbers, also beside other groups of digits such as `4111 1111 1111 1111 12/27`."""
    for match in _DIGITS.finditer(text):
        if not match[0].isascii():
            continue
        groups = [group.span() for group in re.finditer(r"\d+", match[0])]
        digits = re.sub(r"\D", "", match[0])
        offsets = [0, *itertools.accumulate(end - start for start, end in groups)]
        first = 0
        while first < len(groups):
            for last in range(min(len(groups), first + _MAX_CARD), first, -1):
                count = offsets[last] - offsets[first]
                if count < _MIN_CARD:
                    break
                if count <= _MAX_CARD and is_card(digits[offsets[first] : offsets[last]]):
                    yield match.start() + groups[first][0], match.start() + groups[last - 1][1]
                    first = last - 1
                    break
            first += 1


def ibans(text: str) -> Iterator[Span]:
    """Yield IBANs, written in one piece or in groups."""
    for match in _IBAN.finditer(text):
        wanted = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        seen = 0
        for index, char in enumerate(match[0]):
            seen += char != " "
            if seen == wanted:
                after = match.start() + index + 1
                if not text[after : after + 1].isalnum() and is_iban(match[0][: index + 1].replace(" ", "")):
                    yield match.start(), after
                break


def phones(text: str) -> Iterator[Span]:
    """Yield phone numbers: international ones (`+` or `00`), and those of North America with separators."""
    return (match.span() for match in _PHONE.finditer(text))


def ips(text: str) -> Iterator[Span]:
    """Yield IPv4 and IPv6 addresses."""
    for pattern in (_IPV4, _IPV6):
        for match in pattern.finditer(text):
            if pattern is _IPV6 and match[0].count(":") < 2:
                continue
            try:
                ipaddress.ip_address(match[0])
            except ValueError:
                continue
            yield match.span()


def custom(pattern: re.Pattern[str]) -> Finder:
    """Return a finder of what an expression matches; empty matches are none."""
    return lambda text: (match.span() for match in pattern.finditer(text) if match.end() > match.start())


_DIGIT = re.compile(r"\d")


def may_hold(kind: str, text: str) -> bool:
    """Return whether it is worth looking for a kind: most texts have no `@` and no digit, and are done with by that."""
    if kind == "email":
        return "@" in text
    if kind == "ip":
        return ":" in text or ("." in text and _DIGIT.search(text) is not None)
    return _DIGIT.search(text) is not None


KINDS: dict[str, Finder] = {"email": emails, "card": cards, "iban": ibans, "phone": phones, "ip": ips}
