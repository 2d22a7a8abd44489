"""The command line: `python -m pyparallel`."""

from pyparallel.cli import main

raise SystemExit(main())
