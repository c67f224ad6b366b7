"""Hours of the day, as the configuration writes them: `22:00-06:00`, in local time."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo


def opening(
    hours: str, now: datetime, zone: tzinfo | None = None
) -> tuple[datetime, datetime] | None:
    """Begin and end of the hours if `now` (aware) is within them, else None.

    In the local time of `zone` (None: this machine's), through midnight if they end before they
    begin.
    """
    first, last = time.fromisoformat(hours[:5]), time.fromisoformat(hours[6:])
    today = now.astimezone(zone).date()
    for day in (today - timedelta(days=1), today):
        begin = _moment(day, first, zone)
        end = _moment(day if first < last else day + timedelta(days=1), last, zone)
        if begin <= now < end:
            return begin, end
    return None


def _moment(day: date, clock: time, zone: tzinfo | None) -> datetime:
    """A local time on a day, in UTC, so that a night in which clocks change has its true length."""
    local = datetime.combine(
        day, clock, zone
    )  # without a zone: the system's, whatever its offset is on that day
    return local.astimezone(UTC)
