"""What the servers share that show parts of copies as files of this host, by FUSE."""
