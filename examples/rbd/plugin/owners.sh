# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# Whose the objects are that stand where ours would, and who else serves the driver's name.
#
# What a reader gets wrong: nothing is known by an image's name, which each mirror changes,
# nor by an object's, which a Helm chart chooses: ours is what has our label on its pods, and
# a driver's name is what its arguments say, with their variables filled in.

# A container a line, of the workloads that `kubectl get` finds for the arguments:
# "NAMESPACE/NAME CONTAINER IMAGE PART DRIVER", with - where there is none.
programs() {
    local listed
    listed=$(k get "$@" -o go-template='{{range .items}}{{$o := .metadata}}{{$part := "-"}}{{/*
        */}}{{with .spec.template.metadata.labels}}{{$part = or (index . "'"$PART"'") "-"}}{{end}}{{/*
        */}}{{range .spec.template.spec.containers}}container {{$o.namespace}}/{{$o.name}} {{.name}} {{.image}} {{$part}}{{"\n"}}{{/*
        */}}{{range .env}}env {{.name}} {{printf "%q" (or .value "")}}{{"\n"}}{{end}}{{/*
        */}}{{range .command}}arg {{printf "%q" .}}{{"\n"}}{{end}}{{range .args}}arg {{printf "%q" .}}{{"\n"}}{{end}}{{end}}{{end}}') || return 1
    programs_read <<<"$listed"
}

# Reads what the template above writes. An argument gives the driver's name; without it the
# path that a registrar tells the kubelet does, and else ceph-csi's own name for --type=rbd.
# A variable from elsewhere, as a config map, leaves the name unknown.
programs_read() {
    awk '
        function filled(text) {
            while (match(text, /\$\([A-Za-z_][A-Za-z0-9_.-]*\)/)) {
                variable = substr(text, RSTART + 2, RLENGTH - 3)
                text = substr(text, 1, RSTART - 1) ((variable in env) ? env[variable] : "?") substr(text, RSTART + RLENGTH)
            }
            return text
        }
        function unquoted(text) { return substr(text, 2, length(text) - 2) }
        function ended() {
            if (head == "") return
            if (driver == "" && path != "") { path = filled(path); sub(/\/[^\/]*$/, "", path); sub(/.*\//, "", path); driver = path }
            if (driver == "" && rbd) driver = "rbd.csi.ceph.com"
            driver = filled(driver)
            print head, (driver == "" || driver ~ /\?/ ? "-" : driver)
        }
        $1 == "container" {
            ended(); head = $2 " " $3 " " $4 " " $5; driver = ""; path = ""; rbd = 0; named = 0; split("", env)
        }
        $1 == "env" { env[$2] = unquoted(substr($0, length($2) + 6)) }
        $1 == "arg" {
            arg = unquoted(substr($0, 5))
            if (named) { driver = arg; named = 0 }
            else if (arg ~ /^--?drivername$/) named = 1
            else if (sub(/^--?drivername=/, "", arg)) driver = arg
            else if (sub(/^--?kubelet-registration-path=/, "", arg)) path = arg
            else if (arg ~ /^--?type=rbd$/) rbd = 1
        }
        END { ended() }'
}

# "NAMESPACE/NAME" of node plugins of this driver name that are not where ours is.
runs_elsewhere() {
    local found
    found=$(programs daemonsets.apps --all-namespaces) || return 1
    awk -v here="$NAMESPACE/$DAEMONSET" -v driver="$DRIVER_NAME" '$5 == driver && $1 != here { print $1 }' <<<"$found" | sort -u
}

# The containers that stand where ours will.
programs_here() {
    local kind found all=""
    for kind in "deployments.apps $DEPLOYMENT" "daemonsets.apps $DAEMONSET"; do
        found=$(programs "${kind% *}" --namespace "$NAMESPACE" --field-selector "metadata.name=${kind#* }") || return 1
        all+=$found$'\n'
    done
    awk NF <<<"$all"
}

# Names of drivers that stand where ours will and are not the one that is meant.
other_drivers_here() {
    awk -v driver="$DRIVER_NAME" 'NF == 5 && $5 != "-" && $5 != driver { print $5 }' <<<"$1" | sort -u
}

# "NAME CONTAINER IMAGE" of what stands there and is not this program.
foreign_containers() { awk '$4 == "-" { sub(/^[^\/]*\//, "", $1); print $1, $2, $3 }' <<<"$1"; }

# Ready nodes whose kubelet knows the driver, though nothing stands where ours does: then
# somebody serves it from where nobody has looked, as a static pod for one.
served_by_unknown() {
    local ours nodes known node
    ours=$(kn get daemonsets.apps,pods -l "app=$DAEMONSET" -o name) || return 1
    [[ -z $ours ]] || return 0
    nodes=$(k get nodes -o go-template='{{range .items}}{{$n := .metadata.name}}{{range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$n}}{{"\n"}}{{end}}{{end}}{{end}}') || return 1
    known=$(knowing_nodes) || return 1
    for node in $known; do ! grep -qxF "$node" <<<"$nodes" || echo "$node"; done
}

# Kubelets need some seconds to notice that a driver has gone: waited for.
served_by_nobody() {
    local served
    served=$(served_by_unknown) && [[ -z $served ]]
}

# The kubelet's folder of what stands where ours does, if that is another than was said: there
# its volumes are.
other_kubelet_dir() {
    local folder
    folder=$(kn get daemonset "$DAEMONSET" --ignore-not-found \
        -o jsonpath='{.spec.template.spec.volumes[?(@.name=="registration-dir")].hostPath.path}') || return 1
    folder=${folder%/}
    folder=${folder%/plugins_registry}
    [[ $folder = "$KUBELET_DIR" ]] || echo "$folder"
}

# Nodes whose kubelet has registered the driver.
knowing_nodes() {
    k get csinodes -o go-template='{{range .items}}{{$n := .metadata.name}}{{range .spec.drivers}}{{if eq .name "'"$DRIVER_NAME"'"}}{{$n}}{{"\n"}}{{end}}{{end}}{{end}}'
}

# Namespaces other than ours for which the cluster roles of our names are bound: manifests
# applied here would take them away there.
bound_elsewhere() {
    kn get clusterrolebindings rbd-csi-nodeplugin rbd-csi-provisioner-role --ignore-not-found \
        -o go-template='{{if .items}}{{range .items}}{{range .subjects}}{{.namespace}}{{"\n"}}{{end}}{{end}}{{else}}{{range .subjects}}{{.namespace}}{{"\n"}}{{end}}{{end}}' |
        { grep -vx "$NAMESPACE" || true; } | sort -u
}

# Who made the DaemonSet or the CSIDriver and would make it again: a Helm release, an operator.
object_owner() {
    local object said
    for object in "daemonset/$DAEMONSET" "csidriver/$DRIVER_NAME"; do
        said=$(kn get "$object" --ignore-not-found -o go-template='{{with .metadata.annotations}}{{with index . "meta.helm.sh/release-name"}}Helm release {{.}}{{end}}{{end}}{{/*
            */}}{{range .metadata.ownerReferences}}{{.kind}} {{.name}}{{end}}') || return 1
        [[ -z $said ]] || { echo "$object belongs to $said" && return; }
    done
}
