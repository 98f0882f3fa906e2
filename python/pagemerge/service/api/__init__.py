"""The local API: calls over a Unix socket in the form of varlink (https://varlink.org).

``server`` listens, ``connection`` serves one caller, ``answers`` has the calls, and ``calls`` their
parameters and replies, from which ``interface`` writes ``org.pagemerge.varlink``.
"""
