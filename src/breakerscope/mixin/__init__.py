"""Dashboards and alerts as code: typed Python in place of jsonnet.

    config      what can differ from one installation to the next
    queries     PromQL, built from the catalogue
    sdk         the one import of grafana-foundation-sdk
    style       colours, mappings, thresholds, legends and links
    panels      one function for each panel
    dashboards  which panel stands where
    render      the same bytes for the same configuration
    rules       which alerts there are
    alertmanager  who hears of them, and which keep quiet
    alerts      both as YAML
    export      files, whole or not at all
    runbooks    what to do about an alert

Needs the extra `breakerscope[dashboards]`; nothing of it is imported before it is used.
"""

from breakerscope.mixin.alert_settings import AlertSettings
from breakerscope.mixin.config import MixinConfig, MixinError, load
from breakerscope.mixin.export import export, export_alerts, rendered, rendered_alerts
from breakerscope.mixin.runbooks import runbook_text

__all__ = [
    "AlertSettings",
    "MixinConfig",
    "MixinError",
    "export",
    "export_alerts",
    "load",
    "rendered",
    "rendered_alerts",
    "runbook_text",
]
