"""The application: it asks for moments, shows them, and does what the keys say."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Footer, Input

from pagemerge.errors import PagemergeError
from pagemerge.linux.text import plain
from pagemerge.watch.model import Moment
from pagemerge.watch.top import acting, chart, panes, style, words
from pagemerge.watch.top.chart import Chart, Picture
from pagemerge.watch.top.dialogs import Ask, Filter, Help
from pagemerge.watch.top.feed import Feed, News
from pagemerge.watch.top.lines import KINDS, SORTS, arranged
from pagemerge.watch.top.panes import Item, Pane
from pagemerge.watch.top.recent import Recent
from pagemerge.watch.top.source import Ended, Source
from pagemerge.watch.top.table import Table

PATIENCE = 5.0
"""Seconds without an answer until the view says so; at least five times the pace."""


class Top(App[None]):
    """The view. ``every`` is in seconds; ``past`` are moments to begin the chart with.

    ``recorded``: the moments come from a file, so the processes are not here.
    """

    TITLE = "pagemerge top"
    CSS = style.SHEET
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012 - App declares it so
        (0, "-low"),
        (style.LOW, "-usual"),
        (style.TALL, "-tall"),
        (style.HIGH, "-high"),
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("question_mark,h", "help", "Help", key_display="?"),
        Binding("s", "sort(1)", "Sort"),
        Binding("S,upper_s", "sort(-1)", "Sort back", show=False),
        Binding("r", "reverse", "Reverse", show=False),
        Binding("g", "group", "Group"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("space,p", "pause", "Pause", key_display="p"),
        Binding("a", "act('attach')", "Attach"),
        Binding("d", "act('detach')", "Detach"),
        Binding("t", "theme", "Light or dark", show=False),
        Binding("escape", "clear", "End the filter", show=False),
    ]

    class Came(Message):
        """The source has answered."""

        def __init__(self, news: News) -> None:
            super().__init__()
            self.news = news

    class Acted(Message):
        """An attach or detach is done."""

        def __init__(self, answer: acting.Answer) -> None:
            super().__init__()
            self.answer = answer

    def __init__(
        self,
        source: Source,
        every: float = 1.0,
        *,
        sort: str = "saved",
        kind: str = "process",
        recorded: bool = False,
        past: Iterable[Moment] = (),
    ) -> None:
        super().__init__()
        self.recent = Recent(past)
        self.paused = False
        self.answers = 0
        """How often the source has answered, with a moment or an error."""
        self._source, self._every, self._recorded = source, every, recorded
        self._sort, self._kind, self._reverse, self._wanted = sort, kind, False, ""
        self._trouble = ""
        self._feed: Feed | None = None

    def compose(self) -> ComposeResult:
        """Build the screen, from top to bottom."""
        yield Pane(id="title")
        yield Pane(id="trouble")
        yield Pane(id="engines")
        with Horizontal(id="charts"):
            yield Chart(self._memory, "$text-primary", id="memory")
            yield Chart(self._saving, "$text-success", id="saving")
        yield Table(id="table")
        yield Pane(id="selected")
        yield Pane(id="decisions")
        yield Filter(placeholder="text to look for: a name, unit, user or pid", id="filter")
        yield Footer(show_command_palette=False, compact=True)

    def on_mount(self) -> None:
        """Begin to ask for moments."""
        self.query_one("#decisions", Pane).border_title = "The governor's last decisions"
        self.query_one(Table).focus()
        self._feed = Feed(self._source, lambda news: self._post(self.Came(news)))
        self.set_interval(self._every, self._tick)
        self.show_all()
        self._feed.ask()

    def on_unmount(self) -> None:
        """Let the thread of the source end."""
        if self._feed:
            self._feed.close()

    def on_top_came(self, message: Came) -> None:
        """Show a moment, or why there is none."""
        news = message.news
        self.answers += 1
        if isinstance(news, Moment):
            self.recent.add(news)
            self._complain("")
            self.show_all()
        elif isinstance(news, Ended):
            self._complain(f"{_sentence(news)} The view shows its end.")
        elif isinstance(news, PagemergeError):
            self._complain(f"{_sentence(news)} The figures below are old; the view tries again.")
        else:
            told = f"the source has failed with {type(news).__name__}: {news}"
            self._complain(f"{_sentence(told)} The figures below are old; the view tries again.")

    def on_top_acted(self, message: Acted) -> None:
        """Say what came of an attach or detach."""
        good, text = message.answer
        self.notify(text, severity="information" if good else "error", markup=False, timeout=12)

    def on_table_selected(self) -> None:
        """Describe the line that is now selected."""
        self._show_selected()

    def on_table_sorted(self, message: Table.Sorted) -> None:
        """Sort as a click wants it; a second click turns the order around."""
        self._reverse = not self._reverse if message.sort == self._sort else False
        self._sort = message.sort
        self.show_table()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the text is typed."""
        if event.input.id == "filter":
            self._wanted = event.value
            self.show_table()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, and go back to the table."""
        if event.input.id == "filter":
            event.input.set_class(bool(self._wanted), "-seen")
            self.query_one(Table).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the filter only where it is not open yet."""
        return action != "filter" or not isinstance(self.focused, Filter)

    def action_sort(self, by: int) -> None:
        """Sort by the next order."""
        self._sort, self._reverse = SORTS[(SORTS.index(self._sort) + by) % len(SORTS)], False
        self.show_table()

    def action_reverse(self) -> None:
        """Turn the order around."""
        self._reverse = not self._reverse
        self.show_table()

    def action_group(self) -> None:
        """Group by the next kind."""
        self._kind = KINDS[(KINDS.index(self._kind) + 1) % len(KINDS)]
        self.show_table()

    def action_filter(self) -> None:
        """Ask for the text to look for."""
        box = self.query_one("#filter", Input)
        box.add_class("-seen")
        box.focus()

    def action_clear(self) -> None:
        """End the filter."""
        box = self.query_one("#filter", Input)
        box.value = ""
        box.remove_class("-seen")
        self.query_one(Table).focus()

    def action_pause(self) -> None:
        """Stop to ask for moments, or go on."""
        self.paused = not self.paused
        self._show_title()
        if not self.paused and self._feed:
            self._feed.ask()

    def action_theme(self) -> None:
        """Change between light and dark."""
        self.theme = style.other(self.theme)

    def action_help(self) -> None:
        """Explain keys and columns."""
        self.push_screen(Help())

    def action_act(self, verb: str) -> None:
        """Attach or detach, after a question."""
        line = self.query_one(Table).selected
        if why := acting.refusal(verb, line, self._recorded):
            self.notify(why, severity="warning", markup=False, timeout=8)
            return
        dialog = Ask(verb, line.pid if line else None, line.name if line else "")

        def decide(pid: int | None) -> None:
            if pid is not None:
                self._act(verb, pid, dialog.start)

        self.push_screen(dialog, decide)

    def show_all(self) -> None:
        """Show the last moment in all panes."""
        self._show_title()
        if self.recent.moment:
            self.query_one("#engines", Pane).show(panes.engines(self.recent))
        pane = self.query_one("#decisions", Pane)
        pane.show(panes.decisions(self.recent, self.recent.moment, 8))
        for one in self.query(Chart):
            one.refresh()
        self.show_table()

    def show_table(self) -> None:
        """Arrange the lines anew and show them."""
        table, moment = self.query_one(Table), self.recent.moment
        rows = moment.rows if moment else ()
        lines = arranged(
            rows, self.recent.unsharing, self._kind, self._sort, self._wanted, self._reverse
        )
        empty = "No process has mergeable memory: a attaches one." if moment else "Reading…"
        if rows and not lines:
            empty = f"None of the {len(rows)} processes has {plain(self._wanted, 40)!r} in a name."
        table.show(lines, self._kind, self._sort, self._reverse, empty)
        self._show_selected()

    def _show_selected(self) -> None:
        table, pane = self.query_one(Table), self.query_one("#selected", Pane)
        line, (at, count) = table.selected, table.place
        told = words.details(line, self.recent) if line else []
        pane.show(panes.selected(told))
        title = f"Selected: {at} of {count}"
        if self._wanted:
            title += f", with {plain(self._wanted, 30)!r}"
        pane.border_title = Content(title)  # a str would be read as markup

    def _show_title(self) -> None:
        moment, pane = self.recent.moment, self.query_one("#title", Pane)
        told = words.answer(moment) if moment else "Reading the figures of this host…"
        right = words.clock(moment.time) if moment else ""
        if self.paused:
            right = f"PAUSED {right}".strip()
        room = max(self.size.width - len(right) - 3, 0)
        told = told if len(told) <= room else told[: max(room - 1, 0)] + "…"
        pane.show([Item("", f" {told.ljust(room)} {right} ")])

    def on_resize(self) -> None:
        """The title fills the width."""
        self._show_title()

    def _memory(self, width: int) -> Picture | None:
        moment = self.recent.moment
        if moment is None:
            return None
        return chart.memory(list(self.recent.points), width, moment.host.total_bytes)

    def _saving(self, width: int) -> Picture | None:
        return chart.saving(list(self.recent.points), width) if self.recent.points else None

    def _tick(self) -> None:
        feed = self._feed
        if feed is None or feed.ended or self.paused:
            return
        waited = feed.waiting_seconds
        if waited > max(PATIENCE, 5 * self._every):
            self._complain(f"There has been no answer for {waited:.0f} s: the figures are old.")
        feed.ask()

    def _complain(self, text: str) -> None:
        if text == self._trouble:
            return
        self._trouble = text
        pane = self.query_one("#trouble", Pane)
        pane.set_class(bool(text), "-seen")
        pane.show([Item(" ! ", text)] if text else [])

    def _act(self, verb: str, pid: int, start: int | None) -> None:
        self.notify(f"{verb} {pid}: at work", markup=False, timeout=3)

        def work() -> None:
            self._post(self.Acted(acting.carry_out(verb, pid, start)))

        # Not a worker of textual, because quitting would wait for that.
        threading.Thread(target=work, name=verb, daemon=True).start()

    def _post(self, message: Message) -> None:
        """Post a message out of another thread, unless the view has ended meanwhile."""
        if self.is_running:
            self.post_message(message)


def _sentence(error: object) -> str:
    """Write an error as a sentence of printable text."""
    text = plain(str(error), 300).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
