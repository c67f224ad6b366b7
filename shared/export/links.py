"""Whether VirtualBox itself made a parent other than its child notes, by the times of the files.

An image notes the modification UUID that its parent had when it was made. It is another one, and
all is well, in two cases (measured with VirtualBox 7.2.22):

* A snapshot that was taken while the VM ran: the parent gets its last UUID when the VM lets go of
  it, a moment after the child was made. From then on the VM has the child open, and writes its
  header at the latest when it stops.
* A snapshot that was deleted: the child notes that of the image that was merged away. If the child
  lives on alone, its parent was not touched; if the parent took the image in, VirtualBox writes the
  child, and a millisecond later the parent, and then the settings.

So a parent that was touched after its child, and after the settings, was touched by somebody else:
written, or put there from elsewhere (then its ctime tells). One that was touched before its child
is what VirtualBox has had beneath that since: the guest has worked with whatever is in it.
"""

import os
from typing import Final

from shared.ova.disk import Accept
from shared.ova.vdi import VdiImage

#: How long VirtualBox may take to let go of all images of a merge: it deletes one meanwhile.
_MERGE_NS: Final = 10 * 10**9


def touched_by_virtualbox(settings_ns: int) -> Accept:
    """Says of an image and its parent whether the parent was touched last by VirtualBox.

    `settings_ns` is when the VM's settings were written, in nanoseconds since the epoch.
    """

    def judge(child: VdiImage, parent: VdiImage) -> bool:
        below, above = _touched_ns(child), _touched_ns(parent)
        return above <= below or above <= min(below + _MERGE_NS, settings_ns)

    return judge


def _touched_ns(image: VdiImage) -> int:
    status = os.fstat(image.descriptor)
    return max(status.st_mtime_ns, status.st_ctime_ns)
