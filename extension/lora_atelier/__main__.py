"""``python -m lora_atelier``: the commands of ``cli``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
