"""A teller for tests with several processes: prints what it would send, and whom.

    python -m tests.support.tellers VMSTATE NODE TIMES [SECONDS]

So many times it looks and tells; a message takes so many seconds. It sees that the VM `web01` is
damaged, as every teller does.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from shared.host.clock import SystemClock, timestamp
from shared.host.configuration import Configuration
from shared.host.host_identity import HostIdentity
from shared.notices.notice import Notice
from shared.state.rules.events import EventKey, Seen
from shared.state.store.opening import open_database
from shared.tasks.event_finding import View
from worker.tell import Teller
from worker.telling_store import Agreed

#: What every teller sees.
DAMAGED = EventKey("vms", "web01", "damaged")


def main(root: str, node: str, times: str, seconds: str = "0.2") -> None:
    """The program."""
    clock = SystemClock()
    values: dict[str, Any] = {"nas": {"mountpoint": "/mnt/nas"}, "host": {"node": node}}
    targets = {"mail": {"url": "json://mail"}, "chat": {"url": "json://chat"}}
    configuration = Configuration.model_validate(
        {**values, "virtualbox": {}, "backup": {}, "policy": {}, "notify": targets}
    )

    def send(url: str, _notice: Notice) -> str:
        print("sent", url, flush=True)
        time.sleep(float(seconds))
        return ""

    urls = {name: name for name in targets}
    teller = Teller(configuration, clock, send, urls=urls)
    database = open_database(Path(root), HostIdentity.of_this_machine(node), clock)
    site: Any = SimpleNamespace(database=database)
    for _ in range(int(times)):
        seen = Seen(node, timestamp(clock.now()), {DAMAGED: "critical"})
        teller.tell(Agreed(site), View(seen, {}))
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
