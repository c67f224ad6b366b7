"""The programs: global options, commands loaded when called, one place that reports errors.

A program is a `Program` (a click group) of commands that `shared.command_line` documents.
"""

import contextlib
import gc
import importlib
import logging
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NoReturn

import click
from click.shell_completion import CompletionItem

from shared import output
from shared.command_line import HELP, Invocation
from shared.host import logs, shortage, streams
from shared.host.errors import ExitCode, VmBackupError
from shared.host.printable import printable, printable_lines
from shared.host.signals import ending_in_order

#: So many more objects than before are there when it is looked whether some of them are waste. At
#: Python's 700 that is done a hundred times while a command is imported, which leaves none: a tenth
#: of the start.
_COLLECTED_AT: Final = 20_000


class Program(click.Group):
    """A program whose commands are imported when they are called.

    `commands` maps their names to the line that the program's `--help` shows. Command `x` is the
    attribute `command` of the module `<modules>x`, or what `where` gives for it as
    `module:attribute`. `unattended` programs are run by cron: an unexpected error shows its
    traceback at once, because nobody is there to ask again with `-v -v`.
    """

    def __init__(
        self,
        name: str,
        modules: str,
        commands: Mapping[str, str],
        *,
        purpose: str,
        where: Mapping[str, str] = MappingProxyType({}),
        unattended: bool = False,
    ) -> None:
        super().__init__(
            name,
            help=purpose,
            callback=_start,
            params=_global_options(),
            epilog=f"{name} COMMAND --help explains a command, with examples and exit codes.",
            context_settings={**HELP, "max_content_width": 110},
        )
        self._modules = modules
        self._lines = commands
        self._where = where
        self._unattended = unattended

    @property
    def names(self) -> list[str]:
        """The commands, in the order of the help."""
        return list(self._lines)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """See `click.Group.list_commands`."""
        return list(self._lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group.get_command`; while a shell completes, the command's outline will do."""
        if cmd_name not in self._lines:
            return None
        if ctx.resilient_parsing:
            from shared import outline

            if outlined := outline.read(str(self.name), cmd_name):
                return outlined
        return self.imported(cmd_name)

    def imported(self, cmd_name: str) -> click.Command:
        """The command itself."""
        module, _, attribute = self._where.get(cmd_name, f"{cmd_name}:command").partition(":")
        found = getattr(importlib.import_module(f"{self._modules}{module}"), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self._modules}{module} has no command {cmd_name}")
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Group.parse_args`; of a wrong option before a command, that one is blamed."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError:
            meant = next((word for word in given if word in self._lines), None)
            invocation = ctx.find_object(Invocation)
            if meant is not None and invocation is not None:
                invocation.unanswered = getattr(self.imported(meant), "unanswered", None)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """See `click.Group.resolve_command`; a command that is not there names similar ones."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(
                error.command_name, possibilities=self._lines, ctx=ctx
            ) from None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See `click.Group.shell_complete`: here without importing the commands."""
        own = click.Command.shell_complete(self, ctx, incomplete)
        lines = self._lines.items()
        found = [CompletionItem(name, help=line) for name, line in lines]
        return [*(item for item in found if item.value.startswith(incomplete)), *own]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """See `click.Group.format_commands`: here without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._lines.items()))

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        **extra: Any,  # noqa: ANN401
    ) -> NoReturn:
        """Runs the program and exits with the code that the registry has for how it ended."""
        arguments = list(sys.argv[1:] if args is None else args)
        gc.set_threshold(_COLLECTED_AT)
        invocation = Invocation(str(self.name), json="--json" in arguments)
        streams.make_usable()
        if args is None:
            streams.use_utf8()
        with ending_in_order():
            status = self._run(arguments, prog_name or invocation.program, invocation, extra)
        streams.settle()
        sys.exit(int(status))

    def _run(
        self, arguments: list[str], prog_name: str, invocation: Invocation, extra: Mapping[str, Any]
    ) -> int:
        try:
            settings = {**extra, "standalone_mode": False, "obj": invocation}
            with streams.written():
                status = super().main(arguments, prog_name, **settings)
        except click.exceptions.Abort as error:
            return _interrupted(invocation, error.__cause__)
        except click.ClickException as error:
            return _report_usage(invocation, error)
        except VmBackupError as error:
            return _report(invocation, error)
        except BrokenPipeError:  # the reader of our output has gone, for instance `| head`
            streams.discard()
            return invocation.failed(ExitCode.FAILURE)
        except Exception as error:  # noqa: BLE001 - the last resort: an exit code and a message instead of a bare traceback
            return self._report_unexpected(invocation, error)
        return status if isinstance(status, int) else ExitCode.DONE

    def _report_unexpected(self, invocation: Invocation, error: Exception) -> int:
        lacking = shortage.lacking(error)
        if invocation.verbosity > 1 or (self._unattended and not lacking):
            logging.getLogger(__name__).error("unexpected error", exc_info=error)
            hint = "this is a fault of the program: please report it with the traceback above"
        else:
            hint = (
                f"this is a fault of the program: `{invocation.program} -v -v …` shows the "
                f"traceback; please report it"
            )
        told = VmBackupError(f"unexpected {type(error).__name__}: {error}", hint=hint)
        if lacking:
            told = VmBackupError(
                f"this host did not let the program go on: {lacking}",
                hint=(
                    "it has run out of them, or limits them: `ulimit -a`, and TasksMax= and "
                    "MemoryMax= of a systemd unit. What was begun is carried on by the next tick"
                ),
            )
        return _report(invocation, told)


def _report(invocation: Invocation, error: VmBackupError) -> int:
    code = invocation.failed(error.exit_code)
    output.report(
        error,
        invocation.program,
        code,
        as_json=invocation.errors_as_json,
        config=invocation.config,
        node=invocation.node,
    )
    return code


def _interrupted(invocation: Invocation, cause: BaseException | None) -> ExitCode:
    """Says to whoever gave the ^C that it was heeded, if the command has not said more of it."""
    told = getattr(cause, "__notes__", ())
    if isinstance(cause, KeyboardInterrupt) and not told and sys.stderr.isatty():
        with contextlib.suppress(OSError):
            click.echo(f"{invocation.program}: interrupted", err=True)
    return ExitCode.INTERRUPTED


def _report_usage(invocation: Invocation, error: click.ClickException) -> int:
    helpful = isinstance(error, click.exceptions.NoArgsIsHelpError)  # its message is the help
    error.message = (printable_lines if helpful else printable)(error.message)  # type: ignore[misc]
    code = invocation.failed(error.exit_code)
    if invocation.errors_as_json:
        output.report_json("UsageError", code, error.format_message(), "see --help")
    else:
        with contextlib.suppress(OSError):
            error.show()
    return code


def _global_options() -> list[click.Parameter]:
    options = [
        click.Option(
            ["--config"],
            metavar="FILE",
            help=(
                "Configuration file; else $VMBACKUP_CONFIG, /etc/vmbackup/config.toml, ~/.config/…"
            ),
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            help="Say what is done; twice: every command, and tracebacks.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            default="text",
            help="How messages on stderr look.",
        ),
    ]
    holder = click.Command("version", params=[])
    click.version_option(package_name="vmbackup")(holder)
    return [*options, *holder.params]


@click.pass_obj
def _start(invocation: Invocation, config: str | None, verbose: int, log_format: str) -> None:
    invocation.config, invocation.verbosity, invocation.log_format = config, verbose, log_format
    output.print_as_json(wanted=invocation.json)
    logs.set_up(verbosity=verbose, log_format=log_format, program=invocation.program)
