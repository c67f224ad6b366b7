"""Messages to people, and pings: what is sent to targets, and a child process that sends it."""
