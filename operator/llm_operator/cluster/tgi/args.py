"""Reads a command line and an environment as the launcher's parser (clap 4) does.

Decides whether the text is well formed, option by option, and what it says; refuses to know which
values make sense together (`launcher` does). The command line beats the environment, and the
environment is only looked at for options that the command line does not give.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from .options import Kind, Option, Value, options_of
from .versions import NEWEST, Version

_RANGES = {Kind.U16: 2**16, Kind.U32: 2**32, Kind.U64: 2**64}
_FLOAT = re.compile(r"[+-]?(inf|infinity|nan|(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)", re.IGNORECASE)


class UsageError(Exception):
    """The parser refuses: exit code 2. The text is the first line of what it prints."""


class PrintAndExit(Exception):
    """`--help` or `--version` was asked for: exit code 0."""


class Args(Mapping[str, Value]):
    """Every option of the release by its name, given or default."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, name: str) -> int | None:
        """An integer option, or None where it is unset or the release lacks it."""
        value = self._values.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def number(self, name: str, default: float) -> float:
        value = self._values.get(name)
        return float(value) if isinstance(value, int | float) else default

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        return value if isinstance(value, bool) else None

    def debug(self) -> str:
        """The line that the launcher logs at start, API key included."""
        shown = ", ".join(f"{name.replace('-', '_')}: {value!r}" for name, value in self.items())
        return f"Args {{ {shown} }}"


def parse(argv: Sequence[str], env: Mapping[str, str], version: Version = NEWEST) -> Args:
    """Read `argv` (without the program's name) and `env` for one release.

    Raises UsageError (exit code 2) or PrintAndExit (exit code 0).
    """
    options = options_of(version)
    given = _read_argv(argv, options, version)
    for option in options:
        if option.name not in given and option.env is not None and option.env in env:
            given[option.name] = _read_env(option, env[option.env], version)
    return Args({option.name: given.get(option.name, option.default) for option in options})


def _read_argv(
    argv: Sequence[str], options: Sequence[Option], version: Version
) -> dict[str, Value]:
    by_name = {option.name: option for option in options}
    by_short: dict[str, Option] = {}
    for option in options:
        if option.short:
            by_short.setdefault(option.short, option)
    given: dict[str, Value] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        option, attached = _which(word, by_name, by_short)
        if option.kind is Kind.FLAG:
            if attached is not None:
                raise UsageError(
                    f"unexpected value '{attached}' for '{option.shown}' found; "
                    "no more were expected"
                )
            value: Value = True
        else:
            if attached is None:
                attached = _take_value(option, rest, by_name, by_short)
            value = _convert(option, attached, version)
        if option.name in given and not option.repeatable:
            raise UsageError(f"the argument '{option.shown}' cannot be used multiple times")
        given[option.name] = _append(given.get(option.name), value)
    return given


def _append(before: Value, value: Value) -> Value:
    if isinstance(before, tuple) and isinstance(value, tuple):
        return (*before, *value)
    return value


def _which(
    word: str, by_name: Mapping[str, Option], by_short: Mapping[str, Option]
) -> tuple[Option, str | None]:
    """The option that a word names, and the value attached to it (`--x=v`, `-xv`, `-x=v`)."""
    if word.startswith("--") and len(word) > 2:
        name, equals, value = word[2:].partition("=")
        if name in ("help", "version"):
            raise PrintAndExit(name)
        if name not in by_name:
            raise UsageError(f"unexpected argument '--{name}' found")
        return by_name[name], value if equals else None
    if word.startswith("-") and len(word) > 1 and word != "--":
        letter, value = word[1], word[2:]
        if letter in "hV" and not value:
            raise PrintAndExit("help" if letter == "h" else "version")
        if letter not in by_short:
            raise UsageError(f"unexpected argument '-{letter}' found")
        return by_short[letter], value.removeprefix("=") if value else None
    raise UsageError(f"unexpected argument '{word}' found")


def _take_value(
    option: Option,
    rest: list[str],
    by_name: Mapping[str, Option],
    by_short: Mapping[str, Option],
) -> str:
    """The next word as a value: nothing that starts with a dash can be one."""
    if rest and (not rest[0].startswith("-") or rest[0] == "-"):
        return rest.pop(0)
    if rest and rest[0] != "--":
        _which(rest[0], by_name, by_short)  # an unknown option is complained about first
    raise UsageError(f"a value is required for '{option.shown}' but none was supplied")


def _read_env(option: Option, text: str, version: Version) -> Value:
    if option.kind is Kind.FLAG:
        return _choose(option, text, ("true", "false")) == "true"
    return _convert(option, text, version)


def _convert(option: Option, text: str, version: Version) -> Value:
    match option.kind:
        case Kind.TEXT:
            return text
        case Kind.TEXT_LIST:
            return (text,)
        case Kind.BOOL:
            return _choose(option, text, ("true", "false")) == "true"
        case Kind.CHOICE:
            return _choose(option, text, option.words(version))
        case Kind.USIZE_LIST:
            return tuple(_integer(option, part) for part in text.split(","))
        case Kind.F32:
            return _float(option, text)
        case _:
            return _integer(option, text)


def _choose(option: Option, text: str, words: Sequence[str]) -> str:
    if not text:
        raise UsageError(f"a value is required for '{option.shown}' but none was supplied")
    if text not in words:
        raise UsageError(f"invalid value '{text}' for '{option.shown}'")
    return text


def _integer(option: Option, text: str) -> int:
    ranged = option.kind in _RANGES
    if not text:
        raise _invalid(option, text, "cannot parse integer from empty string")
    if not re.fullmatch(r"[+-]?\d+" if ranged else r"\+?\d+", text, re.ASCII):
        raise _invalid(option, text, "invalid digit found in string")
    value, top = int(text), _RANGES.get(option.kind, 2**64) - 1
    if ranged and not 0 <= value <= top:
        raise _invalid(option, text, f"{value} is not in 0..={top}")
    if value > top:
        raise _invalid(option, text, "number too large to fit in target type")
    return value


def _float(option: Option, text: str) -> float:
    if not text:
        raise _invalid(option, text, "cannot parse float from empty string")
    if not _FLOAT.fullmatch(text):
        raise _invalid(option, text, "invalid float literal")
    return float(text)


def _invalid(option: Option, text: str, why: str) -> UsageError:
    return UsageError(f"invalid value '{text}' for '{option.shown}': {why}")
