"""What cron runs: `vmbackup-worker`, one module a worker."""
