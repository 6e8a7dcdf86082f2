"""What a mend is, and the mends of faults that were found later, by the drill and by other clients; see mends.py."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """One text of a file of src/himari_rl, and what stands there without the mend."""

    file: str
    there: str
    without: str


class Mend(NamedTuple):
    """A line of the list of faults."""

    line: str
    out: str  # how it is taken out, for the table
    test: str
    edits: tuple[Edit, ...]


def edit(file: str, there: str, without: str) -> Edit:
    return Edit(f"serving/{file}", there, without)


FOUND = (
    Mend(
        "half a surrogate pair in a token is 401",
        "only UTF-8 can be answered",
        "serving/test_wire_limits.py::test_a_token_that_cannot_be_parsed_is_401_and_never_500",
        (edit("http/refusals.py", "except TypeError:", "except EOFError:"),),
    ),
    Mend(
        "a file of holes is not read",
        "no size is looked at",
        "policy/test_bundle.py::test_a_file_of_holes_is_refused_by_its_size_and_not_read",
        (Edit("storage/local.py", "if there.st_size > most:", "if False:"),),
    ),
    Mend(
        "an object of a bucket is read no further than it can be large",
        "all of it is read",
        "serving/test_bucket.py::test_a_bundle_s_object_that_is_too_large_is_not_read_to_its_end",
        (Edit("storage/gcs.py", "if self.tell() > self._most:", "if False:"),),
    ),
    Mend(
        "batches take turns",
        "all that have come are decided in one turn",
        "serving/test_turns.py::test_batches_are_answered_one_a_turn_in_the_order_in_which_they_came",
        (edit("http/turns.py", 'BATCH = "/v1/batch"', 'BATCH = "none"'),),
    ),
    Mend(
        "the requests of one connection wait outside",
        "all are taken in",
        "serving/test_turns.py::test_a_connection_s_own_requests_wait_outside",
        (edit("http/upgrade.py", "if len(self.pipeline) >= MOST_BEHIND:", "if False:"),),
    ),
    Mend(
        "who was let in is not starved by refusals",
        "one batch a turn and no more",
        "serving/test_turns.py::test_a_turn_gives_long_requests_as_long_as_all_else_in_it_took",
        (edit("http/turns.py", "begun + min(begun - self._since, MOST_S)", "begun"),),
    ),
    Mend(
        "what finds no place makes no task",
        "it takes the ordinary path",
        "serving/test_turns.py::test_what_finds_no_place_is_refused_with_the_same_bytes_and_makes_no_task",
        (edit("http/protocol.py", "self._refuse_busy()\n            else", "self._release()\n            else"),),
    ),
    Mend(
        "what is about to be refused has no place",
        "it has one before it is looked at",
        "serving/test_turns.py::test_a_burst_that_is_about_to_be_refused_takes_nobody_s_place",
        (
            edit(
                "http/middleware.py", "self.begun >= HARD * self.most", "len(list(self.connections)) > HARD * self.most"
            ),
        ),
    ),
    Mend(
        "connections that end leave no circle",
        "what leads back is kept",
        "serving/test_wire_limits.py::test_a_connection_that_is_gone_leaves_no_circle_for_the_garbage_collector",
        (
            edit(
                "http/upgrade.py",
                "self.flow = self.cycle = self._answering = self._idle_timer = None",
                "self.flow = self.flow",
            ),
        ),
    ),
)
