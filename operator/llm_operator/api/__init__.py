"""The custom resource: what a user may write, what the operator answers, in which words.

Decides names, shapes, limits and defaults of LLMDeployment; generates the CRD. Refuses to know how
anything is planned, rendered or observed.
"""
