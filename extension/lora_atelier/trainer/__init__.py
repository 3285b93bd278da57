"""The trainer process: ``python -m lora_atelier.trainer RUN_DIR``. Never imported by a host."""
