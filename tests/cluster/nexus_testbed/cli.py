"""`bed`: the test cluster from the command line.

bed build              build every component that is not in the cache
bed check              say what this machine lacks, if anything
bed up [--with ...]    start a cluster that stays (called play) and say how to use it
bed status             what runs
bed kubectl ...        kubectl in it; likewise helm, and `run` for any program (curl ...)
bed kill|stop|start NAME   break a daemon, and mend it
bed down [--all]       remove every trace of it
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from nexus_testbed import cleanup, components, controlplane, netns, places, preflight
from nexus_testbed.cluster import Cluster, ClusterError
from nexus_testbed.images import Image

PLAY = "play"
BED = f"{sys.executable} {places.PACKAGE_PARENT / 'bed.py'}"
"""How the user calls us, for texts that tell what to type."""


def _usage(cluster: Cluster) -> str:
    where = cluster.where
    kubectl = shlex.join(netns.argv_in(where.netns_path, cluster.kubectl_argv()))
    running = {
        "consul": f"Consul        {controlplane.CONSUL_URL}/ui",
        "jaeger": f"Jaeger        {controlplane.JAEGER_QUERY_URL}   (OTLP over HTTP: {controlplane.JAEGER_OTLP_URL})",
        "nats": f"NATS          {controlplane.NATS_URL}",
    }
    lines = "\n".join(f"  {running[name]}" for name in cluster.components)
    total = cluster.started_in_s.get("total")
    return f"""\
Cluster {cluster.id!r} is up{f", after {total:.1f} s" if total else ""}. Its network cannot be seen from outside; enter it to use it:

  export KUBECONFIG={cluster.kubeconfig}
  alias kubectl='{kubectl}'
  alias incluster='nsenter --net={where.netns_path} --'       # e.g. incluster curl -i http://10.200.0.1/

  or, without aliases:  {BED} kubectl get pods -A   |   {BED} helm ...   |   {BED} run curl ...

  API server    {places.API_URL}
{lines}
  daemons' logs {where.logs}
  pods' logs    kubectl logs, or {where.pod_logs}
  load balancer addresses come from {places.LOADBALANCER_CIDR}, in the order of the Services

  {BED} status   shows what runs;   {BED} down   removes every trace
"""


def _build(_: argparse.Namespace) -> int:
    for name, path in components.ensure(list(components.COMPONENTS), sys.stdout).items():
        print(f"{name:10} {path}")
    print(f"{'crds':10} {components.ensure_gateway_api(sys.stdout)}")
    return 0


def _check(_: argparse.Namespace) -> int:
    preflight.check(list(components.COMPONENTS))
    print("this machine can run the test cluster")
    return 0


def _up(args: argparse.Namespace) -> int:
    with_ = [name for name in args.with_.split(",") if name]
    table = {}
    for row in args.image or ():
        pattern, separator, command = row.partition("=")
        if not separator:
            raise ValueError(
                f"--image {row!r}: write REGEX=COMMAND, e.g. --image '^web:=/usr/bin/python3 -m http.server'"
            )
        table[pattern] = Image.of(shlex.split(command))
    cluster = Cluster(components=with_, image_table=table, cluster_id=args.id, detached=True).up()
    if args.gateway_api:
        cluster.install_gateway_api()
    print(_usage(cluster))
    return 0


def _status(args: argparse.Namespace) -> int:
    ids = cleanup.known_ids()
    if not ids:
        print("no cluster is running")
        return 0
    for cluster_id in ids:
        try:
            cluster = Cluster.attach(cluster_id)
        except ClusterError:
            print(f"{cluster_id}: left-over traces; {BED} down {cluster_id} removes them")
            continue
        print(f"{cluster_id}: {cluster.where.root}")
        for name, state in cluster.status().items():
            print(f"  {name:24} {state}")
        if cluster_id == args.id:
            print("\n" + _usage(cluster))
    return 0


def _exec(cluster: Cluster, argv: list[str], **env: str) -> int:
    """Become the program: terminal, signals and exit code are its own."""
    sys.stdout.flush()
    full = netns.argv_in(cluster.where.netns_path, argv)
    os.execvpe(full[0], full, {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), **env})


def _kubectl(args: argparse.Namespace) -> int:
    cluster = Cluster.attach(args.id)
    return _exec(cluster, cluster.kubectl_argv(*args.argv))


def _helm(args: argparse.Namespace) -> int:
    program = components.ensure(["helm"])["helm"]
    return _exec(Cluster.attach(args.id), [str(program), *args.argv])


def _run(args: argparse.Namespace) -> int:
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv or not shutil.which(argv[0]):
        raise ValueError(
            f"no such program: {argv[0] if argv else '(none given)'}; write: bed run curl -i http://10.200.0.1/"
        )
    return _exec(Cluster.attach(args.id), argv)


def _daemon(args: argparse.Namespace) -> int:
    cluster = Cluster.attach(args.id)
    getattr(cluster, args.command)(args.name)
    print(f"{args.name}: {cluster.status()[args.name]}")
    return 0


def _down(args: argparse.Namespace) -> int:
    targets = (
        cleanup.known_ids() if args.all else [i for i in cleanup.known_ids() if i == args.id or cleanup.is_orphan(i)]
    )
    for cluster_id in targets:
        cleanup.remove(cluster_id)
        print(f"removed cluster {cluster_id}")
    if not targets:
        print("nothing to remove")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("bed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    add("build", _build, "build every component that is not in the cache")
    add("check", _check, "say what this machine lacks to run a cluster")
    up = add("up", _up, "start a cluster that stays")
    up.add_argument("--with", dest="with_", default="", metavar="NAMES", help="comma-separated: consul, jaeger, nats")
    up.add_argument("--image", action="append", metavar="REGEX=COMMAND", help="what an image runs; may be repeated")
    up.add_argument("--gateway-api", action="store_true", help="install the Gateway API CRDs")
    down = add("down", _down, "remove every trace of the cluster, and of clusters whose owner is gone")
    down.add_argument("--all", action="store_true", help="of every cluster on this machine, also those in use by tests")
    for command in (up, down, add("status", _status, "show what runs")):
        command.add_argument("id", nargs="?", default=PLAY, type=places.parse_id, help=f"cluster id (default: {PLAY})")
    for name, run in (("kubectl", _kubectl), ("helm", _helm), ("run", _run)):
        command = add(
            name, run, f"{name} in the cluster's network" if name != "run" else "any program in the cluster's network"
        )
        command.add_argument("--id", default=PLAY, type=places.parse_id)
        command.add_argument("argv", nargs=argparse.REMAINDER)
    for name, text in (
        ("start", "start a daemon again"), ("stop", "SIGTERM a daemon"), ("kill", "SIGKILL a daemon"),
        ("restart", "stop and start a daemon"), ("pause", "SIGSTOP a daemon"), ("resume", "SIGCONT a daemon"),
    ):  # fmt: skip
        command = add(name, _daemon, text)
        command.add_argument("name", choices=[*controlplane.CORE, *controlplane.OPTIONAL])
        command.add_argument("--id", default=PLAY, type=places.parse_id)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. What the user can mend is printed without a traceback."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except (
        ClusterError,
        components.BuildError,
        preflight.PreflightError,
        netns.NetnsError,
        ValueError,
        TimeoutError,
    ) as err:
        print(f"bed {args.command}: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
