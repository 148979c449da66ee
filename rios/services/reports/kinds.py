"""The kinds of data that a report notebook can ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rios.services.reports import documents as doc
from rios.services.reports.costs import cost_report
from rios.services.reports.earnings import EarningsFacts, EarningsReport, earnings_facts, earnings_report
from rios.services.reports.facts import facts_of
from rios.services.reports.reliability import ReliabilityReport, reliability_facts, reliability_report
from rios.services.reports.throughput import Nothing, ThroughputReport, no_facts, throughput_report
from rios.words.errors import InvalidRequest

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rios.billing.ledger.ledger import Ledger
    from rios.services.network_chain import NetworkChain
    from rios.services.reports.periods import Span
    from rios.services.reports.reading import Pin


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data.

    facts: asked once, when a report is pinned: what changes or is not in the ledger, as JSON.
    build: the document, from the entries up to the pin and those facts; the same for ever.
    """

    document: type[doc.Part]
    facts: Callable[..., doc.Part]
    read: type[doc.Part]
    build: Callable[..., doc.Part]

    def ask(self, ledger: Ledger, span: Span, pin: Pin, *, subject: str, chain: NetworkChain | None) -> str:
        """The facts as text."""
        return self.facts(ledger, span, pin, user=subject or None, chain=chain).model_dump_json()

    def make(self, connection: Connection, span: Span, pin: Pin, facts: str, *, subject: str) -> str:
        """The document as text."""
        found = self.build(connection, span, pin, facts=self.read.model_validate_json(facts), user=subject or None)
        return doc.to_json(found)

    def schema(self) -> Mapping[str, Any]:
        """The JSON Schema of the document."""
        return doc.schema_of(self.document)


KINDS: Mapping[str, Kind] = {
    "cost": Kind(doc.CostReport, facts_of, doc.Facts, cost_report),
    "earnings": Kind(EarningsReport, earnings_facts, EarningsFacts, earnings_report),
    "reliability": Kind(ReliabilityReport, reliability_facts, ReliabilityReport, reliability_report),
    "throughput": Kind(ThroughputReport, no_facts, Nothing, throughput_report),
}


def kind_of(name: str) -> Kind:
    """The kind of this name. Raises InvalidRequest."""
    found = KINDS.get(name)
    if found is None:
        raise InvalidRequest(f"there is no data {name!r} for reports; a notebook asks for one of {', '.join(KINDS)}")
    return found
