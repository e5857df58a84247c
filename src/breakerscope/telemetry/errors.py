"""What can be wrong with a telemetry set-up."""


class TelemetryError(ValueError):
    """A telemetry set-up cannot be. The message names the setting and what is allowed."""


class MissingExtraError(ImportError):
    """A telemetry set-up needs a library. The message names it and the pip command."""

    def __init__(self, what: str, needs: str, command: str) -> None:
        super().__init__(f"{what} needs {needs}; run: pip install {command}")
