"""Which proxy a request of httpx goes through: the mount patterns for what the environment says.

httpx reads the environment itself, but only for a client without a transport of its own.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.request import getproxies


def proxies_of(proxy: str | None, *, trust_env: bool) -> dict[str, str | None]:
    """The proxy for each mount pattern of httpx; None: directly. `proxy` goes before the
    environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

    A client looks at the environment too, and its patterns are those of the environment: so all of
    them are here in any case.
    """
    found = {"all://": None, **_of_environment()}
    if proxy is not None or not trust_env:
        return dict.fromkeys(found, proxy)
    return found


def _of_environment() -> dict[str, str | None]:
    variables = getproxies()
    without = [host.strip() for host in variables.get("no", "").split(",") if host.strip()]
    if "*" in without:
        return {}
    found: dict[str, str | None] = {}
    for scheme in ("http", "https", "all"):
        if url := variables.get(scheme):
            found[f"{scheme}://"] = url if "://" in url else f"http://{url}"
    return found | {_pattern(host): None for host in without}


def _pattern(host: str) -> str:
    """`example.com` means its subdomains too, an address or `localhost` only itself."""
    if "://" in host:
        return host
    try:
        address = ip_address(host.split("/", maxsplit=1)[0])
    except ValueError:
        return f"all://{host}" if host.lower() == "localhost" else f"all://*{host}"
    return f"all://[{host}]" if address.version == 6 else f"all://{host}"
