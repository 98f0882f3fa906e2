"""What command lines of QEMU say about the guest's memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.linux.qemu import Machine, machine_of, properties
from tests.support import hostile
from tests.support.hostile import text_of

QEMU = "/usr/bin/qemu-system-x86_64"
LIBVIRT = {"qom-type": "memory-backend-memfd", "id": "pc.ram", "x-use": False, "size": 1 << 30}


def machine(*words: str) -> Machine:
    found = machine_of([QEMU, *words])
    assert found is not None
    return found


def libvirt(name: str) -> list[str]:
    """A command line that libvirt 9.0.0 has written for QEMU 7.2."""
    return (Path(__file__).parent / "libvirt" / f"{name}.args").read_text().split("\n")[:-1]


def test_what_libvirt_writes() -> None:
    """The domain ``quiet,guest=web`` has ``<nosharepages/>``, the domain ``web-1`` has not."""
    quiet, web = machine_of(libvirt("nosharepages")), machine_of(libvirt("plain"))
    assert quiet and web
    assert (quiet.guest, quiet.mem_merge) == ("quiet,guest=web", False)
    assert (web.guest, web.mem_merge) == ("web-1", True)
    assert [it.share for it in web.backends] == [False]


def test_other_programs_are_none() -> None:
    assert machine_of(["/usr/bin/python3", "-machine", "mem-merge=off"]) is None
    assert machine_of([""]) is None
    assert machine_of(["kvm"]) == machine_of(["/usr/libexec/qemu-kvm"]) == Machine("")


@pytest.mark.parametrize(
    ("words", "merges"),
    [
        (["-machine", "q35"], True),
        (["-machine", "q35,mem-merge=off"], False),
        (["--machine", "mem-merge=off"], False),
        (["-M", "pc", "-M", "mem-merge=no"], False),
        (["-machine", "mem-merge=off", "-machine", "mem-merge=on"], True),
        (["-machine", "mem-merge=off", "-machine", "usb=on"], False),
        (["machine", "mem-merge=off"], True),
        (["-machine", "mem-merge"], True),
        (["-append", "x", "-machine", json.dumps({"type": "q35", "mem-merge": False})], False),
    ],
)
def test_who_marks_its_memory(words: list[str], merges: bool) -> None:
    assert machine(*words).mem_merge is merges


@pytest.mark.parametrize(
    ("value", "share", "given", "option"),
    [
        ("memory-backend-ram,id=a", False, False, "-object memory-backend-ram,id=a"),
        ("memory-backend-memfd,id=a", True, False, "-object memory-backend-memfd,id=a"),
        ("memory-backend-memfd,id=a,share=off", False, True, "-object memory-backend-memfd,id=a"),
        (
            "qom-type=memory-backend-file,id=a,mem-path=/x,,y,share=on",
            *(True, True, "-object memory-backend-file,id=a,mem-path=/x,y,share=on"),
        ),
        (
            json.dumps({**LIBVIRT, "share": True}),
            *(True, True, "-object memory-backend-memfd,id=pc.ram,share=on"),
        ),
        (
            json.dumps({**LIBVIRT, "share": False}),
            *(False, True),
            "-object memory-backend-memfd,id=pc.ram",
        ),
    ],
)
def test_backends(value: str, share: bool, given: bool, option: str) -> None:
    (backend,) = machine("-m", "64", "-object", value).backends
    assert (backend.share, backend.share_given, backend.option) == (share, given, option)


def test_other_objects_are_no_backends() -> None:
    assert machine("-object", "rng-random,id=a", "-object", "{", "-object", "[1]").backends == ()


def test_what_else_counts() -> None:
    found = machine(
        *("-name", "guest=web,debug-threads=on", "-mem-path", "/dev/hugepages"),
        *("-overcommit", "mem-lock=on", "-device", "vhost-user-fs-pci,chardev=c,tag=t"),
        *("-netdev", "vhost-user,id=n", "-device", json.dumps({"driver": "vfio-pci"})),
        *("-device", "virtio-net-pci", "-netdev", "tap,id=x,vhost=on"),
        *("-object", "memory-backend-memfd,id=m,hugetlb=on"),
    )
    assert (found.guest, found.mem_path, found.locked) == ("web", "/dev/hugepages", True)
    assert found.sharers == ("vhost-user-fs-pci", "vhost-user")
    assert found.pinners == ("vfio-pci",)
    assert found.backends[0].hugetlb
    assert machine("-realtime", "mlock=on").locked and not machine("-realtime", "mlock=off").locked


def test_json_of_any_depth_and_length_is_no_error() -> None:
    for value in ('{"a":' * 9000, '{"a":' + "9" * 9000 + "}", "{}", '{"a":null,"b":[1],"c":{}}'):
        assert properties(value, "x") == {}


@given(st.lists(hostile.text(b"\0").map(text_of), min_size=1, max_size=6))
def test_words_of_any_form_are_no_error(words: list[str]) -> None:
    options = ["-object", "-machine", "-device", "-netdev", "-overcommit", "-mem-path", "-name"]
    mixed = [it for pair in zip(options * len(words), words, strict=False) for it in pair]
    found = machine("-object", f"memory-backend-file,id={words[0]},mem-path={words[-1]}", *mixed)
    assert all(it.option.isprintable() and len(it.option) <= 60 for it in found.backends)
