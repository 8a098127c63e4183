"""transformers' own command line with octavo registered: `python -m octavo.hub serve`, then `transformers chat OUT`.

`transformers chat` talks to `transformers serve`, and it is the server that loads the model. The command `transformers`
imports nothing of octavo, so the server is started from here.
"""

from __future__ import annotations

import octavo  # noqa: F401


def main() -> None:
    """Run transformers' command line with this process's arguments."""
    from transformers.cli.transformers import main as run

    run()


if __name__ == "__main__":
    main()
