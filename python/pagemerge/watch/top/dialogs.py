"""What lies over the view for a while: the help, and the question before attach and detach."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from pagemerge.watch.top.acting import started
from pagemerge.watch.top.panes import Item, Pane

KEYS = (
    ("arrows, j, k", "select another line; page up and down, home, end too"),
    ("s, S", "sort by the next or the previous column; so does a click"),
    ("r", "turn the order around"),
    ("g", "group by process, guest, unit or user"),
    ("/", "filter by text; Enter keeps the filter, Escape ends it"),
    ("p, space", "pause: the screen stands still, nothing is measured"),
    ("a", "attach a process: kernel KSM may merge all its memory"),
    ("d", "detach the selected process from kernel KSM"),
    ("t", "light or dark; ctrl+p has more themes"),
    ("q", "quit"),
)

MEANINGS = (
    ("SAVED", "its part of what merging saves"),
    ("MERGED", "its memory that is merged"),
    ("MEMORY", "its anonymous memory"),
    ("UNSHARE/s", "merged pages a second that it writes, and so has alone"),
    ("MAPPINGS", "its mappings, as a part of the limit vm.max_map_count"),
    ("!", "nothing of it is merged; select it to see why"),
)


class Dialog(ModalScreen[int | None]):
    """A box over the view."""


class Help(Dialog):
    """Lists the keys, and what the columns mean."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,h,enter,space", "dismiss", "Close")
    ]

    def compose(self) -> ComposeResult:
        """Build the box."""
        pane = Pane(id="help")
        pane.show([*_listed("Keys", KEYS), *_listed("Columns", MEANINGS)])
        with VerticalScroll(id="box"):
            yield pane


def _listed(heading: str, pairs: tuple[tuple[str, str], ...]) -> list[Item]:
    lines = [Item(f"{what:<13}", meaning, "bold $text-accent") for what, meaning in pairs]
    return [Item(heading, "", "bold"), *lines]


class Filter(Input):
    """The text that lines must have."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep the filter"),
        Binding("escape", "app.clear", "End the filter"),
    ]


class Ask(Dialog):
    """Asks for a pid and for the confirmation; its result is the pid, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Leave it")]

    def __init__(self, verb: str, pid: int | None, name: str) -> None:
        super().__init__()
        self._verb, self._pid, self._called = verb, pid, name
        self.start = None if pid is None else started(pid)
        """When the process started whose pid the dialog proposed: it may end meanwhile."""

    def compose(self) -> ComposeResult:
        """Build the box."""
        meant = {
            "attach": "Kernel KSM may then merge all the memory of this process and of its "
            "children. The process is stopped for a moment.",
            "detach": "Kernel KSM then separates all that it has merged in this process, which "
            "takes the memory that this saved.",
        }
        who = "" if self._pid is None else f" {self._called}"
        with Vertical(id="box"):
            yield Static(Content.styled(f"{self._verb.capitalize()}{who}?", "bold"), markup=False)
            yield Static(meant[self._verb], markup=False)
            value = "" if self._pid is None else str(self._pid)
            yield Input(value, placeholder="pid", type="integer", max_length=10, id="pid")
            yield Static(f"Enter: {self._verb}   Escape: leave it", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """End with the pid, if it is one."""
        text = event.value.strip()
        if text.isascii() and text.isdecimal() and int(text) > 0:
            if int(text) != self._pid:
                self.start = started(int(text))
            self.dismiss(int(text))
