"""What commands are made of: how each is called, documented, and what they all start with.

A command is made by `documented`, which adds an example and the exit codes to its help. Nothing
heavy is imported until a command runs: `--help` must be quick. `shared.program` has the programs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from shared import output
from shared.host.errors import ExitCode

if TYPE_CHECKING:
    from shared.host.configuration import Configuration
    from shared.site import Site

#: Context settings of every command and group.
HELP: Final[dict[str, Any]] = {"help_option_names": ["-h", "--help"]}


@dataclass
class Invocation:
    """What the options before the command say, and what every command starts with."""

    program: str
    json: bool = False
    config: str | None = None
    verbosity: int = 0
    log_format: str = "text"
    #: What the command ends with if it cannot say its answer, where that has a code of its own.
    unanswered: int | None = None
    #: What this host is called, once a command has opened its site.
    node: str = field(default="", init=False, compare=False)
    #: The configuration that was read, after what it is known by.
    _read: "tuple[object, Configuration] | None" = field(
        default=None, init=False, repr=False, compare=False
    )

    def failed(self, code: int) -> int:
        """With what the program ends that failed: with `code`, unless the command has its own."""
        return code if self.unanswered is None else self.unanswered

    @property
    def errors_as_json(self) -> bool:
        """Whether an error is a JSON object on stderr: what is printed is JSON, or the log is."""
        return self.json or self.log_format == "json"

    def configuration(self) -> "Configuration":
        """The settings, read again only if others stand there by now. Raises `ConfigurationError`.

        A worker that watched sessions for minutes tells and writes by what stands there then.
        """
        from shared.host.configuration import load
        from shared.host.configuration.loading import mark

        now = mark(self.config)
        if self._read is None or now is None or self._read[0] != now:
            self._read = now, load(self.config)
        return self._read[1]

    def site(self, *, reading: bool = False, may_give_up_reserve: bool = False) -> "Site":
        """The state database that the configuration names.

        `reading`: also on a NAS that is read-only. `may_give_up_reserve`: the command makes room on
        a full NAS, or undoes what is left. Raises what `open_site` raises.
        """
        from shared.host.clock import SystemClock
        from shared.site import open_site

        site = open_site(self.configuration(), SystemClock(), reading=reading)
        self.node = site.node
        site.database.may_give_up_reserve = may_give_up_reserve
        for warning in site.database.warnings:  # here, so that no command forgets it
            output.warn(warning)
        return site


pass_invocation: Final = click.make_pass_decorator(Invocation)


def documented(
    *,
    example: str,
    codes: Sequence[ExitCode] = (),
    special: Mapping[ExitCode, str] = MappingProxyType({}),
    meanings: Mapping[int, str] | None = None,
    unanswered: int | None = None,
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Makes a click command whose help ends with `example` and its exit codes.

    `example` has one command a line. The command may return an `ExitCode`. `special` says what some
    of the `codes` mean here, in other words than the registry's. One whose exit codes are others
    has `meanings` of its own, of which `unanswered` is for whatever keeps it from its answer: a
    wrong command line, output that cannot be written, an error that nobody expected.
    """
    always = {ExitCode.DONE, ExitCode.FAILURE, ExitCode.USAGE}
    shown = sorted({*always, ExitCode.INTERRUPTED, ExitCode.TERMINATED, *codes})
    explained = meanings or {code.value: special.get(code, code.meaning) for code in shown}
    lines = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in explained.items())
    examples = "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
    epilog = f"\b\nExamples:\n{examples}\n\n\b\nExit codes:\n{lines}"
    settings: dict[str, Any] = {"epilog": epilog, "context_settings": HELP}

    def make(function: Callable[..., int | None]) -> click.Command:
        command = click.command(cls=Command, **settings)(function)
        command.unanswered = unanswered
        return command

    return make


class Command(click.Command):
    """A command that knows with which code it ends if it cannot say its answer."""

    unanswered: int | None = None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`; an error always knows whose it is."""
        if (invocation := ctx.find_object(Invocation)) is not None:
            invocation.unanswered = self.unanswered
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            if isinstance(error, click.NoSuchOption):
                said = error.message.rstrip(".")
                error.message = said + _goes_before(error.option_name, ctx)  # type: ignore[misc]
            raise


def _goes_before(option: str, ctx: click.Context) -> str:
    """Where an option of all commands goes that was given behind one of them; of others a dot."""
    program = ctx.find_root()
    if program is ctx or not any(option in known.opts for known in program.command.params):
        return "."
    command = ctx.command_path.removeprefix(f"{program.command_path} ")
    return f": it goes before the command, like {program.command_path} {option} … {command}"


json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document; fields are only ever added."
)
dry_run_option: Final = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and change nothing."
)
