"""What runs inside the User-Mode Linux machines."""
