"""How fast networks are on this machine."""
