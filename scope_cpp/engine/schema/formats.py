"""What the values of ``format`` demand, as regular expressions that match the whole text.

Where documents or checkers differ about a format, only what all of them accept is matched. Each
format has one or more expressions, all of which hold.
"""

from __future__ import annotations

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = (
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"  # from 4 on
)
_DAY = (
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))"
)
_DATE = f"(?:{_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_CLOCK}:[0-5][0-9](?:\\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})"
_CLOCK_SPAN = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DATE_SPAN = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"

_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
# no hyphens in a row: names that begin with xn-- have rules of their own
_LABEL = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_HOST = f"{_LABEL}(?:\\.{_LABEL})*"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = f"{_OCTET}(?:\\.{_OCTET}){{3}}"
_GROUP = "[0-9A-Fa-f]{1,4}"
_IPV6 = (
    f"(?:(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}:){{1,7}}:|"
    + "|".join(f"(?:{_GROUP}:){{1,{7 - n}}}(?::{_GROUP}){{1,{n}}}" for n in range(1, 7))
    + f"|:(?::{_GROUP}){{1,7}}|::)"
)
_PATH_CHAR = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_NAME_CHAR = "(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = f"//(?:(?:{_NAME_CHAR}|:)*@)?{_NAME_CHAR}*(?::[0-9]{{1,5}})?(?:/{_PATH_CHAR}*)*"
_URI = (
    f"[A-Za-z][A-Za-z0-9+.-]*:(?:{_AUTHORITY}|/?(?:{_PATH_CHAR}+(?:/{_PATH_CHAR}*)*)?)"
    f"(?:\\?(?:{_PATH_CHAR}|[/?])*)?(?:#(?:{_PATH_CHAR}|[/?])*)?"
)

PATTERNS: dict[str, tuple[str, ...]] = {
    "date": (_DATE,),
    "time": (_TIME,),
    "date-time": (f"{_DATE}T{_TIME}",),
    "duration": (f"P(?:[0-9]+W|{_DATE_SPAN}(?:{_CLOCK_SPAN})?|{_CLOCK_SPAN})",),
    "email": (f"{_ATOM}(?:\\.{_ATOM})*@{_HOST}", "[^@]{1,64}@(?:[^.]{1,63}\\.)*[^.]{1,63}"),
    "hostname": (_HOST, "(?:[^.]{1,63}\\.)*[^.]{1,63}", ".{1,253}"),
    "ipv4": (_IPV4,),
    "ipv6": (_IPV6,),
    "uuid": ("[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",),
    "uri": (_URI,),
    "json-pointer": ("(?:/(?:[^~/]|~[01])*)*",),
    # these say what a text is for, not what it looks like
    "password": (),
    "path": (),
    "file-path": (),
    "directory-path": (),
}

# formats of OpenAPI for numbers: the least and the greatest
RANGES: dict[str, tuple[int, int] | None] = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(10**18), 10**18),
    "float": None,
    "double": None,
}
