"""Mirrors the wishes of this node's pods into rules of the governor.

A pod asks by an annotation. The API server tells which pods this node has; the kubelet has named
their cgroups by their uids, so each wish becomes rules by cgroup, in a file that the daemon reads.
"""
