"""What is taken from the rendered chart to run the operator as a process."""

from __future__ import annotations

from llm_operator.cli.install import read

RENDERED = """
---
# a template without output
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: operator}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: llmdeployments.llm-operator.dev}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator}
spec:
  template:
    spec:
      serviceAccountName: operator
      containers:
        - name: operator
          args: [run, --log-level=info]
"""


def test_account_rights_and_arguments_are_taken_and_nothing_else() -> None:
    installed = read(RENDERED)
    kinds = [found["kind"] for found in installed.objects]
    assert kinds == ["ServiceAccount", "ClusterRole"]
    assert installed.arguments == ("run", "--log-level=info")
    assert installed.user == "system:serviceaccount:llm-operator:operator"
