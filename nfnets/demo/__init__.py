"""A page to try networks in the browser: `python -m nfnets.demo --weights W`."""
