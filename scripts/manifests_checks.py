"""What has to be true of the manifests, and the values with which the chart is tried.

Not here: rendering and the plain files, which are manifests.py's.
"""

import functools
import re
from dataclasses import dataclass, field

import helm_python as helm
import kubernetes_validate
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

# The oldest and the newest that are supported; docs/support.md has the list, deploy/rbd/README.md the reasons.
KUBERNETES = ("1.29", "1.36")
# Kinds of operators, snapshots and OpenShift, which the Kubernetes schemas do not have.
FOREIGN = {"SecurityContextConstraints", "ServiceMonitor", "VolumeSnapshot", "VolumeSnapshotClass"}
# What no `kubectl apply` can change of what ceph-csi has deployed: kind, name, path, value.
IMMUTABLE = (
    ("CSIDriver", "rbd.csi.ceph.com", "spec.attachRequired", True),
    ("CSIDriver", "rbd.csi.ceph.com", "spec.volumeLifecycleModes", None),
    (
        "Deployment",
        "csi-rbdplugin-provisioner",
        "spec.selector",
        {"matchLabels": {"app": "csi-rbdplugin-provisioner"}},
    ),
    ("DaemonSet", "csi-rbdplugin", "spec.selector", {"matchLabels": {"app": "csi-rbdplugin"}}),
    ("ClusterRoleBinding", "rbd-csi-nodeplugin", "roleRef.name", "rbd-csi-nodeplugin"),
    ("ClusterRoleBinding", "rbd-csi-provisioner-role", "roleRef.name", "rbd-external-provisioner-runner"),
    ("RoleBinding", "rbd-csi-provisioner-role-cfg", "roleRef.name", "rbd-external-provisioner-cfg"),
)


@dataclass
class Variation:
    """Values, and what must or must not be in what comes of them."""

    name: str
    values: dict
    namespace: str = "default"
    has: list = field(default_factory=list)
    lacks: list = field(default_factory=list)
    # What the objects must be after parsing: kind, name, path, value. For what is left away
    # and stands elsewhere in the text, where `lacks` could never fail.
    objects: list = field(default_factory=list)
    # Part of the error with which these values are refused; None: they are not.
    refused: str = None


CLUSTER = {"clusterID": "one", "monitors": ["[2001:db8::1]:3300"], "rbd": {"radosNamespace": "k8s"}}
# A node affinity that takes the place of the chart's own.
CHOSEN_NODES = {
    "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["fast"]}]},
        ]
    }
}

VARIATIONS = (
    Variation(
        "defaults",
        {},
        lacks=["SecurityContextConstraints"],
        objects=[
            (
                "DaemonSet",
                "csi-rbdplugin",
                "spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
                {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"]},
                                {"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]},
                            ]
                        }
                    ]
                },
            )
        ],
    ),
    Variation(
        "another namespace", {}, namespace="storage", has=["namespace: storage"], lacks=["namespace: default"]
    ),
    Variation(
        "another driver name",
        {"driverName": "rbd.example.com"},
        has=["/plugins/rbd.example.com/csi.sock", "--drivername=rbd.example.com"],
        lacks=["rbd.csi.ceph.com"],
    ),
    Variation("another kubelet folder", {"kubeletDir": "/data/kubelet"}, lacks=["/var/lib/kubelet"]),
    Variation(
        "another image",
        {"nodeplugin": {"plugin": {"image": {"repository": "registry.example.com/rbd", "tag": "v9"}}}},
        has=["image: registry.example.com/rbd:v9"],
        lacks=["quay.io"],
    ),
    Variation(
        "a second driver",
        {"fullnameOverride": "fast", "driverName": "fast.example.com", "instanceID": "fast"},
        has=["name: fast-csi-rbdplugin\n", "app: fast-csi-rbdplugin\n", "--instanceid=fast"],
        lacks=["name: rbd-", "name: csi-rbdplugin-", "app: csi-rbdplugin"],
    ),
    Variation(
        "nodes of one's own choice",
        {"nodeplugin": {"affinity": {"nodeAffinity": CHOSEN_NODES}}},
        lacks=["fargate", "virtual-kubelet"],
        objects=[("DaemonSet", "csi-rbdplugin", "spec.template.spec.affinity", {"nodeAffinity": CHOSEN_NODES})],
    ),
    Variation(
        "pods' affinity beside that of nodes",
        {"nodeplugin": {"affinity": {"podAntiAffinity": {}}}},
        has=["podAntiAffinity", "fargate", "virtual-kubelet"],
    ),
    Variation(
        "virtual nodes, too",
        {"nodeplugin": {"affinity": None}},
        lacks=["fargate", "virtual-kubelet"],
        objects=[("DaemonSet", "csi-rbdplugin", "spec.template.spec.affinity", None)],
    ),
    Variation(
        "OpenShift, with all that bears upon it",
        {
            "fullnameOverride": "fast",
            "serviceAccounts": {"provisioner": {"create": False, "name": "in-cluster"}},
            "nodeplugin": {"httpMetrics": {"enabled": False}},
            "provisioner": {"enableHostNetwork": True},
            "securityContextConstraints": {"create": True},
        },
        namespace="storage",
        has=["name: fast-rbd-csi-provisioner\n", "  - system:serviceaccount:storage:in-cluster\n"],
        lacks=["serviceaccount:default:"],
    ),
    Variation("one replica", {"provisioner": {"replicaCount": 1}}, has=["replicas: 1\n"]),
    Variation(
        "clusters",
        {
            "csiConfig": [CLUSTER],
            "csiMapping": [{"clusterIDMapping": {"a": "b"}}],
            "cephconf": "[global]\ndebug ms = 1\n",
        },
        has=['"radosNamespace": "k8s"', "[2001:db8::1]:3300", "ceph.conf: |", "debug ms = 1"],
    ),
    Variation(
        "somebody else's config map",
        {"externallyManagedConfigmap": True, "configMapName": "mine", "configMapKey": "clusters.json"},
        has=["name: mine", "--cluster-config=/etc/ceph-csi-config/clusters.json"],
        lacks=["kind: ConfigMap"],
    ),
    Variation(
        "class and secret",
        {
            "storageClass": {
                "create": True,
                "clusterID": "one",
                "pool": "rbd",
                "stripeUnit": 65536,
                "mountOptions": ["discard"],
            },
            "secret": {"create": True, "userID": "kubernetes", "userKey": "QUJD"},
        },
        namespace="storage",
        has=['stripeUnit: "65536"', "node-stage-secret-namespace: storage", 'userKey: "QUJD"', "- discard"],
        lacks=["dataPool", "mapOptions"],
    ),
    Variation(
        "a class without pool",
        {"storageClass": {"create": True, "clusterID": "one"}},
        refused="storageClass.pool",
    ),
    Variation(
        "a class of snapshots",
        {
            "driverName": "rbd.example.com",
            "volumeSnapshotClass": {"create": True, "clusterID": "one", "snapshotNamePrefix": "nightly-"},
        },
        namespace="storage",
        has=['snapshotNamePrefix: "nightly-"'],
        objects=[
            ("VolumeSnapshotClass", "csi-rbdplugin-snapclass", "driver", "rbd.example.com"),
            ("VolumeSnapshotClass", "csi-rbdplugin-snapclass", "deletionPolicy", "Delete"),
            (
                "VolumeSnapshotClass",
                "csi-rbdplugin-snapclass",
                "parameters",
                {
                    "clusterID": "one",
                    "snapshotNamePrefix": "nightly-",
                    "csi.storage.k8s.io/snapshotter-secret-name": "csi-rbd-secret",
                    "csi.storage.k8s.io/snapshotter-secret-namespace": "storage",
                },
            ),
        ],
    ),
    Variation(
        "a class of snapshots without cluster",
        {"volumeSnapshotClass": {"create": True}},
        refused="volumeSnapshotClass.clusterID",
    ),
    Variation(
        "a cluster without kinds of snapshots",
        {"provisioner": {"snapshotter": {"enabled": False}}},
        has=["name: csi-resizer\n", "name: csi-attacher\n"],
        lacks=["name: csi-snapshotter\n"],
    ),
    Variation(
        "volumes that do not grow",
        {"provisioner": {"resizer": {"enabled": False}}},
        has=["name: csi-snapshotter\n"],
        lacks=["name: csi-resizer\n"],
    ),
    Variation(
        "limits of chains and snapshots",
        {
            "provisioner": {
                "hardMaxCloneDepth": 14,
                "softMaxCloneDepth": 2,
                "maxSnapshotsOnImage": 100,
                "minSnapshotsOnImage": 50,
            }
        },
        has=[
            "--rbdhardmaxclonedepth=14",
            "--rbdsoftmaxclonedepth=2",
            "--maxsnapshotsonimage=100",
            "--minsnapshotsonimage=50",
        ],
    ),
    Variation(
        "a chain that librbd does not take",
        {"provisioner": {"hardMaxCloneDepth": 15}},
        refused="hardMaxCloneDepth",
    ),
    Variation("a secret without key", {"secret": {"create": True, "userID": "a"}}, refused="secret.userKey"),
    Variation(
        "metrics off",
        {
            "nodeplugin": {"httpMetrics": {"enabled": False}},
            "provisioner": {"httpMetrics": {"enabled": False}},
        },
        lacks=["--metricsport", "/healthz\n", "kind: Service\n"],
    ),
    Variation(
        "everything that a pod can have",
        {
            "commonLabels": {"team": "storage"},
            "nodeplugin": {
                "updateStrategy": "OnDelete",
                "nodeSelector": {"a": "b"},
                "imagePullSecrets": [{"name": "pull"}],
                "annotations": {"a": "b"},
                "podAnnotations": {"a": "b"},
                "plugin": {"extraArgs": ["--log-format=json"]},
                "httpMetrics": {
                    "service": {
                        "type": "LoadBalancer",
                        "annotations": {"a": "b"},
                        "loadBalancerSourceRanges": ["10.0.0.0/8"],
                    }
                },
            },
            "provisioner": {
                "affinity": {"nodeAffinity": {}},
                "tolerations": [{"operator": "Exists"}],
                "attacher": {"extraArgs": ["--worker-threads=20"]},
                "snapshotter": {"extraArgs": ["--retry-interval-max=1m"]},
                "resizer": {"extraArgs": ["--workers=20"]},
                "podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            },
            "topology": {"domainLabels": ["zone", "rack"]},
            "readAffinity": {"enabled": True, "crushLocationLabels": ["zone"]},
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "extraDeploy": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}
            ],
        },
        has=[
            "type: OnDelete",
            "--domainlabels=zone,rack",
            '"--log-format=json"',
            '"--retry-interval-max=1m"',
            '"--workers=20"',
            "release: prometheus",
            "rbd-csi-extra",
        ],
        lacks=["runAsUser"],
        objects=[
            ("DaemonSet", "csi-rbdplugin", "spec.updateStrategy", {"type": "OnDelete"}),
            (
                "DaemonSet",
                "csi-rbdplugin",
                "spec.template.spec.nodeSelector",
                {"kubernetes.io/os": "linux", "a": "b"},
            ),
            (
                "Deployment",
                "csi-rbdplugin-provisioner",
                "spec.template.spec.nodeSelector",
                {"kubernetes.io/os": "linux"},
            ),
        ],
    ),
    Variation(
        "a label of its own on all objects",
        {"commonLabels": {"team": "storage"}},
        objects=[
            (
                "DaemonSet",
                "csi-rbdplugin",
                "spec.template.metadata.labels",
                {"app": "csi-rbdplugin", "rbd-csi.part": "node-plugin", "team": "storage"},
            ),
            ("DaemonSet", "csi-rbdplugin", "spec.selector", {"matchLabels": {"app": "csi-rbdplugin"}}),
        ],
    ),
    Variation("the selectors' label for all objects", {"commonLabels": {"app": "x"}}, refused="key app"),
    Variation(
        "no accounts and roles of its own",
        {
            "rbac": {"create": False},
            "serviceAccounts": {
                "nodeplugin": {"create": False, "name": "on-nodes"},
                "provisioner": {"create": False, "name": "in-cluster"},
            },
        },
        has=["serviceAccountName: on-nodes\n", "serviceAccountName: in-cluster\n"],
        lacks=["kind: ServiceAccount", "kind: ClusterRole"],
    ),
    Variation(
        "values of ceph-csi-rbd for what is not here yet",
        {
            "encryptionKMSConfig": {"vault": {"encryptionKMSType": "vault"}},
            "nodeplugin": {
                "registrar": {"image": {"repository": "x", "tag": "y"}},
                "profiling": {"enabled": True},
            },
            "provisioner": {
                "fencing": True,
                "deployController": True,
                "provisioner": {"args": None},
                "attacher": {"args": None},
                "resizer": {"args": None},
                "snapshotter": {"args": {"enableVolumeGroupSnapshots": True}},
                "podSecurityContext": {},
            },
            "volumeGroupSnapshotClass": {"create": True},
            "somethingNew": 1,
        },
        has=[
            "--http-endpoint=:8090",
            "--http-endpoint=:8091",
            "--http-endpoint=:8092",
            "--http-endpoint=:8093",
            "--feature-gates=CSIVolumeGroupSnapshot=false",
            "runAsNonRoot: true",
        ],
        lacks=["name: driver-registrar", "VolumeGroupSnapshotClass"],
    ),
    Variation(
        "ceph-csi's image",
        {"nodeplugin": {"plugin": {"image": {"repository": "quay.io/cephcsi/cephcsi", "tag": "v3.17.0"}}}},
        refused="nodeplugin.plugin.image is ceph-csi's",
    ),
    Variation(
        "a label that is the chart's", {"commonLabels": {"rbd-csi.part": "x"}}, refused="key rbd-csi.part"
    ),
    Variation("one port twice", {"provisioner": {"enableHostNetwork": True}}, refused="another port"),
    Variation(
        "the controller on the node's network",
        {"provisioner": {"enableHostNetwork": True, "httpMetrics": {"containerPort": 8691}}},
        has=["--metricsport=8691"],
    ),
    Variation("a tag that is a number", {"nodeplugin": {"plugin": {"image": {"tag": 1.10}}}}, refused="tag"),
    Variation("a cluster without monitors", {"csiConfig": [{"clusterID": "one"}]}, refused="monitors"),
    Variation(
        "a kubelet folder with a slash behind", {"kubeletDir": "/var/lib/kubelet/"}, refused="kubeletDir"
    ),
)

LINT = YamlLintConfig(file=".yamllint")


def valid(place, text):
    """What is wrong with the form of a file of manifests."""
    return [f"{place}{problem}" for problem in problems(text)]


# Most variations leave most files as they were.
@functools.cache
def problems(text):
    """As `valid`, without the place."""
    found = [f":{problem.line}: {problem.desc}" for problem in linter.run(text, LINT)]
    for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if manifest is None:
            found.append(": an empty document")
        elif manifest["kind"] not in FOREIGN:
            found += refused(manifest)
    return found


def refused(manifest):
    """Why an API server would not take it."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            yield f": {name} for Kubernetes {version}: {path}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError as error:
            yield f": {name}: {error.message}"


def as_ceph_csi(text):
    """Where an apply over a running ceph-csi would be refused."""
    for wrong in unlike(text, IMMUTABLE):
        yield f"{wrong}: ceph-csi's is that, and cannot be changed in place"


def unlike(text, objects):
    """Where manifests are not what these objects (kind, name, path, value) say."""
    parsed = yaml.load_all(text, Loader=yaml.CSafeLoader)
    manifests = {(one["kind"], one["metadata"]["name"]): one for one in parsed if one is not None}
    for kind, name, path, wanted in objects:
        found = manifests.get((kind, name))
        if found is None:
            yield f"{kind} {name} is missing, or of another name"
            continue
        for key in path.split("."):
            found = (found or {}).get(key)
        if found != wanted:
            yield f"{kind} {name}: {path} should be {wanted} and is {found}"


def containers(text):
    """The containers of these manifests' workloads: arguments and variables by workload and name."""
    found = {}
    for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if manifest is None or manifest["kind"] not in ("Deployment", "DaemonSet"):
            continue
        for one in manifest["spec"]["template"]["spec"]["containers"]:
            variables = {variable["name"] for variable in one.get("env", ())}
            found[manifest["kind"], one["name"]] = set(one["args"]), variables
    return found


def unexplained(ours, theirs, readme):
    """What only one of our manifests and ceph-csi's says, and the README's table does not name."""
    _, _, table = readme.partition("\n## What differs")
    named = set(re.findall(r"--[a-z][a-z_-]*|\b[A-Z]+(?:_[A-Z]+)+\b", table))
    ours, theirs = containers(ours), containers(theirs)
    kept = ours.keys() & theirs.keys()
    if not kept:
        yield "no container is both in our manifests and in ceph-csi's: has this check read the right files?"
    # Dictionaries keep the order of the files; the sort, which of them comes first, alone.
    order = [sorted(filter(kept.__contains__, side), key=lambda key: key[0]) for side in (ours, theirs)]
    if order[0] != order[1]:
        yield f"the containers do not stand in ceph-csi's order: {order[0]} and {order[1]}"
    for kind, name in sorted(ours.keys() ^ theirs.keys()):
        if name not in table:
            yield f"deploy/rbd/README.md does not say why container {name} is in one {kind} only"
    # A flag of a container that is not there may live on in another one.
    flags = {argument.partition("=")[0] for arguments, _ in ours.values() for argument in arguments}
    differing = {key: (ours[key][0] ^ theirs[key][0], ours[key][1] ^ theirs[key][1]) for key in kept}
    for key in theirs.keys() - ours.keys():
        left = {argument.partition("=")[0] for argument in theirs[key][0]} - flags
        differing[key] = left, set()
    for (kind, name), (arguments, variables) in sorted(differing.items()):
        for word in sorted({argument.partition("=")[0] for argument in arguments} | variables):
            if word not in named:
                yield f"deploy/rbd/README.md does not say why {word} of {name} in the {kind} differs from ceph-csi's"


def versions(chart, cargo):
    """Where the chart's version is not the driver's."""
    driver = re.search(r'^version = "(.+)"$', cargo, re.MULTILINE).group(1)
    if chart["version"] != driver or chart["appVersion"] != f"v{driver}":
        yield f"Chart.yaml: version and appVersion must be {driver} and v{driver}, as Cargo.toml has it"
    if chart["kubeVersion"] != f">={KUBERNETES[0]}.0-0":
        yield f"Chart.yaml: kubeVersion must be that of the oldest Kubernetes, {KUBERNETES[0]}"


def linted(chart):
    """What `helm lint` finds."""
    answer = helm.lint(chart, strict=True)
    yield from (f"helm lint: {error}" for error in answer["errors"])
    # 1 is advice: that a chart should have an icon.
    yield from (
        f"helm lint: {one['path']}: {one['error']}" for one in answer["messages"] if one["severity"] > 1
    )
