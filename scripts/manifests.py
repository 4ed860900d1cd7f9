"""Renders deploy/rbd/charts/rbd-csi into the plain manifests, and checks both.

Started by scripts/manifests, which brings the libraries. What a reader gets wrong: the
plain files are never edited; what differs in them from the chart is the heading alone.
The checks of content and the values that are tried are in manifests_checks.py, OpenShift's
in manifests_openshift.py; examples/rbd is held to the same.
"""

import sys
from pathlib import Path

import helm_python as helm

import manifests_checks as checks
import manifests_openshift as openshift

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/rbd/charts/rbd-csi"
EXAMPLES = ROOT / "examples/rbd"
# A deployment as ceph-csi's users have it, with which the end-to-end tests begin a migration.
CEPH_CSI = ROOT / "tests/e2e/ceph-csi"
# Template → plain file. ceph-csi's places: what needs kinds that not every cluster has is
# outside of the folder that people apply as a whole.
PLAIN = {
    "csi-config-map.yaml": "deploy/rbd/kubernetes/csi-config-map.yaml",
    "csidriver.yaml": "deploy/rbd/kubernetes/csidriver.yaml",
    "csi-nodeplugin-rbac.yaml": "deploy/rbd/kubernetes/csi-nodeplugin-rbac.yaml",
    "csi-provisioner-rbac.yaml": "deploy/rbd/kubernetes/csi-provisioner-rbac.yaml",
    "csi-rbdplugin-provisioner.yaml": "deploy/rbd/kubernetes/csi-rbdplugin-provisioner.yaml",
    "csi-rbdplugin.yaml": "deploy/rbd/kubernetes/csi-rbdplugin.yaml",
    "scc.yaml": "deploy/scc.yaml",
    "service-monitor.yaml": "deploy/service-monitor.yaml",
}
# Where the plain manifests differ from the chart's defaults.
PLAIN_VALUES = {"securityContextConstraints": {"create": True}, "serviceMonitor": {"enabled": True}}
HEADING = """\
# Made from the chart in deploy/rbd/charts/rbd-csi by `make manifests`; change it there.
"""


def render(chart, values, namespace="default"):
    """The chart's manifests by template name, without those that are empty."""
    chart.validate_schema(values)
    files = chart.render(values, name="rbd-csi", namespace=namespace)
    named = ((Path(name).name, text.strip("\n") + "\n") for name, text in files.items())
    return {name: text for name, text in named if text.strip() and name != "NOTES.txt"}


def plain_files(chart):
    """The plain manifests as they should be, by path."""
    rendered = render(chart, PLAIN_VALUES)
    if rendered.keys() != PLAIN.keys():
        sys.exit(f"scripts/manifests: PLAIN and what is rendered differ: {rendered.keys() ^ PLAIN.keys()}")
    return {ROOT / path: HEADING + rendered[name] for name, path in PLAIN.items()}


def write(chart):
    """Writes the plain manifests."""
    for path, text in plain_files(chart).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def in_step(chart):
    """What is wrong with the plain files beside the chart."""
    wanted = plain_files(chart)
    for path, text in wanted.items():
        if not path.exists() or path.read_text() != text:
            yield f"{path.relative_to(ROOT)} is not what the chart gives: run `make manifests`"
    for path in (ROOT / "deploy/rbd/kubernetes").iterdir():
        if path not in wanted:
            yield f"{path.relative_to(ROOT)} is not made from the chart, and would be applied with the rest"


def variations(chart):
    """What is wrong with the chart under other values than its own."""
    for variation in checks.VARIATIONS:
        try:
            rendered = render(chart, variation.values, variation.namespace)
        except helm.HelmError as error:
            if variation.refused is None or variation.refused not in str(error):
                yield f"{variation.name}: {error}"
            continue
        if variation.refused is not None:
            yield f"{variation.name}: should have been refused, with: {variation.refused}"
            continue
        for name, text in rendered.items():
            place = f"{variation.name}: {name}"
            yield from checks.valid(place, text)
        text = "".join(rendered.values())
        yield from (f"{variation.name}: lacks {want!r}" for want in variation.has if want not in text)
        yield from (
            f"{variation.name}: still has {not_want!r}" for not_want in variation.lacks if not_want in text
        )
        yield from (f"{variation.name}: {wrong}" for wrong in checks.unlike(text, variation.objects))
        if openshift.KIND in text:
            yield from (f"{variation.name}: {wrong}" for wrong in openshift.wrong(text))


def check(chart):
    """Fails with all that is wrong."""
    plain = {path.relative_to(ROOT): text for path, text in plain_files(chart).items()}
    examples = {path.relative_to(ROOT): path.read_text() for path in sorted(EXAMPLES.glob("*.yaml"))}
    wrong = list(in_step(chart))
    for path, text in (plain | examples).items():
        wrong += checks.valid(path, text)
    wrong += checks.as_ceph_csi("".join(plain.values()))
    wrong += openshift.wrong("".join(plain.values()))
    ceph_csi = "".join(path.read_text() for path in sorted(CEPH_CSI.glob("*.yaml")))
    wrong += checks.unexplained("".join(plain.values()), ceph_csi, (ROOT / "deploy/rbd/README.md").read_text())
    wrong += checks.versions(chart.metadata, (ROOT / "Cargo.toml").read_text())
    wrong += checks.linted(CHART)
    # What is wrong everywhere is told once.
    wrong += [] if wrong else variations(chart)
    if wrong:
        sys.exit("\n".join(["scripts/manifests:", *map(str, wrong)]))
    print(
        f"{len(plain)} plain manifests are the chart's, {len(checks.VARIATIONS)} variations of values tried;",
        f"they and {len(examples)} examples are valid for Kubernetes {' and '.join(checks.KUBERNETES)}",
    )


def main():
    """`write` or `check`."""
    verbs = {"write": write, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in verbs:
        sys.exit("usage: scripts/manifests write|check")
    with helm.Chart.load(CHART) as chart:
        verbs[sys.argv[1]](chart)


if __name__ == "__main__":
    main()
