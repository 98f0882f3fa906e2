"""The shipped definition of the interface is that of the code, and varlink's scanner reads it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from varlink import scanner

from pagemerge.service.api import interface
from pagemerge.service.api.answers import Answers
from pagemerge.service.api.calls import ERRORS, METHODS, OURS, SERVICE
from pagemerge.service.api.refusal import _OURS


def test_the_shipped_file_is_what_the_types_say() -> None:
    file = Path(interface.__file__).with_name(f"{OURS}.varlink")
    cure = "python -m pagemerge.service.api.interface > org.pagemerge.varlink"
    assert file.read_text() == interface.described(OURS), cure


@pytest.mark.parametrize("name", [OURS, SERVICE])
def test_varlink_s_own_scanner_reads_it(name: str) -> None:
    found = scanner.Interface(interface.description(name))
    assert found.name == name
    for method in METHODS[name]:
        assert found.get_method(method).name == method
    text = interface.description(name)
    assert set(re.findall(r"^error (\w+)", text, re.M)) == set(ERRORS[name])


def test_every_method_is_answered_and_no_other() -> None:
    wanted = {
        "_call_" + re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
        for methods in METHODS.values()
        for name in methods
    }
    assert {it for it in vars(Answers) if it.startswith("_call_")} == wanted


def test_every_error_that_we_send_is_described() -> None:
    assert set(_OURS.values()) <= set(ERRORS[OURS])


def test_the_standard_interface_is_as_varlink_org_says() -> None:
    text = re.sub(r"#.*|\s+", " ", interface.description(SERVICE))
    text = re.sub(r"\s+", " ", text)
    for line in (
        "interface org.varlink.service",
        "method GetInfo() -> ( vendor: string, product: string, version: string, url: string, "
        "interfaces: []string )",
        "method GetInterfaceDescription(interface: string) -> (description: string)",
        "error InterfaceNotFound (interface: string)",
        "error MethodNotFound (method: string)",
        "error MethodNotImplemented (method: string)",
        "error InvalidParameter (parameter: string)",
        "error PermissionDenied ()",
        "error ExpectedMore ()",
    ):
        assert line in text


def test_every_parameter_can_be_left_out_or_null_unless_it_is_needed() -> None:
    for methods in METHODS.values():
        for method in methods.values():
            fields = msgspec.structs.fields(method.parameters)
            needed = {
                it.name: "x" if it.name == "interface" else ["x"] for it in fields if it.required
            }
            for field in fields:
                if not field.required:
                    found = msgspec.convert({**needed, field.name: None}, method.parameters)
                    assert found == msgspec.convert(needed, method.parameters)
