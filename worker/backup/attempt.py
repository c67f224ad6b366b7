"""One attempt to back up a VM: export, publication, and what is committed however it ends.

Every way out leaves no partial file and a committed state.
"""

import logging
from typing import Final

from shared.copies.names import make_stamp
from shared.copies.sidecar import Sidecar
from shared.host.clock import timestamp
from shared.host.errors import ExitCode, LockLostError, VmBackupError
from shared.site import Site
from shared.state.rules import backup
from shared.state.sessions.holding import Holding
from shared.tasks import publication
from shared.virtualbox.export_errors import VmRunsError
from worker.backup import publish
from worker.backup.admission import PostponedError
from worker.backup.export import Export
from worker.backup.hooks import Hooks
from worker.backup.looks import Looks
from worker.backup.work import Target, Work

log: Final = logging.getLogger(__name__)


class Attempt:
    """The backup of one VM that is held.

    `forced`: its operator wants it now, however often it was stopped for nothing. `nas_refused`:
    it failed because of the NAS.
    """

    def __init__(self, site: Site, held: Holding, looks: Looks, *, forced: bool = False) -> None:
        self._site, self._held = site, held
        started, claim = site.clock.now(), held.claim.number
        directory = site.directory(held.record)
        self._target = Target(directory, make_stamp(started, claim), claim, started)
        work = Work(site, held, site.policy(held.record), looks)
        self._hooks = Hooks(work.policy, self._facts(), held.key)
        self._export = Export(work, self._target, self._hooks, forced=forced)
        self._error = ""
        self.nas_refused = False

    def run(self) -> bool:
        """Backs the VM up, with the operator's commands before and after; True if it has its copy.

        It is CLEAN then, unless it was used or started again since it was frozen.

        Raises `LockLostError` if this worker was displaced. A VM that turns out to run is committed
        as RUNNING and raises `VmRunsError`; one whose backup has to wait is committed as waiting
        and raises `PostponedError`; any other failure is committed, and False. Whatever happens,
        the VM is brought back to the power state in which it was found, or that stays noted for the
        next tick.
        """
        try:
            sidecar = self._make_copy()
            done = sidecar is not None and self._publish(sidecar)
        except BaseException as error:
            self._hooks.given_up(error)
            raise
        finally:
            self._export.discard_clones()
        if sidecar is None or not done:
            self._hooks.failed(self._error)
            return False
        self._hooks.after({"size": str(sidecar.size), "sha256": sidecar.sha256})
        return True

    def _facts(self) -> dict[str, str]:
        """What the operator's commands are told."""
        record, target = self._held.record, self._target
        return {
            "vm": record.key,
            "uuid": record.uuid,
            "node": self._site.node,
            "stamp": target.stamp,
            "directory": str(target.directory),
            "copy": str(target.final_path("ova")),
        }

    def _make_copy(self) -> Sidecar | None:
        """Exports and checks the copy. None if that failed, which is committed then."""
        held = self._held
        try:
            return self._export.run()
        except VmRunsError as error:
            self._export.undo()
            when, why = timestamp(self._site.clock.now()), f"{held.key}: {error.message}"
            held.commit(
                lambda contents: backup.found_running(contents, held.key, held.claim, when), why
            )
            raise
        except PostponedError as error:
            when, why = timestamp(self._site.clock.now()), error.verdict.reason
            held.commit(
                lambda contents: backup.postponed(contents, held.key, held.claim, why, when),
                f"{held.key} {why}",
            )
            raise
        except LockLostError:
            self._export.undo()
            raise
        except VmBackupError as error:
            self._export.undo()
            self._fail(error)
            return None
        except BaseException:
            self._export.undo()  # interrupted: the end of the session frees the claim
            raise

    def _fail(self, error: VmBackupError) -> None:
        held, when = self._held, timestamp(self._site.clock.now())
        self._error = error.message
        self.nas_refused = error.exit_code == ExitCode.NAS
        held.commit(
            lambda contents: backup.failed(contents, held.key, held.claim, error.message, when),
            f"{held.key} failed",
        )
        log.error(
            "backup failed: %s%s",
            error.message,
            f" ({error.hint})" if error.hint else "",
            extra={"vm": held.key},
        )

    def _publish(self, sidecar: Sidecar) -> bool:
        try:
            publish.intend(self._held, sidecar)
        except LockLostError:
            self._export.undo()
            raise
        self._error = "the copy could not be put in place"
        done = publication.finish(self._site, self._held, self._export.publication_event)
        if done:
            self._export.keep_clones()
        return done
