"""Real NFS 4.2, NFS 3 and SMB between clients with caches of their own, on one machine.

Needs Debian and root, and takes about ten seconds.

Everything runs in User-Mode Linux (the Debian package `user-mode-linux`): a Linux kernel that is an
ordinary process. Its root is this machine's own root under a throw-away overlay, so that programs
are found at the same paths inside and out.

* `nas-guest -- COMMAND`: one kernel with server and clients; the clients are network namespaces.
  Breadth: quick, many clients.
* `cluster.Cluster`: one kernel a host, on a small network. Depth: cut, heal, pause, resume, power
  cut, reboot, clocks.

Only the standard library is used: the guest runs the same modules before anything else is there.
"""
