"""helm's install, upgrade and uninstall of the chart, by Helm's own library.

Started by scripts/chart-python: VERB KUBECONFIG NAMESPACE RELEASE [VALUES], VALUES being a
JSON file. Returns when the release's objects are ready, or gone.
"""

import json
import sys
from pathlib import Path

import helm_python as helm

CHART = Path(__file__).resolve().parents[3] / "deploy/rbd/charts/rbd-csi"
SECONDS = 300


def main():
    """Does what it is told; prints what Helm says of the release then."""
    verb, kubeconfig, namespace, release, *values = sys.argv[1:]
    with helm.Config(kubeconfig_path=kubeconfig, namespace=namespace) as cluster:
        if verb == "uninstall":
            cluster.uninstall(release, wait="watcher", timeout=SECONDS)
            return
        with helm.Chart.load(CHART) as chart:
            options = {"namespace": namespace, "wait": "watcher", "timeout": SECONDS}
            act = {"install": cluster.install, "upgrade": cluster.upgrade}[verb]
            said = act(chart, release, json.loads(Path(values[0]).read_text()), **options)
    print({key: said.get(key) for key in ("name", "namespace", "revision", "status")})


if __name__ == "__main__":
    main()
