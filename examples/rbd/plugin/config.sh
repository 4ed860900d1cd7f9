# shellcheck shell=bash
# Reads the config map ceph-csi-config without jq or Python: is its config.json JSON, which
# clusters are in it, with which monitors.
#
# What a reader gets wrong: kubectl is no judge of JSON. It falls back to YAML, which allows
# the comma before a closing bracket that the driver, as ceph-csi, does not.

# What kubectl reads in a file, as it will be applied; further arguments say what of it.
config_file() {
    local file=$1
    shift
    substitute <"$file" | kn create --dry-run=client --validate=false -f - "$@"
}

# The text of config.json: of the file $1 when that is given, else of the cluster's map. Nothing
# when there is none.
config_json() {
    local from=(kn get configmap "$CONFIG_MAP" --ignore-not-found)
    [[ -z ${1-} ]] || from=(config_file "$1")
    "${from[@]}" -o "jsonpath={.data.config\\.json}"
}

# Strings become @, other values #, and then each list or object of nothing but values one
# value, until nothing changes. A JSON text ends as one sign; what is left of another shows
# its mistake.
json_reduced() {
    local bare='-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null'
    local word="s/(^|[][{}:, ])($bare)([][{}:, ]|\$)/\\1#\\6/g"
    printf '%s' "$1" | tr '\t\r\n' '   ' | sed -E \
        -e 's/"([^"\\]|\\(["\\\/bfnrt]|u[0-9A-Fa-f]{4}))*"/""/g' \
        -e 's/[@#]/!/g' -e 's/""/@/g' \
        -e "$word" -e "$word" \
        -e 's/ //g' \
        -e ':again' \
        -e 's/\[([@#](,[@#])*)?\]/#/g' \
        -e 's/\{(@:[@#](,@:[@#])*)?\}/#/g' \
        -e 't again'
}

# What is wrong with a JSON text, in words; nothing when it is well.
json_fault() {
    local rest
    rest=$(json_reduced "$1")
    case "$rest" in
    @ | '#') ;;
    "") echo "it is empty" ;;
    *,\]* | *,\}*) echo "a comma stands before a closing bracket" ;;
    *\'*) echo "JSON has double quotes only" ;;
    *\"*) echo "a double quote is missing or too many" ;;
    *[@#][@#\{]* | *[@#]\[*) echo "a comma is missing between two values" ;;
    *) echo "a bracket, comma or quote is missing or too many" ;;
    esac
}

# A line for each cluster: "ID NETNS MONITOR…", NETNS being - when there is none. A
# config map carries the text to kubectl, since that reads objects only.
config_clusters() {
    printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"clusters":%s}' "$1" |
        k annotate --local -f - rbd-csi=x -o go-template='{{range .clusters}}{{.clusterID}} {{/*
            */}}{{with .rbd}}{{with .netNamespaceFilePath}}{{.}}{{else}}-{{end}}{{else}}-{{end}}{{/*
            */}}{{range .monitors}} {{.}}{{end}}{{"\n"}}{{end}}'
}

# "HOST PORT" for each address of a monitor, of "host", "host:port", "[ip6]:port" and
# "[v2:host:port/0,v1:host:port/0]".
monitor_addresses() {
    local word host port
    for word in $(printf '%s' "$1" | sed -E 's/^\[(v[12]:.*)\]$/\1/; s/,/ /g'); do
        word=${word#v[12]:}
        word=${word%/*}
        port=6789
        if [[ $word =~ ^(\[.*\]|[^:]*):([0-9]+)$ ]]; then
            host=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]}
        else
            host=$word
        fi
        host=${host#[}
        echo "${host%]} $port"
    done
}
