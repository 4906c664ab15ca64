"""Names of the files in an adapter's folder."""

ADAPTER_FILE = "adapter.json"  # rebend's: base model and settings
CONFIG_FILE = "adapter_config.json"  # PEFT's
WEIGHTS_FILE = "adapter_model.safetensors"  # PEFT's
