"""What each program stands on: errors, time, processes, logs, configuration, notes of this host."""
