"""The configuration of dashboards: bad input is one clear line, exit 2, and no file is touched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from breakerscope.cli import main
from breakerscope.mixin import MixinConfig, MixinError, export, load, rendered

GOOD = """
selector = 'cluster="eu"'
instance_label = "pod"
tags = ["a", "b"]
stale_after = 30
near_threshold = 0.7
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "mixin.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refused(capsys: pytest.CaptureFixture[str], folder: Path, text: str, out: str = "out") -> str:
    """What the command says, in one line."""
    file = write(folder, text)
    code = main(["dashboards", "export", "--out", str(folder / out), "--config", str(file)])
    said, error = capsys.readouterr()
    assert (code, said) == (2, "")
    start = f"breakerscope dashboards: error: {file}: "
    assert error.startswith(start)
    assert error.count("\n") == 1
    assert sorted(folder.iterdir()) == [file]
    return error.removeprefix(start).removesuffix("\n")


def test_a_good_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD)) == MixinConfig(
        selector='cluster="eu"',
        instance_label="pod",
        tags=("a", "b"),
        stale_after=30,
        near_threshold=0.7,
    )


def test_an_empty_file_is_the_configuration_as_it_comes(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == MixinConfig()


MATCHERS = 'allowed are matchers of PromQL, such as cluster="eu", team=~"a|b"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cluster = 'eu'", "unknown key 'cluster': allowed are selector, metric_prefix, "),
        ("top = 'ten'", "top = 'ten': allowed is a whole number"),
        ("top = true", "top = True: allowed is a whole number"),
        ("stale_after = 'x'", "stale_after = 'x': allowed is a number"),
        ("refresh = 30", "refresh = 30: allowed is a text"),
        ("tags = 'x'", "tags = 'x': allowed is a list of texts"),
        ("tags = [1]", "tags = [1]: allowed is a list of texts"),
        ("selector = 'a=1'", "selector = 'a=1': unexpected character inside braces: '1'; "),
        ("selector = 'a=\"1'", MATCHERS),
        ("""selector = 'a="1"} or up{b="2"'""", f"not a list of matchers; {MATCHERS}"),
        ("""selector = 'a="1"} #'""", f"not a list of matchers; {MATCHERS}"),
        ("""selector = 'a="1" or b="2"'""", f"not a list of matchers; {MATCHERS}"),
        ("""selector = 'a=~"("'""", MATCHERS),
        ("""selector = 'job="a"'""", "job is chosen on the dashboard; allowed are other labels"),
        ("metric_prefix = 'shop_'", "metric_prefix='shop_': allowed are letters, digits and _"),
        ("job_label = 'a-b'", "job_label = 'a-b': allowed is the name of a label: "),
        ("job_label = '__x'", "job_label = '__x': allowed is the name of a label: "),
        ("job_label = 'state'", "job_label = 'state': allowed is none of our own labels: breaker"),
        ("job_label = 'instance'", "job_label and instance_label are both 'instance'"),
        ("breaker_uid = 'a b'", "uid 'a b': allowed are 1 to 40 letters, digits, - and _"),
        (
            "breaker_uid = 'breakerscope-overview'",
            "duplicate uid 'breakerscope-overview': each dashboard needs its own",
        ),
        (
            "time_range = '1 hour'",
            "time_range = '1 hour': allowed is a number with s, m, h, d or w",
        ),
        ("time_range = ''", "time_range = '': allowed is a number"),
        (
            "refresh = '5x'",
            "refresh = '5x': allowed is a number with s, m, h, d or w, such as 30s, or",
        ),
        ("near_threshold = 1.5", "near_threshold = 1.5: allowed is a share between 0 and 1"),
        ("near_threshold = nan", "near_threshold = nan: allowed is a share between 0 and 1"),
        ("rejected_share_warning = 0.5", "rejected_share_warning must be below rejected_share_cri"),
        ("stale_after = 0", "stale_after = 0: allowed are 1 to 86400 seconds"),
        ("top = 101", "top = 101: allowed are 1 to 100"),
        ("title_prefix = ' '", "title_prefix is empty: allowed is any text"),
        ("runbook_base_url = 'wiki'", "runbook_base_url = 'wiki': allowed is http:// or https://"),
        ("jaeger_datasource = '('", "jaeger_datasource = '(': not a regular expression: "),
        ("top = ", "not TOML: "),
    ],
)
def test_bad_values(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
) -> None:
    assert said in refused(capsys, tmp_path, text)


def test_all_problems_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = refused(capsys, tmp_path, "top = 0\nrefresh = 'x'\nselector = '}'")
    assert all(key in said for key in ("top = 0", "refresh = 'x'", "selector = '}'"))


def test_a_value_in_python_is_checked_too() -> None:
    with pytest.raises(MixinError, match="top = 0: allowed are 1 to 100"):
        MixinConfig(top=0)


def test_a_configuration_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "none.toml"
    assert main(["dashboards", "export", "--out", str(tmp_path), "--config", str(file)]) == 2
    assert f"error: cannot read {file}: No such file or directory\n" in capsys.readouterr().err


def test_export_prints_the_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert main(["dashboards", "export", "--out", str(folder)]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names == [str(folder / name) for name in rendered()]
    assert {Path(name).name: Path(name).read_text() for name in names} == rendered()
    assert sorted(folder.iterdir()) == sorted(map(Path, names))


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("taken", "it is a file; allowed is a folder"),
        ("taken/below", "Not a directory"),
    ],
)
def test_a_folder_that_is_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, out: str, why: str
) -> None:
    (tmp_path / "taken").write_text("mine")
    assert main(["dashboards", "export", "--out", str(tmp_path / out)]) == 2
    assert capsys.readouterr().err == (
        f"breakerscope dashboards: error: cannot write to {tmp_path / out}: {why}\n"
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the last file is written: the old ones stay, and nothing else."""
    export(tmp_path, MixinConfig(title_prefix="Old"))
    before = {file: file.read_text() for file in tmp_path.iterdir()}
    chmod = Path.chmod
    calls: list[Path] = []

    def full(self: Path, *args: Any, **kwargs: Any) -> None:
        calls.append(self)
        if len(calls) == len(before):
            raise OSError(28, "No space left on device")
        chmod(self, *args, **kwargs)

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(MixinError, match="No space left on device"):
        export(tmp_path, MixinConfig(title_prefix="New"))
    assert {file: file.read_text() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("library", ["grafana_foundation_sdk", "promql_parser"])
def test_a_missing_extra(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    library: str,
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    file = write(tmp_path, GOOD)
    assert main(["dashboards", "export", "--out", str(tmp_path), "--config", str(file)]) == 2
    assert f"{library}, which is not installed; run: pip install 'breakerscope[dashboards]'" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [[], ["export"], ["import"], ["export", "--out"]])
def test_an_unknown_action_or_option(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["dashboards", *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
