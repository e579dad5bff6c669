"""What a model's licences allow: records, their closure over base models, a policy, and what was accepted."""

from abaci.hub.licences.acceptance import AcceptanceLog, Question
from abaci.hub.licences.closure import BaseModel, ModelFacts, declared_licence, with_metadata
from abaci.hub.licences.notice import write_notice
from abaci.hub.licences.policy import find_policy
from abaci.hub.licences.report import DISCLAIMER, LicenceReport, examine
from abaci.hub.licences.verdict import Decision

__all__ = [
    "DISCLAIMER",
    "AcceptanceLog",
    "BaseModel",
    "Decision",
    "LicenceReport",
    "ModelFacts",
    "Question",
    "declared_licence",
    "examine",
    "find_policy",
    "with_metadata",
    "write_notice",
]
