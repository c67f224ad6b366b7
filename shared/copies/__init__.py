"""Copies on the NAS: names, mount guard, checks, catalogue, retention, moves."""
