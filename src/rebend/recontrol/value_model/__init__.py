"""value_model."""
