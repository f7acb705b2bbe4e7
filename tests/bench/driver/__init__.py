"""The peers' benchmark: every proxy resident at once, one core for the proxy under test, the other for clients and
backend, CPU time per request from /proc, rounds interleaved. Standard library only."""
