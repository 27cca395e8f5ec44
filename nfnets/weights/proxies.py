"""Proxies from the environment: addresses in NO_PROXY, and one sentence for an invalid proxy."""

import contextlib
import ipaddress
import os
import re
import urllib.parse
import urllib.request


def problem(url: str, schemes: tuple[str, ...] = ('http', 'https')) -> str:
  """Says what is wrong with the proxy variables that a download would use.

  Args:
    url: the URL of the download.
    schemes: the proxy schemes that the downloading library supports.

  Returns:
    A sentence without its full stop and without the proxy's password; '' if nothing is wrong.
  """
  parts = urllib.parse.urlsplit(url)
  proxies = urllib.request.getproxies()
  kind = next((kind for kind in (parts.scheme, 'all') if proxies.get(kind)), None)
  if kind is None or urllib.request.proxy_bypass(parts.netloc) or is_exempt(parts.netloc):
    return ''
  proxy = proxies[kind]
  with contextlib.suppress(ValueError):  # a host or port that is none
    address = urllib.parse.urlsplit(proxy if '://' in proxy else f'http://{proxy}')
    if address.scheme in schemes and address.hostname and address.port != 0:
      return ''
  names = (name for name in os.environ if name.lower() == f'{kind}_proxy')
  return (
    f'{next(names, "the proxy of the system")}={re.sub("//[^/]*@", "//", proxy)} is not a proxy '
    f'that downloads can use: write http://HOST:PORT, or leave it out'
  )


def is_exempt(host: str) -> bool:
  """Whether NO_PROXY lists an IP address, plain, in brackets or as part of a CIDR network.

  Args:
    host: as in a URL, [address]:port; always False for names, which urllib handles itself.
  """
  try:
    address = ipaddress.ip_address(urllib.parse.urlsplit(f'//{host}').hostname or '')
  except ValueError:
    return False
  for entry in urllib.request.getproxies().get('no', '').split(','):
    with contextlib.suppress(ValueError):
      if address in ipaddress.ip_network(re.sub(r'[\[\]]', '', entry.strip()), strict=False):
        return True
  return False


class ProxyHandler(urllib.request.ProxyHandler):
  """urllib's own handler, which does not support IPv6 addresses in NO_PROXY."""

  def proxy_open(self, request: urllib.request.Request, proxy: str, kind: str):
    """Returns None to go without."""
    return None if is_exempt(request.host) else super().proxy_open(request, proxy, kind)
