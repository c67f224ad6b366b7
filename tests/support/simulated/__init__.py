"""A simulated VirtualBox host.

A VBoxManage whose state is a JSON file, real settings files, and real disks.

It says and does what the real VirtualBox 7.2.22 was measured to say and do, as far as the product
looks at it; `tests/contract` runs one suite against both. It starts in 40 ms, a host with 1000 VMs
is made in a second, and it fails on demand: see `faults`.

The program imports this package at each call, thousands of times in a test run: what tests use is
imported only when asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.simulated.host import SimulatedHost, SimulatedVm

__all__ = ["SimulatedHost", "SimulatedVm"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(name)
    from tests.support.simulated import host

    return getattr(host, name)
