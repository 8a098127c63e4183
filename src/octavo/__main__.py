"""`python -m octavo` is `octavo`; torchrun starts it so."""

from octavo.cli import main

if __name__ == "__main__":
    main()
