"""`python -m llm_operator.cluster.fleet`: run the fleet, or set a fault in a running one."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .api import Api, ApiError, Credentials, Object
from .catalogue import NodeGroup, parse_nodes
from .faults import CONFIG_MAP, NAMESPACE, parse_faults
from .fleet import Fleet
from .images import Images
from .runtime import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments[:1]) == ["fault"]:
        options = _fault_parser().parse_args(arguments[1:])
        asyncio.run(_change_fault(options))
        return 0
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    asyncio.run(_run(options))
    return 0


def _nodes(text: str) -> list[NodeGroup]:
    try:
        return parse_nodes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_operator.cluster.fleet", description=__doc__
    )
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=_nodes, default=[], help="KIND=COUNTxGPUS,... (a100=4x8)")
    parser.add_argument("--speed", type=float, default=60.0, help="how much faster weights load")
    parser.add_argument("--backoff", type=float, default=1.0, help="first crash back-off, seconds")
    parser.add_argument("--pull", type=float, default=0.2, help="first pull on a node, seconds")
    parser.add_argument("--tls-cert", type=Path, help="with --tls-key: answer `kubectl logs`")
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--log-level", default="info")
    return parser


def _fault_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm_operator.cluster.fleet fault")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    set_rule = commands.add_parser("set", help="make pods fail")
    set_rule.add_argument("name")
    set_rule.add_argument(
        "--fault", required=True, help="for example crash-loading or slow-start=30"
    )
    set_rule.add_argument("--namespace", help="only in this namespace")
    set_rule.add_argument("--selector", default="", help="only pods with these labels, k=v,k=v")
    clear = commands.add_parser("clear", help="stop it")
    clear.add_argument("name")
    return parser


async def _run(options: argparse.Namespace) -> None:
    settings = Settings(
        backoff_initial=options.backoff, backoff_ceiling=30 * options.backoff, pull=options.pull
    )
    pair = (options.tls_cert, options.tls_key) if options.tls_cert and options.tls_key else None
    async with Api(Credentials.load(options.kubeconfig)) as api:
        machines = Fleet(api, Images(options.speed), settings, pair)
        fleet = asyncio.create_task(machines.run(options.nodes))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, fleet.cancel)
        try:
            await fleet
        except asyncio.CancelledError:
            logging.getLogger(__name__).info("fleet switched off")


async def _change_fault(options: argparse.Namespace) -> None:
    rule: str | None = None
    if options.command == "set":
        parse_faults(options.fault)
        labels = dict(pair.split("=", 1) for pair in filter(None, options.selector.split(",")))
        entry = {"fault": options.fault, "namespace": options.namespace, "selector": labels}
        rule = json.dumps({key: value for key, value in entry.items() if value})
    async with Api(Credentials.load(options.kubeconfig)) as api:
        collection = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
        data: Object = {"data": {options.name: rule}}
        try:
            await api.patch(f"{collection}/{CONFIG_MAP}", data, "merge")
        except ApiError as error:
            if error.status != 404:
                raise
            if rule is not None:
                await api.create(collection, data | {"metadata": {"name": CONFIG_MAP}})


if __name__ == "__main__":
    sys.exit(main())
