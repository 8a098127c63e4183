"""`python -m octavo.cli` is `octavo`."""

from octavo.cli import main

# Workers of a sweep import the main module under another name.
if __name__ == "__main__":
    main()
