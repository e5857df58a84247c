"""The error for a library that is not installed, or too old."""


class MissingExtraError(ImportError):
    """A telemetry set-up needs a library. The message names it and the pip command."""

    def __init__(self, what: str, needs: str, command: str) -> None:
        super().__init__(f"{what} needs {needs}; run: pip install {command}")
