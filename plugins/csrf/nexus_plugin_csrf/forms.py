"""One field out of a form's body. A form in which it is there twice, or that cannot be read, has none."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

MAX_FIELDS = 1000

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([A-Za-z*-]+)=(?:"([^"\r\n]*)"|([^\s;"]+))')


def is_form(content_type: str) -> bool:
    """Return whether a body of this type is a form."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def find_field(content_type: str, body: bytes, name: str) -> str | None:
    """Return the value of the only field of that name, or None."""
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        values = _multipart(content_type, body, name.encode())
    else:
        try:
            pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        values = [value for key, value in pairs if key == name]
    return values[0] if len(values) == 1 else None


def _multipart(content_type: str, body: bytes, name: bytes) -> list[str]:
    match = _BOUNDARY.search(content_type)
    if match is None:
        return []
    parts = (b"\r\n" + body).split(b"\r\n--" + (match[1] or match[2]).encode("latin-1"), MAX_FIELDS + 1)
    values: list[str] = []
    for part in parts[1:]:
        if part.startswith(b"--"):
            break  # the closing boundary
        head, found, value = part.partition(b"\r\n\r\n")
        if not found:
            continue
        for line in head.split(b"\r\n"):
            key, _, rest = line.partition(b":")
            if key.strip().lower() == b"content-disposition":
                # One after the other, so that what is quoted in a file's name is not taken for a parameter.
                said = {
                    match[1].lower(): match[2] if match[2] is not None else match[3]
                    for match in _PARAMETER.finditer(rest)
                }
                if said.get(b"name") == name and b"filename" not in said:
                    values.append(value.decode("latin-1"))
    return values
