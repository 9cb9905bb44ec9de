"""The daemon's socket: the protocol, who listens where, client and server."""
