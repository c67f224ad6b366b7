"""Installing on a Debian that was just installed, as a user would, and leaving it again."""
