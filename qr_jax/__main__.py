"""qr-jax, and `python -m qr_jax`: hears Ctrl-C before anything else is imported."""

import sys

from qr_jax.cli import interrupts


def main() -> int:
    """Run the process's command and return its exit code."""
    interrupts.hear_interrupts()
    from qr_jax import plugins

    return plugins.around("cli.cli").main()


if __name__ == "__main__":
    sys.exit(main())
