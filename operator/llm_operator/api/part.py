"""The base of every part of the custom resource.

Decides how fields are named outside and that nothing changes inside. Refuses to know any field.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Part(BaseModel):
    """Base of every part of the object: camelCase outside, frozen inside."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )
