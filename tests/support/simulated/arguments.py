"""VBoxManage's command lines: `--name value`, `--name=value`, `--flag`, and words."""

from tests.support.simulated.errors import UsageError


def parse(
    words: list[str], *, values: tuple[str, ...] = (), flags: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, str]]:
    """The words that are no options, and the options without their dashes.

    Raises `UsageError` for an option that is not listed.
    """
    plain: list[str] = []
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        name = "--output" if name == "-o" else name
        if not word.startswith("-") or word == "-":
            plain.append(word)
        elif name in flags and not equals:
            options[name.removeprefix("--")] = "yes"
        elif name in values:
            options[name.removeprefix("--")] = value if equals else next(rest, "")
        else:
            raise UsageError(f"Unknown option: {word}")
    return plain, options


def required(words: list[str], count: int) -> list[str]:
    """The first `count` words. Raises `UsageError` if there are fewer."""
    if len(words) < count:
        raise UsageError("Not enough parameters.")
    return words[:count]
