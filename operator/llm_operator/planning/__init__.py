"""The planner: model shape + quantization + GPUs + the engine's rules -> memory -> Plan.

Pure: the same wish, model and GPUs give the same plan, with its arithmetic. Refuses to know where
a config.json came from, which nodes exist right now, or how a plan becomes a pod.
"""

from llm_operator.planning.fit import Offer
from llm_operator.planning.model import Model, SizeUnknown, model_of
from llm_operator.planning.offers import offers_for
from llm_operator.planning.plan import plan
from llm_operator.planning.summary import summary
from llm_operator.planning.wish import Wish, wish_from

__all__ = [
    "Model",
    "Offer",
    "SizeUnknown",
    "Wish",
    "model_of",
    "offers_for",
    "plan",
    "summary",
    "wish_from",
]
