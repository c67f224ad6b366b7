"""The state database: numbered immutable snapshots on the NAS, committed without a server."""
