"""Where reports take `redact` from."""

from visprobe.io.redact import redact as redact
