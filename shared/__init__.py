"""What workers and operator commands both stand on."""
