"""What happens in the demo, part by part. Each part checks what it shows."""

import os
import signal
from typing import TYPE_CHECKING, Final

from deploy.demo import booting, guest_files
from deploy.demo.narration import Narrator
from deploy.demo.stage import DemoFailedError, Stage, wait_until
from tests.support.simulated import SimulatedHost, SimulatedVm

if TYPE_CHECKING:
    from tests.support.hosts import VirtualMachine

#: Random data in the large VM, so that its export takes long enough to be looked at.
LARGE_MIB: Final = 384
#: What web01 has in its disk, and how large the partition is.
FILES: Final = {"etc/motd": "Welcome to web01.\n", "etc/hostname": "web01\n"}
PARTITION_MIB: Final = 4
SIMULATED_EXPORT_SECONDS: Final = 8.0


class Story:
    """The demo on one stage."""

    def __init__(self, stage: Stage, narrator: Narrator) -> None:
        self._stage, self._narrator = stage, narrator
        self._alpha, self._beta = stage.actors
        self._vms: dict[str, VirtualMachine] = {}
        self._has_files = False

    def tell(self) -> None:
        """All of it."""
        for part in (
            self.hosts,
            self.set_up,
            self.first_tick,
            self.afterwards,
            self.one_file,
            self.live,
            self.used_again,
            self.crash,
            self.archive,
            self.restore,
            self.boot,
            self.page,
        ):
            part()

    def hosts(self) -> None:
        """Two hosts and their VMs."""
        self._narrator.heading("Two VirtualBox hosts, alpha and beta, and one NAS")
        self._narrator.say(
            f"The hosts are {self._stage.kind}. Their VMs are small, and both hosts have "
            f"one of "
            f"the name web01."
        )
        self._vms["web01"] = self._alpha.host.make_vm("web01", random_mib=PARTITION_MIB)
        self._has_files = guest_files.put(self._vms["web01"].disk, FILES, PARTITION_MIB)
        self._vms["mail"] = self._alpha.host.make_vm("mail")
        self._beta.host.make_vm("web01")
        self._vms["build"] = self._beta.host.make_vm(
            "build", mib=LARGE_MIB + 16, random_mib=LARGE_MIB
        )
        if isinstance(self._beta.host, SimulatedHost) and isinstance(
            self._vms["build"], SimulatedVm
        ):
            self._beta.host.fault(self._vms["build"], export_seconds=SIMULATED_EXPORT_SECONDS)
        self._vms["mail"].start()
        for actor in self._stage.actors:
            actor.run("VBoxManage", "list", "vms")
        self._alpha.run("VBoxManage", "list", "runningvms")

    def set_up(self) -> None:
        """Configuration and state database."""
        self._narrator.heading(
            "Setting up: a configuration for each host, once a state database on the NAS"
        )
        self._narrator.say(
            "The NAS of this demo is a plain directory, which has to be said (require_mount). "
            "The lease is short, so that nobody "
            "has to wait for a crash to be noticed."
        )
        for actor in self._stage.actors:
            self._stage.configure(actor, slow=actor is self._beta)
        self._alpha.run("cat", str(self._alpha.configuration))
        self._alpha.run("vmbackup-admin", "init", "--lease-seconds", "10")
        self._alpha.run("vmbackup-admin", "doctor", expect=(0, 1))

    def first_tick(self) -> None:
        """Both hosts at once, looked at from outside."""
        self._narrator.heading("What cron does: the workers of both hosts, at the same time")
        for actor in self._stage.actors:
            actor.run("vmbackup-worker", "vmfind")
        self._narrator.say("Every VM is known now, and none has a copy:")
        self._alpha.run("vmbackup-admin", "status")
        ticks = [
            (actor, actor.start("vmbackup-worker", "-v", "run")) for actor in self._stage.actors
        ]
        wait_until(lambda: self._stage.shows_progress("build"), "the export of build")
        self._narrator.say("While they run, anybody can look; readers never wait:")
        self._alpha.run("vmbackup-lock", "list")
        self._alpha.run("vmbackup-admin", "status")
        for actor, tick in ticks:
            actor.finish(tick, expect=(4,) if actor is self._alpha else (0,))
        self._narrator.say(
            "alpha ended with 4, because mail runs: it is left until it has stopped."
        )

    def afterwards(self) -> None:
        """What is on the NAS."""
        self._narrator.heading(
            "Afterwards: copies on the NAS, each checked against its own digests before it counted"
        )
        self._alpha.run("vmbackup-admin", "status")
        self._expect({"web01": "CLEAN", "web01@beta": "CLEAN", "build": "CLEAN", "mail": "RUNNING"})
        self._alpha.run("vmbackup-admin", "copies")
        self._alpha.run("find", str(self._stage.nas), "-type", "f", "-not", "-path", "*/vmstate/*")
        self._alpha.run("cat", str(self._stage.nas / "vmstate" / "vmtool-statedb"))

    def one_file(self) -> None:
        """A file comes out of a copy."""
        if not self._has_files:
            return  # this machine has no mkfs.ext4
        self._narrator.heading("One file out of a copy: nothing is restored or mounted for that")
        self._narrator.say("The disk of web01 has a partition with some files:")
        self._beta.run("vmbackup-admin", "files", "web01")
        self._beta.run("vmbackup-admin", "files", "web01", "/etc")
        name, text = next(iter(FILES.items()))
        place = str(self._stage.folder)
        self._beta.run("vmbackup-admin", "files", "web01", f"/{name}", "--get", place)
        fetched = self._stage.folder / name.rpartition("/")[2]
        self._beta.run("cat", str(fetched))
        if fetched.read_text(encoding="utf-8") != text:
            raise DemoFailedError(f"{fetched} is not what it was in the VM")

    def live(self) -> None:
        """A VM that never stops."""
        self._narrator.heading("A server that never stops: copied live, while it runs")
        self._narrator.say(
            "mail gets a policy of its own. A snapshot is taken, a clone of it exported, and "
            "both are removed again:"
        )
        with self._alpha.configuration.open("a", encoding="utf-8") as file:
            file.write('\n[policy."mail"]\nrunning = "live"\n')
        self._alpha.run("tail", "-n", "2", str(self._alpha.configuration))
        self._alpha.run("vmbackup-worker", "-v", "run", newest=True)
        self._expect({"mail": "CLEAN"})
        self._alpha.run("VBoxManage", "list", "runningvms")
        self._alpha.run("vmbackup-admin", "copies", "mail")

    def used_again(self) -> None:
        """Use is noticed."""
        self._narrator.heading("A VM that was used is backed up again, an untouched one is not")
        self._narrator.say(
            "mail is switched off. web01 is started and stopped between two ticks: nobody saw "
            "it run."
        )
        self._alpha.run("VBoxManage", "controlvm", "mail", "poweroff")
        self._vms["mail"].wait_for_state("poweroff")
        self._vms["web01"].start()
        self._vms["web01"].stop()
        self._alpha.run("vmbackup-worker", "-v", "run", newest=True)
        self._expect({"web01": "CLEAN", "mail": "CLEAN"})
        self._narrator.say("The next tick finds nothing to do, and says nothing:")
        self._alpha.run("vmbackup-worker", "run")
        self._alpha.run("vmbackup-admin", "copies", "web01")

    def crash(self) -> None:
        """A worker is killed in the middle of an export."""
        self._narrator.heading("A crash: a worker is killed in the middle of an export")
        self._beta.run("VBoxManage", "modifyvm", "build", "--description", "changed")
        self._beta.run("vmbackup-worker", "-v", "notifier")
        worker = self._beta.start("vmbackup-worker", "backup")
        wait_until(lambda: self._stage.shows_progress("build"), "the export of build")
        self._narrator.command("beta", f"kill -9 {worker.pid}")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
        self._beta.run("vmbackup-lock", "list")
        self._expect({"build": "BACKUP_IN_PROGRESS"})
        self._narrator.say(
            "No operator is needed. The next database worker of any host frees what the dead "
            "one held; a backup follows:"
        )
        self._alpha.run("vmbackup-worker", "-v", "database", newest=True)
        self._expect({"build": "BACKUP_NECESSARY"})
        while self._beta.ask("vmbackup-admin", "show", "build")["vm"]["status"] != "CLEAN":
            self._beta.run("vmbackup-worker", "-v", "run", expect=(0, 3), newest=True)
        self._beta.run("vmbackup-admin", "log", "--vm", "build")
        self._expect({"build": "CLEAN"})
        partial = list(self._stage.nas.glob("*/.*.partial.*"))
        if partial:
            raise DemoFailedError(f"partial files were left: {partial}")

    def archive(self) -> None:
        """Out of the backups and back."""
        self._narrator.heading(
            "Archive and activate: a VM is set aside, with its copies, and taken back"
        )
        self._alpha.run("vmbackup-admin", "archive", "mail")
        self._expect({"mail": "ARCHIVED"})
        self._alpha.run("find", str(self._stage.nas / "archive"), "-name", "*.ova")
        self._alpha.run("vmbackup-admin", "activate", "mail")
        self._expect({"mail": "CLEAN"})

    def restore(self) -> None:
        """A copy is a VM."""
        self._narrator.heading("What it is all for: a copy becomes a VM, on the other host")
        self._narrator.say(
            "beta restores the VM of alpha: each byte is compared with its digest before that VM "
            "is there, and nothing that exists is overwritten."
        )
        self._beta.run(
            "vmbackup-admin",
            "restore",
            "web01",
            "--as",
            "web01-restored",
            "--to",
            str(self._beta.host.vms),
        )
        self._beta.run("VBoxManage", "list", "vms")
        self._alpha.run("vmbackup-admin", "status")

    def boot(self) -> None:
        """A copy is a VM at once."""
        booting.show(self._beta, self._narrator, "mail", self._vms["mail"].counter())

    def page(self) -> None:
        """All of it in a browser."""
        self._narrator.heading("At a glance: a page for the browser, which workers keep up to date")
        page = self._stage.nas / "vmbackup.html"
        if not page.is_file():
            raise DemoFailedError(f"no worker has written {page}")
        self._alpha.run("vmbackup-admin", "page", "--output", str(self._stage.page))

    def _expect(self, states: dict[str, str]) -> None:
        document = self._alpha.ask("vmbackup-admin", "status")
        found = {vm["name"]: vm["status"] for vm in document["vms"]}
        wrong = {
            name: found.get(name) for name, state in states.items() if found.get(name) != state
        }
        if wrong:
            raise DemoFailedError(f"these should be {states}, and are {wrong}")
