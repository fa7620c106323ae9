"""The test cluster itself: what other cluster tests take for granted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nexus_testbed import Cluster, ClusterError, CommandError, cleanup, netns, places, processes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

HERE = Path(__file__).resolve().parent
WEBPOD = str(HERE / "webpod.py")


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    name = f"bed-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    cluster.wait(lambda: cluster.get("serviceaccount", "default", name), "the default ServiceAccount")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def container(**more: Any) -> dict[str, Any]:
    """A container that runs webpod.py."""
    pod_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    probe = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    return {
        "name": "web", "image": "python:3.11", "args": [WEBPOD], "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": probe, **more, "env": [pod_name, *more.get("env", ())],
    }  # fmt: skip


def pod(name: str, namespace: str, *containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
    body = {"terminationGracePeriodSeconds": 3, "containers": list(containers) or [container()], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def deployment(name: str, namespace: str, replicas: int = 1, **more: Any) -> list[dict[str, Any]]:
    """A Deployment of webpod.py and a LoadBalancer Service of the same name."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod(name, namespace, container(**more))["spec"]}
    metadata = {"name": name, "namespace": namespace}
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
         "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata,
         "spec": {"type": "LoadBalancer", "selector": labels, "ports": ports}},
    ]  # fmt: skip


def is_ready(found: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"].get("conditions", ()))


def start(cluster: Cluster, manifest: dict[str, Any]) -> dict[str, Any]:
    """Apply a pod and wait until it is Ready."""
    cluster.apply(manifest)
    meta = manifest["metadata"]
    cluster.wait(lambda: is_ready(cluster.get("pod", meta["name"], meta["namespace"])), f"{meta['name']} is Ready", 20)
    return cluster.get("pod", meta["name"], meta["namespace"])


def ask(cluster: Cluster, found: dict[str, Any], path: str) -> str:
    """GET a path of a webpod; fails for any status but 200."""
    answer = cluster.http_get(f"http://{found['status']['podIP']}:8000{path}")
    assert answer.status == 200, answer.text
    return answer.text


def wait_endpoints(cluster: Cluster, service: str, namespace: str, number: int) -> list[str]:
    return cluster.wait(
        lambda: found if len(found := cluster.endpoints(service, namespace)) == number else [],
        f"{service} has {number} ready endpoints",
    )


def wait_answer(cluster: Cluster, url: str) -> str:
    """Return what a Service's address answers, as soon as it does: the proxy learns of endpoints by a watch of its own."""

    def answer() -> str:
        try:
            return cluster.http_get(url).text
        except OSError:
            return ""

    return cluster.wait(answer, f"{url} answers")


# --- pods ------------------------------------------------------------------------------------------------------------------


def test_a_deployment_scales_and_its_load_balancer_serves_it(cluster: Cluster, namespace: str) -> None:
    """1→3→1 replicas are the Service's ready endpoints, and the VIP reaches each of them and no other."""
    cluster.apply(deployment("scaled", namespace))
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Available", "deployment/scaled", "--timeout=20s")
    wait_endpoints(cluster, "scaled", namespace, 1)
    url = f"http://{cluster.loadbalancer_ip('scaled', namespace)}/"
    wait_answer(cluster, url)
    cluster.kubectl("scale", "-n", namespace, "deployment/scaled", "--replicas=3")
    addresses = wait_endpoints(cluster, "scaled", namespace, 3)
    names = {p["metadata"]["name"] for p in cluster.pods("app=scaled", namespace)}
    assert {p["status"]["podIP"] for p in cluster.pods("app=scaled", namespace)} == set(addresses)
    cluster.wait(lambda: {cluster.http_get(url).text for _ in range(20)} == names, "the VIP reaches all three")
    cluster.kubectl("scale", "-n", namespace, "deployment/scaled", "--replicas=1")
    wait_endpoints(cluster, "scaled", namespace, 1)
    cluster.wait(lambda: len(cluster.pods("app=scaled", namespace)) == 1, "two pods are gone")
    last = cluster.pods("app=scaled", namespace)[0]["metadata"]["name"]
    assert {cluster.http_get(url).text for _ in range(20)} == {last}


def test_readiness_follows_the_probe(cluster: Cluster, namespace: str) -> None:
    found = start(cluster, pod("moody", namespace))
    ask(cluster, found, "/fail")
    cluster.wait(lambda: not is_ready(cluster.get("pod", "moody", namespace)), "the pod is not Ready", 10)
    ask(cluster, found, "/mend")
    cluster.wait(lambda: is_ready(cluster.get("pod", "moody", namespace)), "the pod is Ready again", 10)
    assert cluster.get("pod", "moody", namespace)["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_failing_liveness_probe_restarts_the_container(cluster: Cluster, namespace: str) -> None:
    asked = {"httpGet": {"path": "/healthz", "port": 8000}, "periodSeconds": 1}
    probes = {"startupProbe": {**asked, "failureThreshold": 60}, "livenessProbe": {**asked, "failureThreshold": 2}}
    found = start(cluster, pod("sick", namespace, container(**probes)))
    ask(cluster, found, "/fail")

    def mended() -> bool:
        status = cluster.get("pod", "sick", namespace)["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"])

    cluster.wait(mended, "one restart, then Ready", 20)
    cluster.wait(lambda: "Liveness probe failed" in cluster.kubectl("get", "events", "-n", namespace), "its event")


def test_a_startup_probe_holds_the_others_back(cluster: Cluster, namespace: str) -> None:
    startup = {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 20}
    hasty = {"tcpSocket": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    slow = container(startupProbe=startup, livenessProbe=hasty, env=[{"name": "START_S", "value": "2"}])
    found = start(cluster, pod("slow", namespace, slow))
    assert found["status"]["containerStatuses"][0]["restartCount"] == 0


def test_kill_9_of_the_process_restarts_the_container(cluster: Cluster, namespace: str) -> None:
    """restartCount 1, exit code 137 in lastState, the same pod and address, the emptyDir still filled."""
    volumes = [{"name": "kept", "emptyDir": {}}]
    mounted = container(volumeMounts=[{"name": "kept", "mountPath": "/kept"}])
    found = start(cluster, pod("killed", namespace, mounted, volumes=volumes))
    ask(cluster, found, "/write/kept/note")
    ask(cluster, found, "/write/etc/not-kept")
    cluster.kill_pod_process("killed", namespace)

    def restarted() -> bool:
        now = cluster.get("pod", "killed", namespace)
        return bool(now["status"]["containerStatuses"][0]["restartCount"] == 1 and is_ready(now))

    cluster.wait(restarted, "the container was restarted and is Ready", 15)
    again = cluster.get("pod", "killed", namespace)
    assert again["status"]["podIP"] == found["status"]["podIP"]
    assert again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
    assert ask(cluster, again, "/file/kept/note") == "written"
    gone = cluster.http_get(f"http://{again['status']['podIP']}:8000/file/etc/not-kept")
    assert gone.status == 404, "a container's own files end with it"
    assert not Path("/etc/not-kept").exists(), "and never reach the machine"
    previous = cluster.kubectl("logs", "-n", namespace, "killed", "--previous")
    assert "GET /write/kept/note" in previous
    assert "GET /write/kept/note" not in cluster.kubectl("logs", "-n", namespace, "killed")


def test_a_crashing_container_is_restarted_with_back_off(cluster: Cluster, namespace: str) -> None:
    crash = {"name": "crash", "image": "python:3.11", "command": ["/bin/sh", "-c", "echo about to fail; exit 7"]}
    cluster.apply(pod("crash", namespace, crash))

    def backing_off() -> dict[str, Any] | None:
        status = cluster.get("pod", "crash", namespace)["status"].get("containerStatuses", [{}])[0]
        waiting = status.get("state", {}).get("waiting", {})
        return status if waiting.get("reason") == "CrashLoopBackOff" else None

    status = cluster.wait(backing_off, "CrashLoopBackOff")
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert status["restartCount"] >= 1
    # The next run may have begun by now, and said nothing yet.
    cluster.wait(lambda: "about to fail" in cluster.kubectl("logs", "-n", namespace, "crash"), "what its last run said")


def test_init_containers_run_in_order_before_the_others(cluster: Cluster, namespace: str) -> None:
    mounts = [{"name": "shared", "mountPath": "/shared"}]

    def init(name: str) -> dict[str, Any]:
        command = ["/bin/sh", "-c", f"echo {name} >> /shared/order"]
        return {"name": name, "image": "python:3.11", "command": command, "volumeMounts": mounts}

    spec = {"initContainers": [init("first"), init("second")], "volumes": [{"name": "shared", "emptyDir": {}}]}
    found = start(cluster, pod("ordered", namespace, container(volumeMounts=mounts), **spec))
    assert ask(cluster, found, "/file/shared/order") == "first\nsecond\n"
    assert [s["state"]["terminated"]["exitCode"] for s in found["status"]["initContainerStatuses"]] == [0, 0]


def test_a_job_runs_to_its_end(cluster: Cluster, namespace: str) -> None:
    once = {"name": "once", "image": "python:3.11", "args": ["-c", "print(6 * 7)"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [once]}}
    cluster.apply({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": namespace},
        "spec": {"template": template}})  # fmt: skip
    cluster.kubectl("wait", "-n", namespace, "--for=condition=Complete", "job/once", "--timeout=20s")
    assert cluster.kubectl("logs", "-n", namespace, "job/once") == "42\n"


def test_an_unknown_image_waits_and_says_what_to_do(cluster: Cluster, namespace: str) -> None:
    name = f"registry.example/{uuid.uuid4().hex}:1"
    cluster.apply(pod("unknown", namespace, container(image=name)))

    def waiting() -> str:
        status = cluster.get("pod", "unknown", namespace)["status"].get("containerStatuses", [{}])[0]
        reason = status.get("state", {}).get("waiting", {})
        return str(reason["message"]) if reason.get("reason") == "ImagePullBackOff" else ""

    assert "add a row for it" in cluster.wait(waiting, "ImagePullBackOff")
    cluster.add_image(f"^{name}$", [sys.executable])
    cluster.wait(lambda: is_ready(cluster.get("pod", "unknown", namespace)), "the pod runs once its image is known")


def test_a_terminating_pod_gets_no_traffic_and_its_grace_period(cluster: Cluster, namespace: str) -> None:
    """preStop, then SIGTERM; not a ready endpoint from the first moment, alive until it has finished."""
    slow = container(
        env=[{"name": "STOP_S", "value": "1"}], lifecycle={"preStop": {"httpGet": {"path": "/prestop", "port": "http"}}}
    )
    web = deployment("leaving", namespace)
    web[0]["spec"]["template"]["spec"] |= {"containers": [slow], "terminationGracePeriodSeconds": 20}
    cluster.apply(web)
    wait_endpoints(cluster, "leaving", namespace, 1)
    old = cluster.pods("app=leaving", namespace)[0]
    logs = cluster.spawn_in_net(
        cluster.kubectl_argv("logs", "-f", "-n", namespace, old["metadata"]["name"]), stdout=subprocess.PIPE, text=True
    )
    assert logs.stdout is not None
    assert logs.stdout.readline() == "started\n", "the log is being followed"
    cluster.kubectl("delete", "pod", "-n", namespace, old["metadata"]["name"], "--wait=false")
    cluster.wait(
        lambda: old["status"]["podIP"] not in cluster.endpoints("leaving", namespace), "it is no ready endpoint", 5
    )
    out, _ = logs.communicate(timeout=20)  # `logs -f` ends with the container
    assert "GET /prestop" in out
    assert out.index("GET /prestop") < out.index("got SIGTERM")


# --- what a container sees ---------------------------------------------------------------------------------------------------


def test_a_container_sees_its_volumes_and_environment(cluster: Cluster, namespace: str) -> None:
    """Secret, ConfigMap, downward API, service-account token, env sources; files created after the pod are waited for."""
    volumes = [
        {"name": "secret", "secret": {"secretName": "sec"}},
        {"name": "all", "projected": {"sources": [
            {"configMap": {"name": "cm", "items": [{"key": "greeting", "path": "deep/greeting"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "nexus", "expirationSeconds": 600}}]}},
    ]  # fmt: skip
    env = [
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "password"}}},
        {"name": "EXPANDED", "value": "$(FROM_SECRET)/$(UNKNOWN)/$$(X)"},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "OPTIONAL", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "x", "optional": True}}},
    ]
    mounts = [{"name": "secret", "mountPath": "/var/run/secrets/mine"}, {"name": "all", "mountPath": "/etc/all"}]
    web = container(env=env, envFrom=[{"configMapRef": {"name": "cm"}, "prefix": "CM_"}], volumeMounts=mounts)
    cluster.apply(pod("seeing", namespace, web, volumes=volumes))
    cluster.wait(lambda: 'secret "sec" not found' in cluster.kubectl("get", "events", "-n", namespace), "FailedMount")
    meta = {"namespace": namespace}
    cluster.apply([
        {"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "sec"}, "stringData": {"password": "hush"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "name": "cm"}, "data": {"greeting": "hello"}},
    ])  # fmt: skip
    cluster.wait(lambda: is_ready(cluster.get("pod", "seeing", namespace)), "the pod is Ready", 20)
    found = cluster.get("pod", "seeing", namespace)
    assert ask(cluster, found, "/file/var/run/secrets/mine/password") == "hush"
    assert ask(cluster, found, "/file/etc/all/deep/greeting") == "hello"
    assert ask(cluster, found, "/file/etc/all/labels") == 'app="seeing"'
    assert ask(cluster, found, "/env/CM_greeting") == "hello"
    assert ask(cluster, found, "/env/EXPANDED") == "hush/$(UNKNOWN)/$(X)"
    assert ask(cluster, found, "/env/IP") == found["status"]["podIP"]
    assert ask(cluster, found, "/env/KUBERNETES_SERVICE_HOST") == places.API_IP
    assert cluster.http_get(f"http://{found['status']['podIP']}:8000/env/OPTIONAL").status == 404

    token = ask(cluster, found, "/file/etc/all/token")
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["nexus"]},
    }
    answer = json.loads(cluster.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review)))
    assert answer["status"]["authenticated"], answer
    assert answer["status"]["user"]["username"] == f"system:serviceaccount:{namespace}:default"


def test_the_service_account_token_opens_the_api_from_the_pod(cluster: Cluster, namespace: str) -> None:
    """The in-cluster way of every client library: the mounted token and CA against KUBERNETES_SERVICE_HOST."""
    script = (
        "import os, ssl, urllib.request as u; d = '/var/run/secrets/kubernetes.io/serviceaccount/';"
        "c = ssl.create_default_context(cafile=d + 'ca.crt'); t = open(d + 'token').read();"
        "r = u.Request('https://%s/api' % os.environ['KUBERNETES_SERVICE_HOST'], headers={'Authorization': 'Bearer ' + t});"
        "print(u.urlopen(r, context=c, timeout=5).status, open(d + 'namespace').read())"
    )
    client = {"name": "client", "image": "python:3.11", "args": ["-c", script]}
    cluster.apply(pod("client", namespace, client, restartPolicy="Never"))
    cluster.wait(lambda: cluster.get("pod", "client", namespace)["status"].get("phase") == "Succeeded", "it succeeds")
    assert cluster.kubectl("logs", "-n", namespace, "client") == f"200 {namespace}\n"


def test_a_user_other_than_root_and_a_read_only_root(cluster: Cluster, namespace: str) -> None:
    script = (
        "import os, pathlib; print(os.getuid(), os.getgid(), os.getgroups())\n"
        "for p in ('/data/x', '/opt/x'):\n"
        "    try: pathlib.Path(p).write_text('x'); print('wrote', p)\n"
        "    except OSError as e: print(e.strerror, p)\n"
    )
    security = {"runAsUser": 10001, "runAsGroup": 10002, "readOnlyRootFilesystem": True}
    client = {
        "name": "client", "image": "python:3.11", "args": ["-c", script], "securityContext": security,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }  # fmt: skip
    spec = {"volumes": [{"name": "data", "emptyDir": {}}], "securityContext": {"fsGroup": 10003}}
    cluster.apply(pod("nobody", namespace, client, restartPolicy="Never", **spec))
    cluster.wait(
        lambda: cluster.get("pod", "nobody", namespace)["status"].get("phase") in ("Succeeded", "Failed"), "its end"
    )
    lines = cluster.kubectl("logs", "-n", namespace, "nobody").splitlines()
    assert lines == ["10001 10002 [10003]", "wrote /data/x", "Read-only file system /opt/x"]


def test_a_volume_above_the_checkout_does_not_hide_the_program(cluster: Cluster, namespace: str) -> None:
    """The chart mounts a volume on /tmp, and a checkout may lie there: an image's own files are never its volumes'."""
    above = str(places.REPOSITORY.parent)
    client = {
        "name": "client", "image": "python:3.11", "args": ["-c", "import nexus_core, os; print(os.getuid())"],
        "volumeMounts": [{"name": "scratch", "mountPath": above}], "securityContext": {"runAsUser": 65532},
    }  # fmt: skip
    spec = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
    cluster.apply(pod("hidden", namespace, client, restartPolicy="Never", **spec))
    cluster.wait(
        lambda: cluster.get("pod", "hidden", namespace)["status"].get("phase") in ("Succeeded", "Failed"), "its end"
    )
    assert cluster.kubectl("logs", "-n", namespace, "hidden") == "65532\n"


def test_names_of_services_resolve_and_cluster_ips_answer(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("named", namespace))
    wait_endpoints(cluster, "named", namespace, 1)
    cluster_ip = cluster.get("service", "named", namespace)["spec"]["clusterIP"]
    target = cluster.pods("app=named", namespace)[0]
    resolved = f"http://{target['status']['podIP']}:8000/resolve/named"
    cluster.wait(lambda: cluster.http_get(resolved).text == cluster_ip, "the short name resolves")
    assert ask(cluster, target, f"/resolve/named.{namespace}.svc.cluster.local") == cluster_ip
    unknown = cluster.http_get(f"http://{target['status']['podIP']}:8000/resolve/example.com")
    assert unknown.status == 404
    assert wait_answer(cluster, f"http://{cluster_ip}/") == target["metadata"]["name"]
    out = cluster.pod_exec(
        target["metadata"]["name"], "curl", "-sS", "--max-time", "5", f"http://named.{namespace}", namespace=namespace
    )
    assert out == target["metadata"]["name"]


def test_logs_can_be_cut_by_lines_and_time_and_followed(cluster: Cluster, namespace: str) -> None:
    script = (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "for i in range(5): print('early', i, flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        "print('late', flush=True)\n"
    )
    talker = {"name": "talker", "image": "python:3.11", "args": ["-c", script]}
    cluster.apply(pod("talker", namespace, talker, restartPolicy="Never"))

    def logs(*options: str) -> str:
        return cluster.kubectl("logs", "-n", namespace, "talker", *options)

    cluster.wait(lambda: "early 4" in logs(), "the first lines")
    assert logs("--tail=2") == "early 3\nearly 4\n"
    followed = cluster.spawn_in_net(
        cluster.kubectl_argv("logs", "-n", namespace, "talker", "-f", "--tail=1"), stdout=subprocess.PIPE, text=True
    )
    assert followed.stdout is not None
    assert followed.stdout.readline() == "early 4\n"
    early = logs("--timestamps", "--tail=1")
    assert early.startswith("20")
    assert early.endswith("Z early 4\n")
    second = len("2026-01-01T00:00:00")  # kubectl asks for whole seconds
    cluster.wait(
        lambda: time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) > early[:second],
        "a later second than the early lines'",
    )
    os.kill(cluster.pod_pid("talker", namespace), signal.SIGUSR1)
    rest, _ = followed.communicate(timeout=20)  # `logs -f` ends with the container
    assert rest == "late\n"
    late = logs("--timestamps", "--tail=1")
    assert late.endswith("Z late\n")
    assert logs(f"--since-time={late[:second]}Z") == "late\n"
    assert logs("--since=1h") == "".join(f"early {number}\n" for number in range(5)) + "late\n"
    cluster.wait(lambda: logs("--since=1s") == "", "nothing is younger than a second")


# --- the network -----------------------------------------------------------------------------------------------------------


def test_the_load_balancer_passes_half_closed_connections(cluster: Cluster, namespace: str) -> None:
    """The client ends its side; the answer, longer than any buffer, still arrives complete."""
    script = (
        "import socket\ns = socket.create_server(('', 8000))\n"
        "while True:\n    c, _ = s.accept()\n    n = 0\n"
        "    while d := c.recv(65536): n += len(d)\n"
        "    if n: c.sendall(b'%d.' % n * 500000)\n"  # a probe sends nothing
        "    c.close()\n"
    )
    server = container(args=["-c", script], readinessProbe={"tcpSocket": {"port": 8000}})
    web = deployment("halves", namespace)
    web[0]["spec"]["template"]["spec"]["containers"] = [server]
    cluster.apply(web)
    wait_endpoints(cluster, "halves", namespace, 1)
    address = cluster.loadbalancer_ip("halves", namespace)

    def accepts() -> bool:
        """Whether the proxy knows its endpoint: that one ends a connection without a word, without it there is a reset."""
        try:
            with cluster.connect(address, 80) as sock:
                sock.shutdown(1)
                return sock.recv(1) == b""
        except OSError:
            return False

    cluster.wait(accepts, "the load balancer reaches its endpoint")
    with cluster.connect(address, 80, timeout_s=20) as sock:
        sock.sendall(b"x" * 3_000_000)
        sock.shutdown(1)
        received = b""
        while data := sock.recv(1 << 20):
            received += data
    assert received == b"3000000." * 500000


def test_a_service_without_endpoints_refuses(cluster: Cluster, namespace: str) -> None:
    cluster.apply(deployment("empty", namespace, replicas=0)[1])
    address = cluster.loadbalancer_ip("empty", namespace)
    with pytest.raises(ConnectionError):
        cluster.http_get(f"http://{address}/")


async def test_aiohttp_sessions_reach_into_the_cluster(cluster: Cluster) -> None:
    async with aiohttp.ClientSession(connector=cluster.aiohttp_connector()) as session:
        async with session.get(f"http://{places.NODE_IP}:8500/v1/status/leader") as answer:
            assert places.NODE_IP in await answer.text()
        async with session.get(f"http://{places.NODE_IP}:16686/api/services") as answer:
            assert answer.status == 200


def test_a_command_that_fails_says_why(cluster: Cluster) -> None:
    with pytest.raises(CommandError, match='pods "nobody" not found') as caught:
        cluster.kubectl("get", "pod", "nobody")
    assert caught.value.code == 1


def test_helm_installs_on_it(cluster: Cluster) -> None:
    assert "v3.18" in cluster.helm("version", "--short")
    assert cluster.helm("list", "-A", "-q") == ""


def test_the_gateway_api_is_installed(cluster: Cluster) -> None:
    crd = cluster.get("crd", "httproutes.gateway.networking.k8s.io")
    assert crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"] == "v1.6.3"
    assert crd["metadata"]["annotations"]["gateway.networking.k8s.io/channel"] == "standard"


# --- faults ----------------------------------------------------------------------------------------------------------------


def test_pods_and_traffic_outlive_the_api_server(cluster: Cluster, namespace: str) -> None:
    """kill -9 of kube-apiserver: requests go on; a container killed meanwhile is restarted, and the API learns of it."""
    cluster.apply(deployment("lasting", namespace))
    wait_endpoints(cluster, "lasting", namespace, 1)
    url = f"http://{cluster.loadbalancer_ip('lasting', namespace)}/"
    name = wait_answer(cluster, url)
    pid = cluster.pod_pid(name, namespace)
    cluster.kill("kube-apiserver")
    assert not cluster.is_running("kube-apiserver")
    assert cluster.http_get(url).text == name
    os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return cluster.http_get(url).text == name
        except OSError:
            return False

    cluster.wait(answers, "the container is restarted without an API server", 15)
    cluster.start("kube-apiserver")

    def reported() -> bool:
        status = cluster.get("pod", name, namespace)["status"]["containerStatuses"][0]
        return bool(status["restartCount"] == 1 and status["ready"])

    cluster.wait(reported, "the restart is in the pod's status", 15)
    cluster.kubectl("scale", "-n", namespace, "deployment/lasting", "--replicas=2")
    wait_endpoints(cluster, "lasting", namespace, 2)


def test_etcd_comes_back_with_its_data(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "configmap", "-n", namespace, "precious", "--from-literal=a=b")
    cluster.kill("etcd")
    cluster.start("etcd")
    cluster.wait_ready("kube-apiserver")
    assert cluster.get("configmap", "precious", namespace)["data"] == {"a": "b"}


def test_consul_comes_back_with_its_data(cluster: Cluster) -> None:
    url = f"http://{places.NODE_IP}:8500/v1/kv/bed/precious"
    assert cluster.http("PUT", url, body="kept").text.strip() == "true"
    cluster.kill("consul")
    with pytest.raises(ConnectionRefusedError):
        cluster.http_get(url)
    cluster.start("consul")
    assert cluster.http_get(f"{url}?raw").text == "kept"


def test_a_paused_daemon_does_not_answer_until_it_is_resumed(cluster: Cluster) -> None:
    url = f"http://{places.NODE_IP}:8500/v1/status/leader"
    cluster.pause("consul")
    try:
        with pytest.raises(TimeoutError):
            cluster.http_get(url, timeout_s=0.5)
    finally:
        cluster.resume("consul")
    cluster.wait_ready("consul")


def test_a_restarted_kubelet_starts_its_pods_again(cluster: Cluster, namespace: str) -> None:
    found = start(cluster, pod("resumed", namespace))
    pid = cluster.pod_pid("resumed", namespace)
    cluster.kill("kubelet")
    assert ask(cluster, found, "/") == "resumed", "a pod does not need its kubelet"
    cluster.start("kubelet")

    def again() -> bool:
        now = cluster.get("pod", "resumed", namespace)
        return is_ready(now) and now["status"]["containerStatuses"][0]["restartCount"] == 1

    cluster.wait(again, "the pod is Ready again, and counts a restart", 15)
    assert cluster.pod_pid("resumed", namespace) != pid
    assert processes.find_proc(pid) is None


def test_pods_that_go_all_at_once_are_gone_from_the_api_too(cluster: Cluster, namespace: str) -> None:
    """Whatever the end of one meets on the machine: a pod that stays would keep its namespace, too."""
    for _ in range(3):
        names = [f"goes-{number}" for number in range(6)]
        cluster.apply([pod(name, namespace) for name in names])
        for name in names:
            cluster.wait(lambda name=name: is_ready(cluster.get("pod", name, namespace)), f"{name} is Ready")
        cluster.kubectl("delete", "pods", *names, "-n", namespace, "--timeout=30s")


# --- leaving no trace --------------------------------------------------------------------------------------------------------


def command_of(pid: int) -> str:
    """Return the command line of a process, each argument followed by a space; nothing if the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def traces(cluster_id: str) -> list[str]:
    """Return everything of a cluster that is still there: namespaces, cgroup, directories, processes."""
    found = [*netns.names_of(cluster_id)]
    paths = [places.Places(cluster_id).root, places.lock_path(cluster_id), processes.cgroup_of(cluster_id)]
    found += [str(path) for path in paths if path is not None and path.exists()]
    root = str(places.Places(cluster_id).root)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            command = command_of(int(entry.name))
            if root in command or f"nexus_testbed.guard {cluster_id}" in command:
                found.append(command)
    return found


def test_networks_that_two_remove_at_once_are_gone_for_both() -> None:
    names = [f"{places.PREFIX}race-p{number}" for number in range(30)]
    for name in names:
        netns.ip("netns", "add", name)
    with ThreadPoolExecutor(2) as pool:
        for removed in [pool.submit(netns.delete, names) for _ in range(2)]:
            removed.result()
    assert not set(names) & set(netns.names())


def test_pods_that_come_do_not_change_the_hardware_address_of_their_bridge() -> None:
    name = f"{places.PREFIX}bridge"
    netns.create(name)
    try:
        lowest = "02:00:00:00:00:01"
        netns.ip(
            "-n",
            name,
            "link",
            "add",
            "v1",
            "address",
            lowest,
            "master",
            netns.BRIDGE,
            "type",
            "veth",
            "peer",
            "name",
            "p1",
        )
        netns.ip("-n", name, "link", "set", "v1", "up")
        (bridge,) = json.loads(netns.ip("-n", name, "-json", "link", "show", netns.BRIDGE))
        assert bridge["address"] == netns.BRIDGE_MAC != lowest
    finally:
        netns.delete([name])


def links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def test_down_leaves_no_trace() -> None:
    before = links()
    with Cluster() as own:
        own.apply(pod("left", "default"))
        own.wait(lambda: is_ready(own.get("pod", "left")), "its pod runs")
        pid = own.pod_pid("left")
        spawned = own.spawn_in_net(["sleep", "600"])
        assert traces(own.id)
    assert traces(own.id) == []
    assert processes.find_proc(pid) is None
    assert spawned.returncode == -signal.SIGKILL
    assert links() == before
    own.down()  # again is no error


def test_down_leaves_no_trace_without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no cgroup v2: also what a container left running in a session of its own is found and killed."""
    monkeypatch.setenv("NEXUS_TESTBED_CGROUP", "off")
    stray = {"name": "stray", "image": "python:3.11", "command": ["/bin/sh", "-c", "setsid sleep 600 & sleep 600"]}
    with Cluster() as own:
        own.apply(pod("left", "default", stray))
        own.wait(lambda: is_ready(own.get("pod", "left")), "its pod runs")
        assert processes.cgroup_of(own.id) is None

        def sleeping() -> list[int]:
            """Both sleeps, the stray one too: that a container runs says nothing of what its shell has come to."""
            pids = [pid for name in netns.names_of(own.id)[1:] for pid in netns.pids_in(name)]
            found = [pid for pid in pids if command_of(pid).split() == ["sleep", "600"]]
            return found if len(found) == 2 else []

        inside = own.wait(sleeping, "the container's sleep and its stray one run")
    assert traces(own.id) == []
    assert [pid for pid in inside if processes.find_proc(pid)] == []


RUNNER = """
import sys
sys.path.insert(0, sys.argv[1])
from nexus_testbed import Cluster
cluster = Cluster(cluster_id=sys.argv[2]).up()
print("up", flush=True)
sys.stdin.read()
"""


def test_a_killed_test_runner_leaves_no_trace() -> None:
    """kill -9 of the process that owns the cluster: its guard removes everything."""
    cluster_id = places.new_id()
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(HERE), cluster_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"up\n"
        assert traces(cluster_id)
        runner.kill()
    assert processes.wait_until(lambda: traces(cluster_id) == [], 20), traces(cluster_id)


def bed(*args: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(HERE / "bed.py"), *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_starts_shows_and_removes_a_cluster() -> None:
    cluster_id = places.new_id()
    try:
        up = bed("up", cluster_id)
        assert up.returncode == 0, up.stderr
        assert f"export KUBECONFIG={places.Places(cluster_id).kubeconfig}" in up.stdout
        twice = bed("up", cluster_id)
        assert twice.returncode == 1
        assert "exists already" in twice.stderr
        assert "node1" in bed("kubectl", "--id", cluster_id, "get", "nodes").stdout
        assert "not running" in bed("kill", "--id", cluster_id, "kube-scheduler").stdout
        assert "ready" in bed("start", "--id", cluster_id, "kube-scheduler").stdout
        status = bed("status", cluster_id)
        assert status.stdout.count(" ready\n") >= 6
    finally:
        down = bed("down", cluster_id)
    assert f"removed cluster {cluster_id}" in down.stdout, down.stderr
    assert traces(cluster_id) == []
    assert "nothing to remove" in bed("down", cluster_id).stdout


def test_a_cluster_that_cannot_start_says_why_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broken etcd on PATH: the error quotes its last words."""
    broken = tmp_path / "etcd"
    broken.write_text("#!/bin/sh\necho no space left on device; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    own = Cluster()
    started = time.monotonic()
    with pytest.raises(ClusterError, match="no space left on device"):
        own.up()
    assert time.monotonic() - started < 20
    assert traces(own.id) == []
    assert own.id not in cleanup.known_ids()


def test_a_machine_that_lacks_something_is_told_all_of_it_at_once(tmp_path: Path) -> None:
    """No program on PATH: each is named with the package that has it, and nothing is started."""
    env = {**os.environ, "PATH": str(tmp_path)}
    argv = [sys.executable, str(HERE / "bed.py"), "up", places.new_id()]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    for tool, package in (("ip", "iproute2"), ("nsenter", "util-linux"), ("etcd", "etcd-server")):
        assert f"`{tool}`" in done.stderr
        assert f"apt-get install {package}" in done.stderr
    assert "Traceback" not in done.stderr
