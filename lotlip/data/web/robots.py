"""What servers ask of robots: robots.txt (RFC 9309) and the X-Robots-Tag header."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from protego import Protego
from yarl import URL

MAX_ROBOTS_BYTES = 500 * 1024  # what RFC 9309 wants to be read at least; the rest is not
_NO_USE = ("noai", "noimageai")
# Directives with a value: in `max-snippet: 20` the colon follows no robot's name.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


class RobotsError(Exception):
    """The server forbids what was asked for; the message is a short reason."""


@dataclass(frozen=True)
class Rules:
    """The rules of one origin: `parsed` is None where everything is allowed; `unreachable` says why there are
    none to be had, and then nothing is.
    """

    parsed: Protego | None = None
    unreachable: str | None = None

    def check(self, url: URL, user_agent: str) -> None:
        """Raise where `url` is not to be fetched.

        Raises:
            RobotsError: robots.txt forbids it.
        """
        if self.parsed is not None and not self.parsed.can_fetch(str(url), product_token(user_agent)):
            raise RobotsError("robots: forbidden by robots.txt")


def parse_rules(status: int, body: bytes) -> Rules | None:
    """The rules in an answer to robots.txt, or None where the server failed and the file may be there.

    Source: RFC 9309, 2.3.1: 4xx means that there are no rules, 5xx that everything is forbidden.
    """
    if status >= 500:
        return None
    if status != 200:
        return Rules()
    return Rules(Protego.parse(body[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace")))


def check_tags(headers: Iterable[str], user_agent: str) -> None:
    """Raise where X-Robots-Tag headers forbid to train on the image.

    A header is a list of directives, after a robot's name and a colon if it is meant for that one only.

    Raises:
        RobotsError: `noai` or `noimageai` is among those meant for us.
    """
    token = product_token(user_agent).lower()
    for header in headers:
        is_meant = True
        for part in header.lower().split(","):
            name, colon, directive = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _WITH_VALUE:
                is_meant = name in (token, "*")
                name = directive
            if is_meant and name in _NO_USE:
                raise RobotsError(f"robots: {name}")


def product_token(user_agent: str) -> str:
    """The name by which robots.txt calls a user agent: `lotlip-download/1.0 (+https://...)` is `lotlip-download`."""
    found = re.match(r"[A-Za-z_-]+", user_agent)
    return found.group() if found else user_agent
