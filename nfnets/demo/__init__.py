"""A page to try networks on, in the browser: `python -m nfnets.demo --weights W`."""
