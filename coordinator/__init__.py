"""What an operator runs: `vmbackup-admin` and `vmbackup-lock`."""
