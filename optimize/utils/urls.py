"""URLs without what is secret in them, for reports and messages."""

import re
from typing import Any, TypeVar

T = TypeVar("T")

# `user:password@` after `scheme://`. A password may hold a slash where it is not encoded, which
# `host:8080/path@x` may not be taken for: what follows its colon is a number.
_USER = re.compile(
    r"(?P<scheme>\b[A-Za-z][\w+.\-]*://)"
    r"(?:[^\s/@'\"?#]*(?:@[^\s/@'\"?#]*)*@|[^\s/:@'\"]*:(?!\d+/)[^\s'\"]*@)"
)
# An ODBC connection string is left out as a whole: its password stands among other things.
_QUERY = re.compile(
    r"(?P<name>[?&](?:[\w.\-]*(?:password|passwd|secret|token|signature)"
    r"|(?:[\w.\-]*[_.\-])?(?:key|pass|pwd|sig)"
    r"|odbc_connect)=)[^&\s'\"#]+",
    re.IGNORECASE,
)


def cleaned(value: T) -> T:
    """A text, or JSON value with texts in it, of whose URLs user, password and secret query
    parameters are left out.

    >>> cleaned("postgresql://me:secret@host/studies?password=x")
    'postgresql://host/studies?password=...'
    """
    result: Any = value
    if isinstance(value, str):
        result = _QUERY.sub(r"\g<name>...", _USER.sub(r"\g<scheme>", value))
    elif isinstance(value, dict):
        result = {key: cleaned(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(cleaned(item) for item in value)
    return result  # type: ignore[no-any-return]
