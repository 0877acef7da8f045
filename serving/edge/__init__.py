"""The HTTP edge: limits of connections and bodies, access, response headers, the access log and draining."""
