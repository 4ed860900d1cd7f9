{{/*
Names. They are ceph-csi's, of its plain manifests, so that these objects take the
place of those in a running cluster. `fullnameOverride` puts a prefix before all of
them: a second driver in one cluster needs it, since some objects are cluster-wide.

Call: include "rbd-csi.name" (list . "csi-rbdplugin")
*/}}
{{- define "rbd-csi.name" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.fullnameOverride }}{{ $root.Values.fullnameOverride }}-{{ end }}{{ index . 1 }}
{{- end -}}

{{- define "rbd-csi.nodeplugin.account" -}}
{{- .Values.serviceAccounts.nodeplugin.name | default (include "rbd-csi.name" (list . "rbd-csi-nodeplugin")) -}}
{{- end -}}

{{- define "rbd-csi.provisioner.account" -}}
{{- .Values.serviceAccounts.provisioner.name | default (include "rbd-csi.name" (list . "rbd-csi-provisioner")) -}}
{{- end -}}

{{/* Call: include "rbd-csi.image" (list . .Values.nodeplugin.plugin.image) */}}
{{- define "rbd-csi.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}

