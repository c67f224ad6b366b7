"""Worker processes as the database knows them: sessions, heartbeats, and recovery of the dead."""
