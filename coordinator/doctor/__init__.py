"""What `doctor` examines: one module an area; each check says what was seen and what to mend."""
