"""``python -m definetti_np`` is the command ``definetti``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
