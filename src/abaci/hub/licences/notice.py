"""The text that goes with a model when it is given to others: its licences, and the lines that they want shown."""

from abaci.hub.licences.licence import Clause, ClauseKind, Licence
from abaci.hub.licences.report import LicenceReport


def write_notice(report: LicenceReport) -> str:
    """A NOTICE file, ending with a newline. It is complete where every licence has a record, and says where not."""
    paragraphs = [f"{report.model}\nLicences: {report.expression}", *_origins(report)]
    paragraphs += [_paragraph(licence_id, record) for licence_id, record in report.records]
    return "\n\n".join(paragraphs) + "\n"


def _origins(report: LicenceReport) -> list[str]:
    bases = report.licences.base_models
    if not bases:
        return []
    lines = [f"  {base.name}" + (f" ({base.licence})" if base.licence else "") for base in bases]
    return ["Made from:\n" + "\n".join(lines)]


def _paragraph(licence_id: str, record: Licence | None) -> str:
    if record is None:
        return f"{licence_id}\n  There is no record of this licence: add what its text wants."
    lines = [record.name, f"  {record.source.url}", *(f"  {line}" for line in _lines(record.clauses))]
    return "\n".join(lines)


def _lines(clauses: tuple[Clause, ...]) -> list[str]:
    """The wanted lines as they are, then where the rules for users are."""
    wanted = [clause.text for clause in clauses if clause.text is not None]
    rules = [
        f"Use is subject to {clause.where}" + (f": {clause.url}" if clause.url else "")
        for clause in clauses
        if clause.kind is ClauseKind.ACCEPTABLE_USE
    ]
    return list(dict.fromkeys([*wanted, *rules]))
