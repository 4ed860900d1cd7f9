"""Renders deploy/rbd/charts/rbd-csi into the plain manifests, and checks both.

Started by scripts/manifests, which brings the libraries. What a reader gets wrong: the
plain files are never edited; what differs in them from the chart is the heading alone.
"""

import sys
from pathlib import Path

import helm_python as helm

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/rbd/charts/rbd-csi"
# Template → plain file. ceph-csi's places: what needs kinds that not every cluster has is
# outside of the folder that people apply as a whole.
PLAIN = {
    "csi-config-map.yaml": "deploy/rbd/kubernetes/csi-config-map.yaml",
    "csidriver.yaml": "deploy/rbd/kubernetes/csidriver.yaml",
    "csi-nodeplugin-rbac.yaml": "deploy/rbd/kubernetes/csi-nodeplugin-rbac.yaml",
    "csi-provisioner-rbac.yaml": "deploy/rbd/kubernetes/csi-provisioner-rbac.yaml",
    "csi-rbdplugin-provisioner.yaml": "deploy/rbd/kubernetes/csi-rbdplugin-provisioner.yaml",
    "csi-rbdplugin.yaml": "deploy/rbd/kubernetes/csi-rbdplugin.yaml",
    "service-monitor.yaml": "deploy/service-monitor.yaml",
}
# Where the plain manifests differ from the chart's defaults.
PLAIN_VALUES = {"serviceMonitor": {"enabled": True}}
HEADING = """\
# Made from the chart in deploy/rbd/charts/rbd-csi by `make manifests`; change it there.
"""


def render(values, namespace="default"):
    """The chart's files by template name, without those that are empty."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="rbd-csi", namespace=namespace)
    named = ((Path(name).name, text.strip("\n") + "\n") for name, text in files.items())
    return {name: text for name, text in named if text.strip()}


def plain_files():
    """The plain manifests as they should be, by path."""
    rendered = render(PLAIN_VALUES)
    missing = PLAIN.keys() - rendered.keys()
    if missing:
        sys.exit(f"scripts/manifests: the chart renders nothing for {sorted(missing)}")
    return {ROOT / path: HEADING + rendered[name] for name, path in PLAIN.items()}


def write():
    """Writes the plain manifests."""
    for path, text in plain_files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main():
    """`write` or `check`."""
    verbs = {"write": write}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        sys.exit("usage: scripts/manifests write|check")
    verbs[sys.argv[1]]()


main()
