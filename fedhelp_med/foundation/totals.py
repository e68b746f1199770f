"""What a ledger amounts to."""

from dataclasses import dataclass

from fedhelp_med.foundation.holders import is_alive
from fedhelp_med.foundation.storage import Storage


@dataclass(frozen=True)
class LedgerSummary:
    """Totals of a ledger.

    Attributes:
        images: answered images.
        calls: calls to the model, whatever became of them.
        bytes: bytes of the images in these calls.
        failed: calls whose answer was refused or did not come.
        uncertain: calls that were sent and never completed: their images may have reached the model.
        resent: images that were part of more than one call.
        under_way: calls that a process is waiting for.
        seconds: spent in the completed calls.
        attempts: requests, repetitions included.
        sent: bytes of these requests.
        received: bytes of their responses.
        imported: answers that came from a file.
    """

    images: int
    calls: int
    bytes: int
    failed: int
    uncertain: int
    resent: int
    under_way: int
    seconds: float
    attempts: int
    sent: int
    received: int
    imported: int


def summarise(ledger: Storage) -> LedgerSummary:
    """Return the totals of a ledger."""
    leases = ledger.rows("SELECT holder, expires FROM leases JOIN calls ON calls.id = call WHERE status = 'sent'")
    under_way = sum(is_alive(holder, expires) for holder, expires in leases)
    images, calls, size, failed, sent, resent, seconds = ledger.rows(
        "SELECT (SELECT count(*) FROM answers), count(*), coalesce(sum(bytes), 0), "
        "coalesce(sum(status = 'failed'), 0), coalesce(sum(status = 'sent'), 0), "
        "(SELECT count(*) FROM (SELECT key FROM sent GROUP BY key HAVING count(*) > 1)), "
        "coalesce(sum(seconds), 0.0) FROM calls"
    )[0]
    attempts, out, back = ledger.rows(
        "SELECT count(*), coalesce(sum(sent), 0), coalesce(sum(received), 0) FROM attempts"
    )[0]
    imported = ledger.rows("SELECT coalesce(sum(images), 0) FROM imports")[0][0]
    return LedgerSummary(
        images, calls, size, failed, sent - under_way, resent, under_way, seconds, attempts, out, back, imported
    )
