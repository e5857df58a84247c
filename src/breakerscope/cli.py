"""The command `breakerscope`. Thin: it reads arguments, all else is a function elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from breakerscope import __version__
from breakerscope.demo import DemoError, Options, start
from breakerscope.mixin import (
    MixinConfig,
    MixinError,
    export,
    export_alerts,
    load,
    runbook_text,
)
from breakerscope.reference import (
    CatalogueFileError,
    as_json,
    differences,
    events_page,
    metrics_page,
    read_catalogue,
)
from breakerscope.status import StatusError, read_statuses, table

BAD_INPUT = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. The whole usage is one `--help` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (None: those of the process). Returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (DemoError, CatalogueFileError, MixinError, StatusError) as error:
        print(f"breakerscope {arguments.command}: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def _demo(arguments: argparse.Namespace) -> int:
    return start(
        Options(
            duration=arguments.duration,
            repeat=arguments.repeat,
            headless=arguments.headless,
            metrics_port=arguments.metrics_port,
            metrics_address=arguments.metrics_address,
            seed=arguments.seed,
            log_file=arguments.log_file,
            picture=arguments.picture,
            hold=arguments.hold,
        )
    )


def _catalogue(arguments: argparse.Namespace) -> int:
    if arguments.diff is not None:
        found = list(differences(read_catalogue(arguments.diff), as_json()))
        for difference in found:
            print(difference)
        return int(any(difference.breaks for difference in found))
    if arguments.format == "json":
        print(json.dumps(as_json(), indent=2))
    else:
        print(f"{metrics_page()}\n{events_page()}", end="")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    config = None if arguments.config is None else load(Path(arguments.config))
    for file in arguments.write(Path(arguments.out), config):
        print(file)
    return 0


def _runbook(arguments: argparse.Namespace) -> int:
    print(runbook_text(arguments.alert), end="")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    statuses = read_statuses(arguments.url)
    print(table(statuses, time.time()), end="")
    return int(any(status.refuses for status in statuses))


def _parser() -> argparse.ArgumentParser:
    defaults = Options()
    parser = _Parser(prog="breakerscope", description=sys.modules["breakerscope"].__doc__)
    parser.add_argument("--version", action="version", version=f"breakerscope {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="real traffic through real breakers, with logs, metrics and traces",
        description="Send real HTTP traffic through instrumented breakers to three services that"
        " fail and heal by a script, show what happens, and check at the end that every call was"
        " counted exactly once everywhere. Exit code 0 if so, 1 if not, 2 for bad input."
        " Spans are exported by OTLP when OTEL_EXPORTER_OTLP_ENDPOINT is set.",
    )
    demo.set_defaults(run=_demo)
    add = demo.add_argument
    add("--duration", type=float, default=defaults.duration, metavar="SECONDS",
        help="how long the script takes, 3 to 3600 (default: %(default)g)")  # fmt: skip
    add("--repeat", action="store_true",
        help="begin the script again at its end, until stopped; with --headless")  # fmt: skip
    add("--headless", action="store_true",
        help="no live view; this is the default where stdout is not a terminal")  # fmt: skip
    add("--metrics-port", type=int, default=defaults.metrics_port, metavar="PORT",
        help="where /metrics is served (default: 0, a free port)")  # fmt: skip
    add("--metrics-address", default=defaults.metrics_address, metavar="ADDRESS",
        help="the IP address at which it is served (default: %(default)s)")  # fmt: skip
    add("--seed", type=int, metavar="NUMBER",
        help="the seed of all randomness (default: another one each time)")  # fmt: skip
    add("--log-file", metavar="FILE",
        help="where the JSON logs go; - is stderr (default: a new temporary file)")  # fmt: skip
    add("--picture", metavar="FILE",
        help="write the live view as it was at 60 %% of the run, as SVG")  # fmt: skip
    add("--hold", type=float, default=defaults.hold, metavar="SECONDS",
        help="serve /metrics for so long after the table (default: 0)")  # fmt: skip
    catalogue = commands.add_parser(
        "catalogue",
        help="all names of metrics, events, log lines and attributes",
        description="Print all public names, or what changed since an older catalogue. Exit code of"
        " --diff: 0 if names were only added, 1 if some were removed or changed, 2 for bad input.",
    )
    catalogue.set_defaults(run=_catalogue)
    either = catalogue.add_mutually_exclusive_group()
    either.add_argument("--format", choices=("md", "json"), default="md",
        help="Markdown or JSON (default: md)")  # fmt: skip
    either.add_argument("--diff", metavar="OLD",
        help="what changed since this file, which --format json wrote")  # fmt: skip
    _add_export(
        commands.add_parser("dashboards", help="Grafana dashboards for these metrics"),
        export,
        "write the dashboards as JSON files",
        "Write the three dashboards as JSON files that Grafana 11 to 13 imports",
        "docs/dashboards.md",
    )
    _add_export(
        commands.add_parser(
            "alerts", help="alerting rules for Prometheus and routes for Alertmanager"
        ),
        export_alerts,
        "write the rules and the routes as YAML files",
        "Write the recording and alerting rules, once for Prometheus and once for its operator, and"
        " an example for Alertmanager",
        "docs/alerts.md",
    )
    runbook = commands.add_parser(
        "runbook",
        help="what to do about an alert",
        description="Print the runbook of an alert, as Markdown. Exit code 2 for an alert that is"
        " none of ours.",
    )
    runbook.set_defaults(run=_runbook)
    runbook.add_argument("alert", metavar="ALERT", help="its name, with or without CircuitBreaker")
    status = commands.add_parser(
        "status",
        help="which breakers are open now, since when and why",
        description="Read the metrics of a service and print its breakers: state, since when, and"
        " what has brought them there. Exit code 0 if all admit calls, 1 if one refuses them, 2 if"
        " there are no such metrics.",
    )
    status.set_defaults(run=_status)
    status.add_argument(
        "url", metavar="URL", help="its metrics, such as http://localhost:8000/metrics"
    )
    return parser


def _add_export(
    command: argparse.ArgumentParser,
    write: Callable[[Path, MixinConfig | None], Iterable[Path]],
    what: str,
    description: str,
    document: str,
) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    exported = actions.add_parser(
        "export",
        help=what,
        description=f"{description}: all of them, or none. With --config they are made for your"
        " labels and limits, which takes the extra breakerscope[dashboards]. Prints the files. Exit"
        " code 2 for bad input.",
    )
    exported.set_defaults(run=_export, write=write)
    add = exported.add_argument
    add("--out", required=True, metavar="DIR", help="the folder, which is made if need be")
    add("--config", metavar="FILE", help=f"a TOML file; {document} lists its keys")
