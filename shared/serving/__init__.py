"""Copies as files of this host: how their servers are started, and how their mounts end."""
