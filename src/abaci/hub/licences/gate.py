"""What is done about a licence where a model is fetched, run or served: go on, ask or refuse; nothing without a policy.

The policy is found once, when a gate is made; its file is read at every check, so that a running server follows it.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from abaci.errors import LicenceDeniedError, LicenceNotAcceptedError
from abaci.hub.licences.acceptance import AcceptanceLog, Question
from abaci.hub.licences.closure import ModelFacts
from abaci.hub.licences.model_facts import facts_before_fetch, facts_of_file
from abaci.hub.licences.policy import find_policy
from abaci.hub.licences.report import LicenceReport, examine
from abaci.hub.licences.verdict import Decision
from abaci.hub.partial import sha256_of
from abaci.hub.resolving import ResolvedModel
from abaci.hub.store import Store


class LicenceGate:
    """Lets models through as the policy has it.

    accept         whether what the policy asks about is accepted, as by a flag.
    serves_others  whether the models are offered to others, whatever the policy declares.
    ask            shows a report to a person and returns whether they accept; None: there is nobody.
    """

    def __init__(
        self,
        *,
        accept: bool = False,
        serves_others: bool = False,
        ask: Callable[[LicenceReport], bool] | None = None,
    ) -> None:
        self._policy_path = find_policy(None)
        self._accept = accept
        self._serves_others = serves_others
        self._ask = ask

    def check_name(self, name: str) -> None:
        """Before a model is fetched: what the catalog or its repository says of it. One that is here already passes.

        Raises LicenceDeniedError, LicenceNotAcceptedError, UsageError for a policy that cannot be read, ResourceError
        for an acceptance that cannot be recorded.
        """
        if self._policy_path is not None and (facts := facts_before_fetch(name)) is not None:
            self._check(facts, self._policy_path)

    def check_file(self, resolved: ResolvedModel) -> None:
        """Once a model's file is here: what the file says too. Raises as `check_name`, and FileFormatError."""
        if self._policy_path is not None:
            self._check(facts_of_file(resolved), self._policy_path, resolved)

    def _check(self, facts: ModelFacts, policy_path: Path, resolved: ResolvedModel | None = None) -> None:
        report = examine(facts, policy_path, serves_others=self._serves_others)
        if report.verdict.decision is Decision.ALLOW:
            return
        if report.verdict.decision is Decision.DENY:
            raise LicenceDeniedError(
                f"{report.model} ({report.expression}) may not be used:\n{report.sentences(Decision.DENY)}",
                hint=f"`abaci licence` says more of it; the policy is {policy_path}.",
            )
        log, question = AcceptanceLog(Store().home), _question(report, resolved)
        if log.has(question):
            return
        if self._accept:
            log.add(question, how="flag", policy=policy_path)
        elif self._ask is not None and self._ask(report):
            log.add(question, how="terminal", policy=policy_path)
        else:
            raise LicenceNotAcceptedError(
                f"{report.model} ({report.expression}) must be accepted first:\n{report.sentences(Decision.ASK)}",
                hint="Read what `abaci licence` says of it, then accept it with --accept-licence.",
            )


def _question(report: LicenceReport, resolved: ResolvedModel | None) -> Question:
    """Of a file or folder of no store, whose name says nothing of what is in it, the SHA-256 stands for the model."""
    if resolved is None or resolved.sha256 is not None:
        return report.question
    return replace(report.question, model=f"{report.model} (SHA-256 {_sha256_of(resolved.path)})")


def _sha256_of(path: Path) -> str:
    """Of a file; of a folder, that of the names and hashes of its files."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{sha256_of(file)}  {file.name}\n" for file in files).encode()).hexdigest()
