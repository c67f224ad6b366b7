"""Copies on the NAS: their names, sidecars, catalogue, publishing, retention, moves, archive."""
