"""An argparse parser that answers a wrong command line with one sentence."""

import argparse
from typing import NoReturn


class SentenceParser(argparse.ArgumentParser):
    """Like its base, but an error is one line on stderr, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")
