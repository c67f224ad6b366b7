"""The judgement of everything that one reader can see: the NAS, all hosts, all VMs."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from shared.host.configuration import Configuration, decide
from shared.site import Site
from shared.state.contents import Contents
from shared.state.hold import Hold
from shared.state.records import VmRecord
from shared.state.sessions.host_look import HostLook, read_looks
from shared.state.sessions.worker_ends import read_ends
from shared.tasks.hold_judgement import all_stuck, of_holds
from shared.tasks.judgement import (
    Bounds,
    Level,
    Moment,
    Verdict,
    judge_host,
    judge_nas,
    moment,
    namesake_of,
    worst,
)
from shared.tasks.vm_judgement import about_vm, gravest

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is to be said of everything. `looks` are the files of the hosts, `now` the moment.

    `about` has all that is said of each VM, by its key; `vms` the gravest of that.
    """

    nas: Verdict
    hosts: tuple[Verdict, ...]
    vms: tuple[Verdict, ...]
    looks: dict[str, HostLook | None]
    now: Moment
    about: Mapping[str, tuple[Verdict, ...]]

    @property
    def level(self) -> Level:
        """The gravest of all; UNKNOWN if there is no VM at all."""
        return worst(self.all) if self.vms else worst([*self.all, _NOTHING])

    @property
    def all(self) -> tuple[Verdict, ...]:
        """The NAS, then hosts, then VMs."""
        return (self.nas, *self.hosts, *self.vms)


_NOTHING = Verdict("", Level.UNKNOWN, "empty", "no VM is known")


def judge(
    site: Site,
    contents: Contents,
    *,
    only: Collection[str] = (),
    max_age_seconds: float | None = None,
) -> Verdicts:
    """Judges all, or the VMs `only` (keys) and the hosts that they belong to.

    Writes nothing. Raises `NasError` if the NAS does not let us look.
    """
    with site.database.nas_errors():
        looks = read_looks(site.database.root / "node", contents.nodes)
    if (own := looks.get(site.node)) is not None:
        looks[site.node] = _with_own_ends(site, own)
    now = moment(site.clock.now().timestamp(), looks.get(site.node))
    records = [record for record in contents.vms.values() if not only or record.key in only]
    nodes = {record.node for record in records} if only else set(contents.nodes)
    configuration = site.configuration
    stuck = all_stuck(site, contents, looks)
    about = {
        record.key: (
            *about_vm(
                record,
                looks.get(record.node),
                now,
                bounds_of(configuration, record, max_age_seconds),
            ),
            *of_holds(record, stuck, now, _unbacked(configuration, record, max_age_seconds)),
        )
        for record in records
    }
    hosts = [
        judge_host(
            node,
            looks.get(node),
            now,
            may_be_off=node in configuration.backup.hosts_may_be_off,
            namesake=namesake_of(node, contents.nodes),
        )
        for node in sorted(nodes)
        if any(record.node == node for record in contents.vms.values())
    ]
    copies = [record.last_copy.size for record in contents.vms.values() if record.last_copy]
    room = judge_nas(site.nas.free, configuration.nas.reserve, max(copies, default=0))
    vms = tuple(map(gravest, about.values()))
    return Verdicts(room, tuple(hosts), vms, looks, now, about)


def _with_own_ends(site: Site, look: HostLook) -> HostLook:
    """The look of this host, with how its workers ended since."""
    host, nas = site.configuration.host, site.configuration.nas
    ends = read_ends(host.state_directory, nas.mountpoint)
    return replace(look, workers={**look.workers, **ends})


def _unbacked(
    configuration: Configuration, record: VmRecord, max_age_seconds: float | None
) -> Callable[[Hold], float]:
    """For how long what runs from a copy of a VM may be in no backup, by its own policy."""

    def allowed(hold: Hold) -> float:
        if decide(configuration, hold.name, record.groups, "").left_out:
            return math.inf
        policy = configuration.policy_for(hold.name, record.groups)
        configured = policy.max_age_hours * HOUR_SECONDS
        return configured if max_age_seconds is None else max_age_seconds

    return allowed


def bounds_of(
    configuration: Configuration, record: VmRecord, max_age_seconds: float | None
) -> Bounds:
    """What the configuration allows for a VM, or `max_age_seconds` if it is given."""
    policy = configuration.policy_for(record.name, record.groups)
    configured = policy.max_age_hours * HOUR_SECONDS
    return Bounds(
        configured if max_age_seconds is None else max_age_seconds,
        policy.verify_days,
        policy.rehearse_days,
        policy.may_be_off or record.node in configuration.backup.hosts_may_be_off,
    )
