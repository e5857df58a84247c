"""Who hears of which alert, and which alerts keep quiet while another one says more.

The receivers are examples. What is secret stands in files, never here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from breakerscope import catalogue
from breakerscope.mixin.config import MixinConfig

PAGE, TICKET, INFO = "on-call", "tickets", "chat"
SECRETS = "/etc/alertmanager/secrets"

EXPLAINED = (
    "RejectionBudgetBurn",
    "RejectionBudgetBurnSlow",
    "Tripped",
    "StuckOpen",
    "StuckHalfOpen",
    "Flapping",
    "NearThreshold",
    "SlowCalls",
)
"""What follows from a dependency that is down."""


def routes(config: MixinConfig) -> dict[str, Any]:
    """The configuration of Alertmanager."""
    settings = config.alerts
    by_severity = {
        settings.page_severity: PAGE,
        settings.ticket_severity: TICKET,
        settings.info_severity: INFO,
    }
    return {
        "route": {
            "receiver": TICKET,
            # Never by instance: a hundred of them are one message.
            "group_by": ["alertname", config.job_label, catalogue.BREAKER.name],
            "group_wait": settings.group_wait,
            "group_interval": settings.group_interval,
            "repeat_interval": settings.repeat_interval,
            "routes": [
                {"receiver": receiver, "matchers": [f'severity="{severity}"']}
                for severity, receiver in by_severity.items()
            ],
        },
        "inhibit_rules": _inhibitions(config),
        "receivers": [
            {
                "name": PAGE,
                "pagerduty_configs": [{"routing_key_file": f"{SECRETS}/pagerduty-routing-key"}],
            },
            {
                "name": TICKET,
                "webhook_configs": [
                    {
                        "url": "http://tickets.example.org/alerts",
                        "http_config": {
                            "authorization": {"credentials_file": f"{SECRETS}/tickets-token"}
                        },
                    }
                ],
            },
            {
                "name": INFO,
                "slack_configs": [
                    {
                        "api_url_file": f"{SECRETS}/slack-webhook-url",
                        "channel": "#circuit-breakers",
                        "send_resolved": True,
                    }
                ],
            },
        ],
    }


def _inhibitions(config: MixinConfig) -> list[dict[str, Any]]:
    prefix = config.alerts.name_prefix

    def mutes(source: str, targets: Sequence[str]) -> dict[str, Any]:
        names = "|".join(prefix + each for each in targets)
        return {
            "source_matchers": [f'alertname="{prefix}{source}"'],
            "target_matchers": [f'alertname=~"{names}"'],
            "equal": [config.job_label, catalogue.BREAKER.name],
        }

    forced = f'alertname="{prefix}ForcedState"'
    return [
        mutes("TrippedFleetWide", EXPLAINED),
        mutes("RejectionBudgetBurn", ("RejectionBudgetBurnSlow",)),
        mutes("ShouldHaveOpened", ("NearThreshold",)),
        {
            "source_matchers": [forced, f'severity="{config.alerts.ticket_severity}"'],
            "target_matchers": [forced, f'severity="{config.alerts.info_severity}"'],
            "equal": [config.job_label, catalogue.BREAKER.name],
        },
    ]
