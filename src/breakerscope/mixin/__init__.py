"""Dashboards as code: typed Python in place of jsonnet.

    config      what can differ from one installation to the next
    queries     PromQL, built from the catalogue
    sdk         the one import of grafana-foundation-sdk
    style       colours, mappings, thresholds, legends and links
    panels      one function for each panel
    dashboards  which panel stands where
    render      the same bytes for the same configuration
    export      files, whole or not at all

Needs the extra `breakerscope[dashboards]`; nothing of it is imported before it is used.
"""

from breakerscope.mixin.config import MixinConfig, MixinError, load
from breakerscope.mixin.export import export, rendered

__all__ = ["MixinConfig", "MixinError", "export", "load", "rendered"]
