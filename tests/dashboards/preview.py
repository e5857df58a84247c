"""`make preview`: the dashboards as pictures, from an outage of the real demo."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from breakerscope.mixin import MixinConfig, rendered
from tests.dashboards.draw import Picture
from tests.dashboards.grafana import All, Grafana, Screen
from tests.dashboards.live import ROOT, scraped

IN_THE_OUTAGE = 0.6
"""The part of the demo's story after which one looks: `search` has failed for a while."""
FAILING = "search"


def main() -> int:
    """Run the demo in two processes, look in the middle of the outage, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", metavar="DIR")
    parser.add_argument("--duration", type=float, default=150.0, metavar="SECONDS")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    length = f"--duration={options.duration:g}"
    commands = [
        [
            "-m",
            "breakerscope",
            "demo",
            "--headless",
            length,
            f"--seed={seed}",
            "--metrics-port={port}",
        ]
        for seed in (1, 2)
    ]
    wait = options.duration * IN_THE_OUTAGE
    print(f"two demos run for {wait:g} s, until the middle of the outage", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder, scraped(commands, Path(folder)) as prometheus:
        start = time.time() + 3
        time.sleep(wait)
        grafana = Grafana(prometheus, Screen(start=start, end=time.time()))
        for name, text in rendered(MixinConfig(scrape_interval="1s")).items():
            dashboard = json.loads(text)
            choices = grafana.choices(
                dashboard, {"job": All(), "instance": All(), "breaker": All()}
            )
            if isinstance(choices["breaker"], str):
                choices["breaker"] = FAILING
            file = options.out / f"dashboard-{Path(name).stem}.png"
            Picture(grafana, dashboard, choices).save(file)
            print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
