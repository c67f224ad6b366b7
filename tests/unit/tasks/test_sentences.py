"""What is worst is said first, also where not all of it is said."""

from shared.reports.report import make
from shared.state.records import VmRecord
from shared.state.states import State
from shared.tasks.judgement import Level, Moment, Verdict
from shared.tasks.sentences import answer, one_by_one, what_is_wrong
from shared.tasks.verdicts import Verdicts

LOST = Verdict("web", Level.CRITICAL, "damaged", "1 copy is damaged")
UNKNOWN = tuple(
    Verdict(f"app{number}", Level.UNKNOWN, "unlooked", "nobody ever looked") for number in range(4)
)
OK = Verdict("NAS", Level.OK, "room", "500 GiB free")
FOUND = Verdicts(OK, (), (*UNKNOWN, LOST), {}, Moment(0, 0, "", 0), {})


def test_what_is_not_known_hides_nothing_that_is_critical() -> None:
    assert answer(FOUND).startswith("web: 1 copy is damaged")
    assert one_by_one(what_is_wrong(FOUND))[0] == LOST


def test_a_report_that_is_cut_off_has_it() -> None:
    records = [
        VmRecord(one.subject, one.subject, one.subject, "alpha", one.subject, State.CLEAN, "")
        for one in FOUND.vms
    ]
    told = make(records, {one.subject: one for one in FOUND.vms}, [], {}, {})
    assert told[0].vm == "web"
