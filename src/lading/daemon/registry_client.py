"""The registry client, made of the daemon's configuration. Imports all of it."""

from lading.core.remotes import Registries
from lading.daemon import host
from lading.daemon.config import Config
from lading.remotes.config import Config as RemotesConfig
from lading.remotes.config import Limits
from lading.remotes.dial import Proxies
from lading.remotes.registries import HttpRegistries


def make(config: Config) -> Registries:
    """The registry client, told what daemon.json says."""
    proxies = {
        "HTTP_PROXY": config.http_proxy,
        "HTTPS_PROXY": config.https_proxy,
        "NO_PROXY": config.no_proxy,
    }
    return HttpRegistries(
        RemotesConfig(
            proxies=Proxies.from_environment(proxies),
            mirrors=config.registry_mirrors,
            insecure=config.insecure_registries,
            user_agent=f"lading/{host.version()}",
            limits=Limits(
                attempts=config.max_download_attempts, idle=float(config.lading.registry_idle_timeout)
            ),
        )
    )
