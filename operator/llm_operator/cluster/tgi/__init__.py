"""A text-generation-inference server without a model: its launcher's rules, its wire format."""

from .program import TgiProgram

__all__ = ["TgiProgram"]
