"""pagemerge as a service: what runs in the background on a host, and how programs talk to it."""
