"""Which snapshots are kept: restic's rules as its users know them, and what running backups need."""

import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultik.errors import ConfigError
from vaultik.maintain.keep import UNLIMITED, CalendarSpan, Candidate, KeepRules, judge, superseded_at
from vaultik.maintain.request import PruneRequest, parse_request

DAY, HOUR = 86_400, 3_600
GRACE = 7 * DAY
LATER = 4_000_000_000.0
"""So long after everything that no grace holds anything."""


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def snapshot(when, *, source="a", complete=True, name=None, modified=None):
    seconds = at(when) if isinstance(when, str) else when
    name = name or datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return Candidate(name, source, seconds if modified is None else modified, seconds, complete)


def by_rules(snapshots, now=LATER, **rules):
    """What the rules name, with the reasons; being the newest is none of theirs."""
    verdicts = judge(snapshots, KeepRules(**rules), now, 0)
    return {
        snapshots[n].id[:13]: [r for r in v.reasons if r != "newest"]
        for n, v in enumerate(verdicts)
        if set(v.reasons) - {"newest"}
    }


SUNDAYS = [snapshot(at("2019-09-01 11:00") + n * 7 * DAY) for n in range(12)]


class TestAsRestic:
    def test_one_backup_every_sunday_and_keep_daily_4(self):
        assert sorted(by_rules(SUNDAYS, daily=4)) == [
            "20191027T1100",
            "20191103T1100",
            "20191110T1100",
            "20191117T1100",
        ]

    def test_days_without_a_snapshot_do_not_count(self):
        days = ["05-01 08:00", "05-02 08:00", "05-02 11:00", "05-04 09:00", "05-05 10:00"]
        kept = by_rules([snapshot(f"2024-{day}") for day in days], daily=4)
        assert sorted(kept) == ["20240501T0800", "20240502T1100", "20240504T0900", "20240505T1000"]

    def test_while_counts_are_left_the_oldest_stays(self):
        days = ["02 13:42", "03 01:04", "04 20:09", "04 20:20"]
        kept = by_rules([snapshot(f"2024-01-{day}") for day in days], monthly=4)
        assert kept == {"20240104T2020": ["monthly"], "20240102T1342": ["oldest monthly"]}

    def test_a_daily_backup_for_a_hundred_years(self):
        first = at("1924-01-01 12:00")
        snapshots = [snapshot(first + n * DAY) for n in range(36_525)]
        kept = by_rules(snapshots, daily=7, weekly=5, monthly=12, yearly=75)
        count = {
            kind: sum(kind in reasons for reasons in kept.values()) for kind in ("daily", "weekly", "monthly", "yearly")
        }
        assert count == {"daily": 7, "weekly": 5, "monthly": 12, "yearly": 75}
        assert kept["20231231T1200"] == ["daily", "weekly", "monthly", "yearly"]
        assert kept["20231224T1200"] == ["weekly"]
        assert kept["20230131T1200"] == ["monthly"]
        assert kept["19491231T1200"] == ["yearly"]
        assert "19481231T1200" not in kept

    def test_weeks_are_iso_weeks(self):
        kept = by_rules(
            [snapshot(f"{day} 12:00") for day in ("2020-12-27", "2020-12-28", "2021-01-03", "2021-01-04")], weekly=3
        )
        assert sorted(kept) == ["20201227T1200", "20210103T1200", "20210104T1200"]

    def test_hours_and_last(self):
        snapshots = [snapshot(f"2024-01-01 {t}") for t in ("10:00", "10:30", "11:10", "11:50")]
        assert by_rules(snapshots, hourly=2) == {"20240101T1030": ["hourly"], "20240101T1150": ["hourly"]}
        assert sorted(by_rules(snapshots, last=3)) == ["20240101T1030", "20240101T1110", "20240101T1150"]

    def test_unlimited(self):
        assert len(by_rules(SUNDAYS, weekly=UNLIMITED)) == 12
        assert len(by_rules(SUNDAYS, last=UNLIMITED)) == 12

    def test_within_is_counted_from_the_newest_snapshot(self):
        assert len(by_rules(SUNDAYS, within=CalendarSpan(days=14))) == 2
        assert len(by_rules(SUNDAYS, within=CalendarSpan(days=14, hours=1))) == 3
        assert len(by_rules(SUNDAYS, within=CalendarSpan(months=1))) == 5

    def test_rules_are_ored_and_their_order_does_not_matter(self):
        kept = by_rules(list(reversed(SUNDAYS)), last=1, monthly=2)
        assert kept == {"20191117T1100": ["last", "monthly"], "20191027T1100": ["monthly"]}


@pytest.mark.parametrize(
    ("span", "of", "gives"),
    [
        (CalendarSpan(months=1), "2023-10-31 12:00", "2023-10-01 12:00"),
        (CalendarSpan(years=1), "2024-02-29 00:00", "2023-03-01 00:00"),
        (CalendarSpan(years=1, months=5, days=7, hours=3), "2024-03-10 02:00", "2022-10-02 23:00"),
        (CalendarSpan(months=3), "2024-02-15 08:00", "2023-11-15 08:00"),
        (CalendarSpan(months=12), "2024-01-15 08:00", "2023-01-15 08:00"),
    ],
)
def test_a_span_goes_by_the_calendar(span, of, gives):
    assert span.before(at(of)) == at(gives)


def test_a_span_of_more_than_there_was_keeps_everything():
    assert CalendarSpan(years=9999).before(at("2024-01-01")) == -math.inf


class TestWhatFillsNoRule:
    def test_a_partial_snapshot(self):
        snapshots = [snapshot("2024-01-01"), snapshot("2024-01-05", complete=False), snapshot("2024-01-03")]
        assert by_rules(snapshots, last=1) == {"20240103T0000": ["last"]}
        assert judge(snapshots, KeepRules(last=1), LATER, 0)[1].reasons == ("newest",)

    def test_one_whose_times_differ_is_kept_all_the_same(self):
        odd = snapshot("2024-01-02 12:00", modified=at("2024-01-04"))
        snapshots = [snapshot("2024-01-01"), odd, snapshot("2024-01-05")]
        assert by_rules(snapshots, daily=1) == {"20240105T0000": ["daily"], "20240102T1200": ["its times differ"]}

    def test_a_day_s_difference_is_none(self):
        snapshots = [snapshot("2024-01-02", modified=at("2024-01-03")), snapshot("2024-01-05")]
        assert by_rules(snapshots, daily=1) == {"20240105T0000": ["daily"]}


def test_each_source_for_itself():
    snapshots = [
        snapshot("2024-01-01", source="a"),
        snapshot("2024-01-02", source="b"),
        snapshot("2024-01-03", source="b"),
    ]
    assert sorted(by_rules(snapshots, last=1)) == ["20240101T0000", "20240103T0000"]


class TestGrace:
    NOW = at("2024-03-20")

    def verdicts(self, *ages, grace=GRACE, **rules):
        snapshots = [snapshot(self.NOW - age * DAY) for age in ages]
        return judge(snapshots, KeepRules(**(rules or {"last": 1})), self.NOW, grace)

    def test_what_was_the_newest_within_it_is_held_until_a_grace_after_it_was_superseded(self):
        old, before, within, newest = self.verdicts(20, 9, 3, 1)
        assert newest.reasons == ("last", "newest")
        assert newest.held_until is None
        assert within.held_until == self.NOW - 1 * DAY + GRACE
        assert before.held_until == self.NOW - 3 * DAY + GRACE
        assert (old.reasons, old.held_until) == ((), None)

    def test_exactly_at_its_end(self):
        assert self.verdicts(20, 7)[0].held_until == self.NOW
        assert self.verdicts(20, 7.01)[0].held_until is None

    def test_what_is_close_to_the_last_before_it_may_have_been_the_newest(self):
        close, last, _ = self.verdicts(9.04, 9, 1)
        assert close.held_until == last.held_until == self.NOW - 1 * DAY + GRACE
        assert self.verdicts(9.05, 9, 1)[0].held_until is None

    def test_what_is_close_to_the_newest_is_kept(self):
        assert self.verdicts(1.04, 1)[0].reasons == ("within an hour of the newest",)

    def test_without_grace_nothing_is_held(self):
        assert [bool(v.reasons) for v in self.verdicts(3, 2, 1.0001, 1, grace=0)] == [False, False, False, True]

    def test_a_greater_id_counts_as_newer_too(self):
        """A host whose clock was ahead: the id says newest, the store's time doesn't."""
        ahead = snapshot(self.NOW - 30 * DAY, name="20990101T000000Z")
        others = [snapshot(self.NOW - age * DAY) for age in (20, 1)]
        verdicts = judge([ahead, *others], KeepRules(last=1), self.NOW, GRACE)
        assert verdicts[0].reasons == ("newest",)
        assert verdicts[1].held_until is not None


TIMES = st.integers(0, 400).map(lambda n: n * HOUR / 2.0)
SNAPSHOTS = st.lists(
    st.builds(
        lambda modified, name, source, off, complete: Candidate(f"{name:03}", source, modified, modified + off, complete),
        TIMES, st.integers(0, 30), st.sampled_from("ab"), st.sampled_from([0, 0, 3 * HOUR, 2 * DAY]), st.booleans(),
    ),
    max_size=14,
)  # fmt: skip
COUNTS = st.integers(0, 5)
RULES = st.builds(
    KeepRules, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.none() | st.builds(CalendarSpan, days=COUNTS)
)


@given(SNAPSHOTS, TIMES, st.sampled_from([0.0, HOUR / 2.0, HOUR, DAY, GRACE]))
def test_the_grace_holds_exactly_what_the_rule_says(snapshots, now, grace):
    """The rule as FORMAT.md words it, against the times at which each snapshot is superseded."""
    horizon, slack = now - grace, min(HOUR, grace)
    expected = set()
    for source in "ab":
        there = [n for n, s in enumerate(snapshots) if s.source == source]
        old = [n for n in there if snapshots[n].modified < horizon]
        expected |= {n for n in there if snapshots[n].modified >= horizon}
        if old:
            last = max(snapshots[n].modified for n in old)
            expected |= {n for n in there if snapshots[n].modified >= last - slack}
            greatest = max(snapshots[n].id for n in old)
            expected |= {n for n in old if snapshots[n].id == greatest}
    found = {n for n, end in enumerate(superseded_at(snapshots, grace)) if end >= horizon}
    newest = {n for n, end in enumerate(superseded_at(snapshots, grace)) if end == math.inf}
    assert found == expected | newest


@given(SNAPSHOTS, RULES, TIMES, st.sampled_from([0.0, DAY, GRACE]))
def test_each_source_s_newest_are_kept_and_time_alone_never_brings_one_back(snapshots, rules, now, grace):
    def kept(now):
        verdicts = judge(snapshots, rules, now, grace)
        return {n for n, v in enumerate(verdicts) if v.reasons or v.held_until is not None}

    for source in {s.source for s in snapshots}:
        there = [n for n, s in enumerate(snapshots) if s.source == source]
        assert max(there, key=lambda n: (snapshots[n].modified, snapshots[n].id)) in kept(now)
        assert max(there, key=lambda n: snapshots[n].id) in kept(now)
    assert kept(now + DAY) <= kept(now)


@given(SNAPSHOTS, RULES, st.sampled_from(["last", "hourly", "daily", "weekly", "monthly", "yearly"]))
def test_a_higher_count_only_adds(snapshots, rules, kind):
    def named(rules):
        return {n for n, v in enumerate(judge(snapshots, rules, LATER, 0)) if v.reasons}

    fewer, more = named(rules), named(rules._replace(**{kind: getattr(rules, kind) + 1}))
    assert fewer <= more


@given(SNAPSHOTS, RULES)
def test_no_rule_names_more_than_its_count(snapshots, rules):
    verdicts = judge(snapshots, rules, LATER, 0)
    for kind in KeepRules._fields[:-1]:
        for source in "ab":
            reasons = [v.reasons for s, v in zip(snapshots, verdicts, strict=True) if s.source == source]
            named = [r for r in reasons if {kind, f"oldest {kind}"} & set(r)]
            assert len(named) <= getattr(rules, kind)


class TestRequest:
    def test_nothing_asked_for_keeps_the_last(self):
        assert parse_request({}) == PruneRequest(
            KeepRules(last=1), GRACE, exclusive=False, drop=(), forget=(), allow_shrink=False
        )

    def test_values(self):
        rules = parse_request({"daily": "7", "yearly": "unlimited", "within": "1y6m14d12h", "last": ""}).rules
        assert rules == KeepRules(daily=7, yearly=UNLIMITED, within=CalendarSpan(1, 6, 14, 12))
        assert parse_request({}, grace="0").grace_s == 0
        assert parse_request({}, grace="14d").grace_s == 14 * DAY

    @pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "\N{FULLWIDTH DIGIT ONE}", "9999999999"])
    def test_a_count_that_is_none(self, text):
        with pytest.raises(ConfigError, match="--keep-weekly"):
            parse_request({"weekly": text})

    @pytest.mark.parametrize("text", ["7", "1w", "h", "3d1y", "-1d", "10s", "0d"])
    def test_a_span_that_is_none(self, text):
        with pytest.raises(ConfigError, match="--keep-within"):
            parse_request({"within": text})

    @pytest.mark.parametrize("text", ["7", "1w", "-1d", "soon"])
    def test_a_grace_that_is_none(self, text):
        with pytest.raises(ConfigError, match="--grace"):
            parse_request({}, grace=text)

    def test_exclusive_goes_with_grace(self):
        with pytest.raises(ConfigError, match="--exclusive"):
            parse_request({}, exclusive=True)
