"""recontrol."""
