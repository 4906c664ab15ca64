"""repbend."""
