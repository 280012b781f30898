"""What to print of a latency table that was measured."""

from .tables import Measurement, settled

WAITS = 0.05  # of the time: a process that waits more for a core shares it with others


def as_text(measurement: Measurement) -> str:
    """How many segments the table has, and what makes their times doubtful, a line each."""
    table = measurement.table
    names = sum(len(segment.names) for segment in table.segments)
    lines = [
        f"{table.source}: {names} segments, {len(table.segments)} of them different; visited {measurement.visits} "
        "times now"
    ]
    lines += [
        f"warning: {segment.file}: after {len(segment.visits_ms)} visits its interval is "
        f"+-{100 * segment.error / segment.time:.1f} % of its median; measure on a quieter machine, "
        "or with more --repeats"
        for segment in table.segments
        if not settled(segment, table.settings.bound)
    ]
    if measurement.waited > WAITS:
        lines.append(
            f"warning: other work took the core for {measurement.waited:.0%} of the time: visits may agree on a wrong "
            f"time; remove {table.source} and its .json, and measure on a quiet machine"
        )
    return "\n".join(lines)
