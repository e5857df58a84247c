"""From a dependency that really fails to a message at a receiver.

The demo and other breakers in three processes, a real Prometheus with the rules, a real
Alertmanager with the routes, and a webhook in place of each receiver. The configuration is as it
comes, but with windows of seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from breakerscope.demo.script import SERVICES
from breakerscope.mixin import MixinConfig, rendered, rendered_alerts
from breakerscope.mixin.alert_settings import AlertSettings
from breakerscope.mixin.alerts import alerts_of
from tests.alerts.upstream import Upstream
from tests.servers.alertmanager import Alertmanager, Json, Message, Webhook
from tests.servers.process import free_port, wait_until
from tests.servers.prometheus import Prometheus

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

SECONDS = 60.0
VARIABLES = {"job", "instance", "breaker"}
ROOT = Path(__file__).parents[2]
CONFIG = MixinConfig(
    scrape_interval="1s",
    alerts=AlertSettings(
        grafana_url="https://grafana.example.org",
        objective=0.9,
        rate_window="5s",
        min_calls=10,
        burn_page=("5 over 20s and 5s",),
        burn_ticket=("1 over 20s and 10s",),
        burn_page_for="4s",
        burn_ticket_for="4s",
        burn_share=0.6,
        fleet_for="2s",
        fleet_keep="10s",
        tripped_for="6s",
        tripped_keep="3s",
        stuck_open_after="1s",
        stuck_open_for="5s",
        stuck_half_open_after="3s",
        stuck_half_open_for="5s",
        flaps=2,
        flap_window="12s",
        flap_keep="3s",
        near_for="3s",
        slow_for="3s",
        should_have_opened_for="5s",
        forced_after="3s",
        forced_ticket_after="12s",
        drift_for="3s",
        absent_lookback="2m",
        absent_for="4s",
        dropped_window="5s",
        dropped_for="2s",
        group_wait="0s",
        group_interval="1s",
        repeat_interval="1h",
    ),
)
PREFIX = CONFIG.alerts.name_prefix
Said = tuple[str, str, str]
EXPECTED: set[Said] = {
    ("on-call", "TrippedFleetWide", "ledger"),
    ("on-call", "TrippedFleetWide", "search"),
    ("tickets", "Tripped", "warehouse"),
    ("tickets", "Tripped", "reviews"),
    ("tickets", "StuckHalfOpen", "reviews"),
    ("tickets", "RejectionBudgetBurnSlow", "warehouse"),
    ("tickets", "RejectionBudgetBurnSlow", "reviews"),
    ("tickets", "RejectionBudgetBurnSlow", "newsletter"),
    ("tickets", "RejectionBudgetBurnSlow", "fax"),
    ("tickets", "Flapping", "newsletter"),
    ("tickets", "SlowCalls", "geocoder"),
    ("tickets", "ForcedState", "fax"),
    ("tickets", "EventsDropped", "audit_sink"),
    ("tickets", "TelemetryAbsent", "billing"),
    ("chat", "NearThreshold", "stock"),
    ("chat", "ForcedState", "fax"),
    ("chat", "ConfigDrift", "flags"),
}
"""Who hears of what, and about what."""
MUTED: set[Said] = {
    ("RejectionBudgetBurn", "ledger", "TrippedFleetWide"),
    ("RejectionBudgetBurnSlow", "ledger", "TrippedFleetWide"),
    ("ForcedState", "fax", "ForcedState"),
}
"""What, about what, by what."""
IMPOSSIBLE = {"StuckOpen", "ShouldHaveOpened"}
"""These report a breaker that does not keep its own rules; ours does."""
LATE = {("tickets", "RejectionBudgetBurnSlow", "ledger")}
"""Its long window still remembers the outage when nothing mutes it any more."""


def subject(labels: dict[str, str]) -> str:
    """What an alert is about: a breaker, a listener or a whole service."""
    return labels.get("breaker") or labels.get("listener") or labels["job"]


def said(message: Message) -> Said:
    name = message.labels["alertname"].removeprefix(PREFIX)
    return message.receiver, name, subject(message.labels)


@dataclass(frozen=True)
class Story:
    """All that happened: what arrived, and what was muted by what."""

    messages: list[Message]
    muted: set[Said]


def fired(messages: list[Message]) -> set[Said]:
    return {said(each) for each in messages if each.status == "firing"}


def unresolved(messages: list[Message]) -> set[Said]:
    """What was never called over. Of the demo's own some end while they are muted: in silence."""
    over = {said(each) for each in messages if each.status == "resolved"}
    return (fired(messages) - over) & EXPECTED


def routes(webhook: Webhook) -> Json:
    """The shipped configuration: only the receivers are ours."""
    config: Json = yaml.safe_load(rendered_alerts(CONFIG)["alertmanager.yml"])
    config["receivers"] = [
        {"name": one["name"], "webhook_configs": [{"url": f"{webhook.url}/{one['name']}"}]}
        for one in config["receivers"]
    ]
    return config


def muted(alertmanager: Alertmanager) -> set[Said]:
    """(what, about what, by what) of the alerts that are muted just now."""
    alerts = alertmanager.alerts()
    names = {one["fingerprint"]: one["labels"]["alertname"].removeprefix(PREFIX) for one in alerts}
    return {
        (names[one["fingerprint"]], subject(one["labels"]), names.get(by, by))
        for one in alerts
        for by in one["status"]["inhibitedBy"]
    }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("alerts")
    rules = folder / "rules.yml"
    rules.write_text(rendered_alerts(CONFIG)["breakerscope.rules.yml"])
    ports = [free_port() for _ in range(3)]
    billing, *shop = (f"127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        enter = stack.enter_context
        webhook, upstream = enter(Webhook()), enter(Upstream())
        alertmanager = enter(Alertmanager(routes(webhook), folder))
        targets = {"billing": [billing], "shop": shop}
        enter(Prometheus(targets, folder, rules, alertmanager.address))
        for seed, port in enumerate(ports):
            log = enter((folder / f"shop-{seed}.log").open("w"))
            command = [sys.executable, "-m", "tests.alerts.shop", str(port), str(seed)]
            process = subprocess.Popen([*command, upstream.url], cwd=ROOT, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
        seen: set[Said] = set()

        def all_fired() -> bool:
            seen.update(muted(alertmanager))
            return fired(webhook.messages) >= EXPECTED and seen >= MUTED

        try:
            wait_until(all_fired, "every alert fires", SECONDS)
        except TimeoutError as error:
            error.add_note(f"not fired: {EXPECTED - fired(webhook.messages)}")
            error.add_note(f"not muted: {MUTED - seen}")
            raise
        upstream.heal()
        wait_until(lambda: not alertmanager.alerts(), "every alert resolves", SECONDS)
        # The last message may still be on its way.
        wait_until(lambda: not unresolved(webhook.messages), "all are told of it", SECONDS)
        yield Story(webhook.messages, seen)


def test_each_alert_arrives_where_it_should(story: Story) -> None:
    arrived = {each for each in fired(story.messages) if each[2] not in SERVICES}
    assert arrived - LATE == {each for each in EXPECTED if each[2] not in SERVICES}


def test_a_healthy_dependency_is_not_mentioned(story: Story) -> None:
    assert {each for each in fired(story.messages) if each[2] == "payment_api"} == set()


def test_every_alert_is_provoked_or_impossible(story: Story) -> None:
    """The page about a burning budget is provoked, and muted by the one that says why."""
    provoked = {name for _, name, _ in fired(story.messages)} | {name for name, _, _ in story.muted}
    assert provoked == {alert.stem for alert in alerts_of(CONFIG)} - IMPOSSIBLE


def test_what_follows_from_an_outage_is_muted(story: Story) -> None:
    assert story.muted >= MUTED
    heard = {(name, about) for _, name, about in fired(story.messages)}
    assert ("RejectionBudgetBurn", "ledger") not in heard


def test_each_alert_says_that_it_is_over(story: Story) -> None:
    assert unresolved(story.messages) == set()


def test_each_message_has_what_its_rule_promises(story: Story) -> None:
    severities = {"on-call": "critical", "tickets": "warning", "chat": "info"}
    own = {(alert.stem, alert.severity): alert for alert in alerts_of(CONFIG)}
    for message in story.messages:
        receiver, name, _ = said(message)
        rule = own[name, message.labels["severity"]]
        assert message.labels["severity"] == severities[receiver]
        assert set(message.labels) == {"alertname", "severity", *rule.labels}
        assert message.annotations["summary"] == rule.summary
        description = message.annotations["description"]
        assert all(message.labels[label] in description for label in rule.labels)
        assert "{{" not in description
        assert "no value" not in description


def test_the_links_lead_somewhere(story: Story) -> None:
    """To a file, and to a dashboard and panel that exist, with what the alert is about chosen."""
    boards: dict[str, Any] = {
        board["uid"]: board for board in map(json.loads, rendered(CONFIG).values())
    }
    for message in story.messages:
        assert (ROOT / message.annotations["runbook_url"]).is_file()
        url = urlsplit(message.annotations["dashboard_url"])
        assert f"{url.scheme}://{url.netloc}" == CONFIG.alerts.grafana_url
        board = boards[url.path.removeprefix("/d/")]
        chosen = {key.removeprefix("var-"): values for key, values in parse_qs(url.query).items()}
        kept = {label: [value] for label, value in message.labels.items() if label in VARIABLES}
        assert chosen == kept
        assert set(chosen) <= {one["name"] for one in board["templating"]["list"]}
        panel = parse_qs(urlsplit(message.annotations["panel_url"]).query)["viewPanel"]
        assert panel[0] in {str(one["id"]) for one in board["panels"]}
