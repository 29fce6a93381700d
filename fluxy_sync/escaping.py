"""Text from elsewhere, made safe for a terminal and a log: what doesn't print is written out."""

INDENT = "    "
"""What each line but the first of an event begins with: no line that somebody smuggled in begins like a real one."""
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks to Python, and nothing to the eye."""


def visible(text: str, keep: str = "") -> str:
    """The text with everything that doesn't print written out: no name and no payload steers a terminal.

    That is control characters (ESC, C1, line ends), what turns the direction of writing or has no width, line and
    paragraph separators, and lone surrogates.
    """
    if text.isprintable() and _BLANKS.isdisjoint(text):
        return text
    return "".join(c if _is_plain(c) or c in keep else c.encode("unicode_escape").decode() for c in text)


def _is_plain(character: str) -> bool:
    return character.isprintable() and character not in _BLANKS


def one_event(text: str) -> str:
    """The text of one event of a log: its line ends stay, and each line but the first is set in."""
    return visible(text, keep="\n\t").replace("\n", f"\n{INDENT}")
