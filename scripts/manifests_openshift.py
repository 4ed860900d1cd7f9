"""What an OpenShift would say: have the SecurityContextConstraints their form, and do they let
the driver's pods in?

Not here: an OpenShift. The form is that of its CustomResourceDefinition (openshift/api,
security/v1); the rules are those of its admission (openshift/apiserver-library-go,
pkg/securitycontextconstraints), as far as these manifests can meet them.
"""

import yaml

KIND = "SecurityContextConstraints"
# What an object must have besides its users and strategies.
FLAGS = {
    "allowHostDirVolumePlugin",
    "allowHostIPC",
    "allowHostNetwork",
    "allowHostPID",
    "allowHostPorts",
    "allowPrivilegeEscalation",
    "allowPrivilegedContainer",
    "readOnlyRootFilesystem",
}
LISTS = {
    "allowedCapabilities",
    "defaultAddCapabilities",
    "requiredDropCapabilities",
    "seccompProfiles",
    "users",
    "volumes",
}
STRATEGIES = {
    "fsGroup": ("MustRunAs", "RunAsAny"),
    "runAsUser": ("MustRunAs", "MustRunAsNonRoot", "MustRunAsRange", "RunAsAny"),
    "seLinuxContext": ("MustRunAs", "RunAsAny"),
    "supplementalGroups": ("MustRunAs", "RunAsAny"),
}
OTHERS = {"apiVersion", "kind", "metadata", "priority"}


def wrong(text):
    """What is wrong with the constraints among these manifests, and with what they let in."""
    manifests = [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one is not None]
    constraints = [one for one in manifests if one["kind"] == KIND]
    problems = [f"{KIND} {one['metadata']['name']}: {what}" for one in constraints for what in malformed(one)]
    if problems:
        yield from problems
        return
    for workload in manifests:
        if workload["kind"] not in ("DaemonSet", "Deployment"):
            continue
        pod = workload["spec"]["template"]["spec"]
        user = f"system:serviceaccount:{workload['metadata']['namespace']}:{pod['serviceAccountName']}"
        its_own = [one for one in constraints if user in one.get("users", ())]
        if len(its_own) != 1:
            yield f"{workload['kind']} {workload['metadata']['name']}: {len(its_own)} {KIND} name {user}"
        for one in its_own:
            place = f"{KIND} {one['metadata']['name']}"
            yield from (f"{place}: {problem}" for problem in unfit(one, pod))


def malformed(constraints):
    """Where it is not what the API server takes."""
    if constraints["apiVersion"] != "security.openshift.io/v1":
        yield f"apiVersion {constraints['apiVersion']}"
    known = FLAGS | LISTS | STRATEGIES.keys() | OTHERS
    yield from (f"unknown field {name}" for name in sorted(constraints.keys() - known))
    yield from (f"{name} is missing" for name in sorted(known - constraints.keys()))
    for name in sorted(FLAGS & constraints.keys()):
        if not isinstance(constraints[name], bool):
            yield f"{name} is neither true nor false"
    for name in sorted(LISTS & constraints.keys()):
        if not isinstance(constraints[name], list) or not all(isinstance(x, str) for x in constraints[name]):
            yield f"{name} is no list of words"
    for name, types in STRATEGIES.items():
        if constraints.get(name, {}).get("type") not in types:
            yield f"{name}.type is none of {', '.join(types)}"


def unfit(constraints, pod):
    """Where it allows less than the pod asks for, or more."""
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    contexts = [{**pod.get("securityContext", {}), **one.get("securityContext", {})} for one in containers]
    ports = [port for one in containers for port in one.get("ports", ())]
    added = {name for one in contexts for name in one.get("capabilities", {}).get("add", ())}
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    if pod.get("automountServiceAccountToken", True):
        kinds.add("projected")
    asked = {
        "allowHostDirVolumePlugin": "hostPath" in kinds,
        "allowHostIPC": pod.get("hostIPC", False),
        "allowHostNetwork": pod.get("hostNetwork", False),
        "allowHostPID": pod.get("hostPID", False),
        # On the node's network, the API server makes each port one of the node's.
        "allowHostPorts": bool(ports) and pod.get("hostNetwork", False) or any("hostPort" in p for p in ports),
        "allowPrivilegeEscalation": any(one.get("allowPrivilegeEscalation", True) for one in contexts),
        "allowPrivilegedContainer": any(one.get("privileged", False) for one in contexts),
        "allowedCapabilities": added,
        "volumes": kinds,
    }
    for name, wanted in asked.items():
        given = set(constraints[name]) if isinstance(wanted, set) else constraints[name]
        if given != wanted:
            yield f"{name} is {given}, and the pod's is {wanted}"
    for one in contexts:
        if constraints["readOnlyRootFilesystem"] and not one.get("readOnlyRootFilesystem", False):
            yield "readOnlyRootFilesystem is asked of a container that writes to it"
        root = one.get("runAsUser") == 0 or not (one.get("runAsUser") or one.get("runAsNonRoot"))
        if root and constraints["runAsUser"]["type"] == "MustRunAsNonRoot":
            yield "runAsUser allows no root, and a container may be it"
        profile = one.get("seccompProfile", {}).get("type")
        if profile and not {"*", {"RuntimeDefault": "runtime/default"}.get(profile)} & set(
            constraints["seccompProfiles"]
        ):
            yield f"seccompProfiles does not have {profile}"
