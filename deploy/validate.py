"""Validates what validate.sh has rendered, against Kubernetes' schemas and against the program itself."""

import fnmatch
import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

ROOT = pathlib.Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

# The oldest release that has all we use, and the newest that the validator knows.
RELEASES = "1.30", kubernetes_validate.latest_version()

problems = []


def check(holds, where, problem):
    if not holds:
        problems.append(f"{where}: {problem}")


def found(pattern, files):
    """What `pattern` matches in files of the program; there has to be something."""
    texts = (path.read_text() for path in ROOT.glob(files))
    matches = [match for text in texts for match in re.findall(pattern, text, re.MULTILINE)]
    check(matches, files, f"nothing matches {pattern}, which validate.py looks for")
    return matches


class Rendering:
    """The objects of one overlay, or of the chart with one file of values."""

    def __init__(self, path):
        self.name = path.stem
        self.objects = [thing for thing in yaml.safe_load_all(path.read_text()) if thing]
        (self.workload,) = self.of_kind("Deployment", "DaemonSet")
        self.template = self.workload["spec"]["template"]
        self.pod = self.template["spec"]
        containers = self.pod["containers"] + self.pod.get("initContainers", [])
        (self.router,) = (container for container in containers if container["name"] == "qdrant-router")
        self.ports = {port["name"]: port["containerPort"] for port in self.router["ports"]}

    def of_kind(self, *kinds):
        return [thing for thing in self.objects if thing["kind"] in kinds]

    def check(self, holds, problem):
        check(holds, self.name, problem)

    def environment(self, container):
        maps = {thing["metadata"]["name"]: thing["data"] for thing in self.of_kind("ConfigMap")}
        environment = {}
        for source in container.get("envFrom", []):
            environment |= maps[source["configMapRef"]["name"]]
        return environment | {variable["name"]: variable["value"] for variable in container.get("env", [])}

    def follows_schemas(self):
        for thing in self.objects:
            what = f"{thing['kind']}/{thing['metadata']['name']}"
            if thing["apiVersion"] == "monitoring.coreos.com/v1":
                try:
                    known = getattr(prometheus_operator, thing["kind"]).model_validate(thing)
                except ValueError as error:
                    self.check(False, f"{what}: {error}")
                    continue
                # Fields that the model does not know it drops.
                known = known.model_dump(mode="json", by_alias=True, exclude_unset=True)
                self.check(known == thing, f"{what}: has unknown fields; known is {known}")
                continue
            for release in RELEASES:
                try:
                    kubernetes_validate.validate(thing, release, strict=True)
                except kubernetes_validate.ValidationError as error:
                    path = ".".join(map(str, error.path))
                    self.check(False, f"{what}: Kubernetes {release}: {path}: {error.message}")

    def fits_together(self):
        """Names and labels by which objects refer to each other; no schema knows of them."""

        def selects(selector, labels):
            return selector.items() <= labels.items()

        services = self.of_kind("Service")
        selectors = [(thing["kind"], thing["spec"]["selector"]) for thing in services]
        for thing in [self.workload, *self.of_kind("PodDisruptionBudget")]:
            selectors.append((thing["kind"], thing["spec"]["selector"]["matchLabels"]))
        for policy in self.of_kind("NetworkPolicy"):
            selectors.append(("NetworkPolicy", policy["spec"]["podSelector"]["matchLabels"]))
            for rule in policy["spec"]["ingress"]:
                names = {port["port"] for port in rule["ports"]}
                self.check(names <= self.ports.keys(), f"the NetworkPolicy admits to unknown ports: {names}")
                self.check("from" in rule or "admin" not in names, "the admin port is open to everybody")
        for kind, selector in selectors:
            labels = self.template["metadata"]["labels"]
            self.check(selects(selector, labels), f"the {kind} does not select the router's pods")

        scraped = []
        for service in services:
            for port in service["spec"]["ports"]:
                target = self.ports.get(port["targetPort"])
                self.check(port["port"] == target, f"port {port['name']} of a Service is not the pods'")
                scraped += [
                    port["name"]
                    for monitor in self.of_kind("ServiceMonitor")
                    if selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
                ]
        if self.of_kind("ServiceMonitor"):
            self.check(scraped.count("admin") == 1, "the ServiceMonitor does not find each admin port once")

        for scaler in self.of_kind("HorizontalPodAutoscaler"):
            target = scaler["spec"]["scaleTargetRef"]
            workload = self.workload["kind"], self.workload["metadata"]["name"]
            self.check(
                (target["kind"], target["name"]) == workload, "the HorizontalPodAutoscaler scales nothing"
            )
            self.check(
                "replicas" not in self.workload["spec"], "the replicas are set beside their autoscaler"
            )

    def is_restricted(self):
        security = self.pod.get("securityContext", {}) | self.router["securityContext"]
        self.check(security.get("runAsNonRoot") is True, "the router may run as root")
        self.check(security.get("readOnlyRootFilesystem") is True, "the router's root is not read-only")
        self.check(security.get("allowPrivilegeEscalation") is False, "the router may gain privileges")
        self.check(security.get("capabilities") == {"drop": ["ALL"]}, "the router has capabilities")
        self.check(security.get("seccompProfile") == {"type": "RuntimeDefault"}, "no seccomp profile is set")

    def fits_the_program(self):
        environment = self.environment(self.router)
        check_environment(self.name, environment)
        links = self.pod.get("enableServiceLinks", True)
        self.check(not links, "a Service named qdrant-router would add variables such as QDRANT_ROUTER_PORT")

        probes = [self.router[probe]["httpGet"] for probe in self.router if probe.endswith("Probe")]
        self.check(
            any(probe["path"] == "/livez" for probe in probes), "nothing probes whether the router lives"
        )
        paths = set(found(r'\.route\("(/\w+)"', "proxy/src/admin.rs"))
        for probe in probes:
            self.check(
                probe["port"] == "admin" and probe["path"] in paths, f"nothing answers the probe {probe}"
            )
        admin = f"0.0.0.0:{self.ports['admin']}"
        self.check(
            environment.get("QDRANT_ROUTER_LISTEN_ADMIN") == admin, "probes do not reach the admin port"
        )

        grace = f"{self.pod['terminationGracePeriodSeconds']}s"
        check_grace(self.name, grace, environment, self.router["args"])

        if self.name.startswith("kustomize-"):
            check_image(self.name, self.router["image"])
        files = self.mounted_files()
        for name, path in environment.items():
            if name.endswith("_FILE"):
                is_there = any(fnmatch.fnmatchcase(path, file) for file in files)
                self.check(is_there, f"{name} is {path}, and mounted are {files}")

    def mounted_files(self):
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        files = []
        for mount in self.router.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            for source in sources:
                kind = source.get("secret") or source["configMap"]
                items = [item["path"] for item in kind.get("items", [])]
                # Without a list, it is whatever the object holds.
                files += [f"{mount['mountPath']}/{path}" for path in items or ["*"]]
        return files

    def comparable(self):
        """The objects by kind and name, without what differs between kustomize and Helm to no effect."""
        dropped = "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart", "namespace"
        defaults = {
            "app.kubernetes.io/instance": "qdrant-router",
            "imagePullPolicy": "IfNotPresent",
            "type": "ClusterIP",
        }

        def plain(value):
            if isinstance(value, list):
                return [plain(item) for item in value]
            if not isinstance(value, dict):
                return value
            if "env" in value or "envFrom" in value:
                value = value | {"env": self.environment(value), "envFrom": []}
            return {
                key: plain(item)
                for key, item in value.items()
                if key not in dropped and defaults.get(key) != item
            }

        # The ConfigMap of the environment has no labels, and is compared as the environment.
        things = (t for t in self.objects if t["kind"] != "ConfigMap" or "labels" in t["metadata"])
        return {f"{thing['kind']}/{thing['metadata']['name']}": plain(thing) for thing in things}


def check_environment(where, environment):
    known = found(r'"(QDRANT_ROUTER_\w+)"', "proxy/src/cli/**/*.rs")
    for name in environment:
        check(name in known, where, f"`qdrant-router serve` does not know {name}")


def default(key):
    """The default of a setting, in the reference that the program has written."""
    (value,) = found(rf"^\| \[`{key}`\].* \| `(\S+)` \|$", "docs/configuration.md")
    return value


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def check_grace(where, grace, environment, args=()):
    """A router that is told to stop is given the time that it takes."""
    flags = dict(arg.split("=", 1) for arg in args if arg.startswith("--"))
    stop = []
    for key in "shutdown_delay", "drain_timeout":
        given = environment.get(f"QDRANT_ROUTER_{key.upper()}", default(key))
        stop.append(flags.get(f"--{key.replace('_', '-')}", given))
    enough = seconds(grace) > sum(map(seconds, stop))
    check(enough, where, f"the router is given {grace}, and takes {' and '.join(stop)} to stop")


def check_image(where, image):
    (version,) = found(r'^version = "(.+)"', "Cargo.toml")
    check(image == f"qdrant-router:{version}", where, f"the image is {image}, and the version {version}")


def check_same(one, other):
    ones, others = one.comparable(), other.comparable()
    differing = [key for key in sorted(ones | others) if ones.get(key) != others.get(key)]
    check(not differing, f"{one.name} and {other.name}", f"differ in {', '.join(differing)}")


def check_compose():
    router = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"]["router"]
    check_environment("docker-compose.yaml", router["environment"])
    check_image("docker-compose.yaml", router["image"])
    check_grace("docker-compose.yaml", router["stop_grace_period"], router["environment"])


def check_chart():
    """What the chart takes for the program's defaults."""
    path = "deploy/chart/templates/_helpers.tpl"
    for name, value in found(r'"QDRANT_ROUTER_(\w+)" \| default "(\w+)"', path):
        known = default(name.lower())
        check(value == known, path, f"the default of {name} is {known}, not {value}")


def metrics():
    """The metrics that the program has, with their labels, from the table that docs/check.sh holds to the code."""
    rows = " ".join(found(r"^\| (`qdrant_router_.*?) \|", "docs/operations.md"))
    return {name: labels.split(",") for name, labels in re.findall(r"`(\w+)(?:\{(.*?)\})?`", rows)}


def check_rule():
    """Kustomize cannot put one file into another, so that the rule repeats the alerts."""
    alerts, path = DEPLOY / "monitoring/alerts.yaml", DEPLOY / "monitoring/prometheus-rule.yaml"
    same = yaml.safe_load(path.read_text())["spec"] == yaml.safe_load(alerts.read_text())
    renew = "sed -i /^spec:/q prometheus-rule.yaml; sed 's/./  &/' alerts.yaml >> prometheus-rule.yaml"
    check(same, path.name, f"it is not alerts.yaml; renew it, in deploy/monitoring: {renew}")


def check_queries(directory):
    """Alerts and the dashboard ask for metrics and labels that exist, in queries that Prometheus reads."""
    alerts = yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())
    dashboard = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
    panels = dashboard["panels"]
    variables = [v for v in dashboard["templating"]["list"] if v["type"] == "query"]
    shown = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
    queries = shown + [(variable["name"], variable["query"]["query"]) for variable in variables]
    queries += [(rule["alert"], rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]

    known = metrics()
    sources = "proxy/src/metrics.rs", "proxy/src/metrics/*.rs", "sdk/src/route.rs", "sdk/src/topology/replica.rs"
    values = [value for source in sources for value in found(r'"(\w+)"', source)]
    for where, query in queries:
        for name, selector in re.findall(r"\b(qdrant_router_\w+)(?:\{([^}]*)\})?", query):
            name = re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name)
            check(name in known, where, f"docs/operations.md lists no metric called {name}")
            for label in re.findall(r"(\w+)(?:=|!)", selector):
                has = label == "namespace" or label in known.get(name, [label])
                check(has, where, f"{name} has no label {label}")
        for label, value in re.findall(r'\b(reason|outcome|state|way)="(\w+)"', query):
            check(value in values, where, f"{label} is never {value}")

    check(len({panel["id"] for panel in panels}) == len(panels), "dashboard.json", "two panels share an id")
    cells = [
        (grid["x"] + x, grid["y"] + y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["w"])
        for y in range(grid["h"])
    ]
    check(len(set(cells)) == len(cells), "dashboard.json", "panels overlap")
    check(max(cells)[0] < 24, "dashboard.json", "a panel sticks out")

    # Prometheus checks the queries of rules, so the dashboard's become rules.
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, (_, query) in enumerate(shown)
    ]
    path = directory / "dashboard.rules"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", path]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    check(result.returncode == 0, "dashboard.json", result.stderr)
    print(f"monitoring: {len(queries)} queries")


def main(directory):
    renderings = {path.stem: Rendering(path) for path in sorted(directory.glob("*.yaml"))}
    for rendering in renderings.values():
        rendering.follows_schemas()
        rendering.fits_together()
        rendering.is_restricted()
        rendering.fits_the_program()
        print(f"{rendering.name}: {len(rendering.objects)} objects")
    check_same(renderings["kustomize-kubeblocks"], renderings["chart-kubeblocks"])
    check_chart()
    check_compose()
    check_rule()
    check_queries(directory)
    for problem in problems:
        print(f"validate: {problem}", file=sys.stderr)
    print(f"validated for Kubernetes {' and '.join(RELEASES)}: {len(problems)} problems")
    sys.exit(1 if problems else 0)


main(pathlib.Path(sys.argv[1]))
