{{/* Values that render well and cannot work: said here instead of by pods that do not start. */}}
{{- define "rbd-csi.refuse" -}}
{{- if hasSuffix "cephcsi/cephcsi" .Values.nodeplugin.plugin.image.repository -}}
{{- fail "nodeplugin.plugin.image is ceph-csi's: leave `image` out of a values file of ceph-csi-rbd's" -}}
{{- end -}}
{{- range $key := list "app" "rbd-csi.part" -}}
{{- if hasKey $.Values.commonLabels $key -}}
{{- fail (printf "commonLabels cannot have the key %s: that label is the chart's own, by which its pods are found" $key) -}}
{{- end -}}
{{- end -}}
{{- $node := .Values.nodeplugin.httpMetrics -}}
{{- $controller := .Values.provisioner.httpMetrics -}}
{{- if and .Values.provisioner.enableHostNetwork $node.enabled $controller.enabled (eq (int $node.containerPort) (int $controller.containerPort)) -}}
{{- fail "provisioner.enableHostNetwork puts both plugins on the node's network: give provisioner.httpMetrics.containerPort another port than nodeplugin's" -}}
{{- end -}}
{{- end -}}
