"""What tests and previews know of Grafana: how it fills in variables, asks, and lints."""
