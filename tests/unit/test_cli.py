"""The command line: bad input is one clear line and exit code 2, never a traceback."""

from __future__ import annotations

import json
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import breakerscope
from breakerscope.cli import main
from breakerscope.reference import as_json, events_page, metrics_page


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr that goes with exit code 2."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "error: " in err
    return err


@pytest.mark.parametrize("duration", ["0", "-5", "2.9", "3601", "inf", "nan"])
def test_a_duration_out_of_range(capsys: pytest.CaptureFixture[str], duration: str) -> None:
    err = refused(capsys, "demo", f"--duration={duration}")
    assert f"--duration {duration}: allowed are 3 to 3600 seconds" in err


def test_a_duration_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--duration: invalid float value: 'long'" in refused(capsys, "demo", "--duration=long")


def test_all_problems_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "demo", "--duration=1", "--metrics-port=70000", "--log-file=-")
    assert "--duration 1: " in err
    assert "--metrics-port 70000: allowed are 1 to 65535, and 0 for a free port" in err
    assert "--log-file -: allowed only with --headless" in err


def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "demo", "--headless", "--metrics-address=localhost")
    assert "--metrics-address 'localhost': allowed is an IP address of this machine" in err


def test_repeating_with_the_live_view(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "demo", "--repeat")
    assert "--repeat: allowed only with --headless, the live view shows one run" in err


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        err = refused(capsys, "demo", "--headless", f"--metrics-port={port}")
    assert f"cannot serve metrics on 127.0.0.1:{port}: Address already in use" in err


def test_a_log_file_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "no such folder" / "log.jsonl"
    err = refused(capsys, "demo", "--headless", f"--log-file={file}")
    assert f"cannot write logs to {file}: No such file or directory" in err


def test_a_picture_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    err = refused(capsys, "demo", "--headless", f"--picture={tmp_path}")
    assert f"cannot write the picture to {tmp_path}: Is a directory" in err


@pytest.mark.parametrize("library", ["rich", "httpx", "opentelemetry.sdk.trace"])
def test_a_missing_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    err = refused(capsys, "demo", "--headless")
    assert library.partition(".")[0] in err
    assert "pip install 'breakerscope[demo]'" in err


def test_an_unknown_protocol(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    err = refused(capsys, "demo", "--headless")
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/json: allowed are grpc and http/protobuf" in err


def test_tracing_switched_off_from_outside(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert "OTEL_SDK_DISABLED=true" in refused(capsys, "demo", "--headless")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["demo", "--speed=9"],
        ["catalogue", "--format=xml"],
        ["catalogue", "--format=md", "--diff=old.json"],
    ],
)
def test_an_unknown_command_or_option(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    refused(capsys, *arguments)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("duration", "headless", "metrics-port", "seed", "log-file", "picture"):
        assert f"--{option}" in text


# -- the catalogue --------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_the_catalogue_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "catalogue") == (0, f"{metrics_page()}\n{events_page()}")
    code, out = printed(capsys, "catalogue", "--format=json")
    assert (code, json.loads(out)) == (0, as_json())


@pytest.mark.parametrize("broken", [False, True])
def test_what_changed_since_an_older_catalogue(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, broken: bool
) -> None:
    older = as_json()
    del older["metrics"]["circuit_breaker_state"]
    older["log_events"].remove("circuit_breaker.call_ignored")
    expected = (
        "added metrics/circuit_breaker_state\nadded log_events/circuit_breaker.call_ignored\n"
    )
    if broken:
        older["attributes"].append("circuit_breaker.colour")
        expected += "removed attributes/circuit_breaker.colour\n"
    file = tmp_path / "old.json"
    file.write_text(json.dumps(older))
    code, out = printed(capsys, "catalogue", f"--diff={file}")
    assert (code, sorted(out.splitlines())) == (int(broken), sorted(expected.splitlines()))


def test_a_catalogue_does_not_differ_from_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "old.json"
    file.write_text(printed(capsys, "catalogue", "--format=json")[1])
    assert printed(capsys, "catalogue", f"--diff={file}") == (0, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read {file}: No such file or directory"),
        ("{", "{file} is not JSON: "),
        ("\udcff", "{file} is not JSON: "),
        ("[]", "{file} is no catalogue: allowed is what"),
        ('{"metrics": 3}', "{file} is no catalogue: allowed is what"),
    ],
)
def test_a_file_that_is_no_catalogue(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "old.json"
    if text is not None:
        file.write_text(text, errors="surrogateescape")
    err = refused(capsys, "catalogue", f"--diff={file}")
    assert f"breakerscope catalogue: error: {message.format(file=file)}" in err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"breakerscope {breakerscope.__version__}\n"
    assert breakerscope.__version__ == version("breakerscope")


@pytest.mark.parametrize("alert", ["Flapping", "CircuitBreakerFlapping"])
def test_a_runbook(capsys: pytest.CaptureFixture[str], alert: str) -> None:
    assert main(["runbook", alert]) == 0
    text = Path("docs/runbooks/Flapping.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text


def test_the_runbook_of_no_alert(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "runbook", "Flaping")
    assert "no alert is called 'Flaping': did you mean Flapping? There are ConfigDrift," in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
def test_a_log_file_on_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["demo", "--headless", "--duration=3", "--log-file=/dev/full"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.splitlines()[-1] == (
        "breakerscope demo: error: cannot write logs to /dev/full: No space left on device"
    )
    assert "Traceback" not in err
