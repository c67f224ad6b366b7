"""NAS directories, with the simulated hosts that filled them, as earlier releases left them."""
